"""When packing pays: the rules alone, with made-up links and contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.protocol.compression import (
    COST_FACTOR,
    MAX_GAP_S,
    MAX_PASSED,
    MAX_PASSED_DEAR,
    STALE_BYTES,
    Appetite,
    Choice,
    Pace,
    Sample,
    Trials,
)
from chunkq.protocol.limits import KIB
from chunkq.protocol.packing import CAREFUL_LEVEL, FAST_LEVEL

CHUNK = 256 * KIB
#: Kinds of content: what is left of a byte, and the seconds that packing one takes.
TEXT = (0.3, 0.7e-3 / CHUNK)
RANDOM = (1.0, 36e-6 / CHUNK)
MEGABIT = 125_000


@dataclass
class Origin:
    """An origin that sends chunks of some content over some link, as the rules say.

    The link takes `bytes_per_s`; packing takes its CPU seconds before that, `threads` at once.
    """

    bytes_per_s: float
    threads: int = 1
    now_s: float = 100.0
    pace: Pace = field(default_factory=Pace)
    choices: list[Choice] = field(default_factory=list)
    sent_bytes: int = 0

    def file(self) -> Trials:
        return Trials(self.pace)

    def send(self, trials: Trials, content: tuple[float, float], of: object = "file") -> Choice:
        """One chunk."""
        choice = trials.choose()
        size, packing_s = CHUNK, 0.0
        if choice is Choice.TRY:
            packing_s += (trial := self._sample(64 * KIB, content)).took_s
            choice = Choice.PACK if trials.learn(trial) else Choice.TRY
        if choice is Choice.PACK:
            sample = self._sample(CHUNK, content)
            packing_s += sample.took_s
            trials.learn(sample)
            size = sample.packed_bytes if sample.small_enough else CHUNK
        self.choices.append(choice)
        self.pace.worked(packing_s)
        self.now_s += packing_s / self.threads + size / self.bytes_per_s
        self.pace.sent(of, size, self.now_s)
        self.sent_bytes += size
        return choice

    def _sample(self, size: int, content: tuple[float, float]) -> Sample:
        return Sample(size, round(content[0] * size), content[1] * size)

    def share(self, choice: Choice, last: int) -> float:
        """How many of the last chunks it was."""
        return self.choices[-last:].count(choice) / last


# ---------------------------------------------------------------- what pays


@pytest.mark.parametrize("megabits", [0.1, 2, 10, 100, 500])
def test_text_over_a_slow_link_is_packed(megabits: float) -> None:
    """Every chunk, from the first."""
    origin = Origin(megabits * MEGABIT)
    trials = origin.file()
    for _ in range(200):
        origin.send(trials, TEXT)
    assert {Choice.PACK} == set(origin.choices)


def test_text_over_a_fast_link_is_not() -> None:
    """At 1 GB/s a chunk of text would be late by what packing takes; the link is known soon."""
    origin = Origin(1e9)
    trials = origin.file()
    for _ in range(1000):
        origin.send(trials, TEXT)
    assert origin.choices[:32].count(Choice.PACK) <= 8
    assert 0 == origin.share(Choice.PACK, 900)


def test_the_rule_is_seconds_saved_over_seconds_spent() -> None:
    """A link a tenth slower than where both are equal has its text packed, a faster one not."""
    saved_bytes = CHUNK - round(TEXT[0] * CHUNK)
    even = saved_bytes / (COST_FACTOR * TEXT[1] * CHUNK)
    for factor, packed in ((0.9, True), (1.1, False)):
        pace = Pace()
        for number in range(40):
            pace.sent("file", CHUNK, number * CHUNK / (even * factor))
        trials = Trials(pace)
        sample = Sample(CHUNK, CHUNK - saved_bytes, TEXT[1] * CHUNK)
        assert packed is trials.learn(sample)


@pytest.mark.parametrize("megabits", [1, 1000, 8000])
def test_random_bytes_are_left_alone_on_any_link(megabits: float) -> None:
    """1 of 2, 4, 8, 16 and then 32 chunks is tried, and never more than that chunk's middle."""
    origin = Origin(megabits * MEGABIT)
    trials = origin.file()
    for _ in range(1600):
        origin.send(trials, RANDOM)
    tried = [number for number, each in enumerate(origin.choices) if each is not Choice.PASS]
    apart = [later - earlier for earlier, later in pairwise(tried)]
    assert sorted(apart) == apart
    assert MAX_PASSED + 1 == apart[-1]
    assert origin.choices.count(Choice.PACK) <= 1
    assert 1600 * CHUNK == origin.sent_bytes


def test_a_saving_under_5_percent_is_none() -> None:
    """On however slow a link: the requester would unpack for nothing."""
    origin = Origin(MEGABIT / 100)
    trials = origin.file()
    for _ in range(100):
        origin.send(trials, (0.96, RANDOM[1]))
    assert 100 * CHUNK == origin.sent_bytes
    assert origin.choices.count(Choice.PACK) <= 1


def test_a_disk_image_is_packed_where_it_can_be() -> None:
    """Text between stretches of random bytes is found within 32 chunks."""
    origin = Origin(10 * MEGABIT)
    trials = origin.file()
    for number in range(1000):
        origin.send(trials, TEXT if number // 100 % 2 else RANDOM)
    text = [each for number, each in enumerate(origin.choices) if number // 100 % 2]
    assert text.count(Choice.PACK) >= 5 * (100 - MAX_PASSED - 1)
    assert origin.choices.count(Choice.PACK) <= len(text) + 10


# ---------------------------------------------------------------- what the link is


def test_a_link_that_becomes_slow_or_fast_is_noticed() -> None:
    """Without a new trial: what the text saved last is known."""
    origin = Origin(1e9)
    trials = origin.file()
    for speed, packed in ((1e9, 0.0), (MEGABIT, 1.0), (20e9, 0.0)):
        origin.bytes_per_s = speed
        for _ in range(2000):
            origin.send(trials, TEXT)
        assert packed == pytest.approx(origin.share(Choice.PACK, 300), abs=0.02), speed


def test_a_link_as_fast_as_packing_gains() -> None:
    """1 Gbit/s and text: packing takes nearly all of the time and still halves it."""
    packed, plain = Origin(1000 * MEGABIT, threads=2), Origin(1000 * MEGABIT)
    trials = packed.file()
    for number in range(4000):
        packed.send(trials, TEXT)
        plain.send(plain.file(), RANDOM, of=number)
    assert packed.now_s - 100 < 0.7 * (plain.now_s - 100)


def test_what_packing_takes_is_not_taken_for_the_link() -> None:
    """A link that takes everything at once is not slow because everybody waits for the packing."""
    origin = Origin(1e15)
    trials = origin.file()
    for _ in range(int(2 * STALE_BYTES / CHUNK / TEXT[0])):
        origin.send(trials, TEXT)
    assert origin.choices.count(Choice.PACK) < 10


def test_silence_between_two_files_is_not_the_link() -> None:
    """Nobody asked: the link is as fast as it was."""
    origin = Origin(1e9)
    for number in range(40):
        trials = origin.file()
        for _ in range(8):
            origin.send(trials, TEXT, of=number)
        origin.now_s += 30
    assert 0 == origin.share(Choice.PACK, 200)


def test_silence_within_a_file_is_the_link() -> None:
    """A window of 4 MiB at a round trip of 5 s: each burst is taken at once, and text is packed."""
    origin = Origin(1e9)
    trials = origin.file()
    for number in range(640):
        if number % 16 == 0:
            origin.now_s += 5
        origin.send(trials, TEXT)
    assert origin.share(Choice.PACK, 600) > 0.99


def test_files_that_take_turns_are_measured() -> None:
    """Eight at once, each chunk of another than the one before."""
    origin = Origin(1e9)
    files = [(number, origin.file()) for number in range(8)]
    for _ in range(100):
        for number, trials in files:
            origin.send(trials, TEXT, of=number)
    assert 0 == origin.share(Choice.PACK, 700)


def test_a_long_silence_is_forgotten_soon() -> None:
    """A requester whose disk was full for an hour has not got a slow link for ever."""
    origin = Origin(1e9)
    trials = origin.file()
    for _ in range(100):
        origin.send(trials, TEXT)
    origin.now_s += 3600
    for _ in range(1000):
        origin.send(trials, TEXT)
    assert MAX_GAP_S < 3600
    assert 0 == origin.share(Choice.PACK, 100)


def test_nothing_is_said_of_a_link_after_a_few_bytes() -> None:
    """Small files, each alone: none says how fast the link is."""
    pace = Pace()
    for number in range(100):
        pace.sent(number, 4 * KIB, float(number))
    pace.sent(99, 4 * KIB, 100.0)
    assert pace.seconds_per_byte is None


# ---------------------------------------------------------------- who waits for whom


def landing(busy_s: float, of_s: float) -> Appetite:
    """A requester that is at work for `busy_s` of each `of_s`, after 10 s of it."""
    appetite, now_s = Appetite(), 100.0
    while now_s < 110:
        appetite.backlog(1000, now_s)
        appetite.backlog(0, now_s + busy_s)
        appetite.starving(now_s)
        now_s += of_s
    return appetite


@pytest.mark.parametrize(
    ("busy_s", "of_s", "starving"),
    [
        pytest.param(0.001, 0.1, True, id="slow-link"),
        pytest.param(0.001, 0.002, True, id="half-busy"),
        pytest.param(0.0009, 0.001, False, id="slow-disk"),
        pytest.param(0.0, 5.0, True, id="nothing-came"),
    ],
)
def test_a_requester_that_is_busy_itself_wants_nothing_packed(
    busy_s: float, of_s: float, starving: bool
) -> None:
    """Its link would not be what it waits for."""
    assert starving is landing(busy_s, of_s).starving(110.0)


def test_a_requester_is_taken_for_starving_at_first() -> None:
    """Before anything came; and until a look was long enough the last answer holds."""
    appetite = Appetite()
    assert appetite.starving(100.0)
    appetite.backlog(1, 100.0)
    assert appetite.starving(100.2)
    assert not appetite.starving(100.3)
    assert not appetite.starving(100.5)


# ---------------------------------------------------------------- how hard


@pytest.mark.parametrize(
    ("bytes_per_s", "level"), [(MEGABIT, CAREFUL_LEVEL), (100e6, FAST_LEVEL), (1e9, FAST_LEVEL)]
)
def test_slow_links_are_worth_more_care(bytes_per_s: float, level: int) -> None:
    """Level 3 where the link's time is twenty times the CPU's."""
    origin = Origin(bytes_per_s)
    trials = origin.file()
    assert FAST_LEVEL == trials.level
    for _ in range(20):
        origin.send(trials, TEXT)
    assert level == trials.level


# ---------------------------------------------------------------- whatever comes

PIECE = st.tuples(st.floats(0.0, 1.2), st.floats(0.0, 1e-6), st.floats(1.0, 1e12))


@given(st.lists(st.tuples(PIECE, st.integers(0, 3), st.floats(-10, 1e4)), max_size=80))
def test_any_content_link_and_clock(steps: list[tuple[tuple[float, ...], int, float]]) -> None:
    """No division by nothing, no negative pace, and never more chunks untried than allowed."""
    origin = Origin(1.0)
    files = [origin.file() for _ in range(4)]
    passed = [0] * 4
    for (left, cpu, speed), which, pause in steps:
        origin.bytes_per_s = speed
        origin.now_s += pause
        choice = origin.send(files[which], (left, cpu), of=which)
        passed[which] = passed[which] + 1 if choice is Choice.PASS else 0
        assert passed[which] <= MAX_PASSED_DEAR
        assert (origin.pace.seconds_per_byte or 0.0) >= 0
