"""The requester's machine with several origins: who decides, joins, leaves, and is asked."""

from __future__ import annotations

from random import Random
from typing import TypeVar

import pytest

from chunkq.errors import (
    ChunkqError,
    IntegrityError,
    NotFound,
    OtherVersion,
    PeerRefused,
    PeerSilent,
    SourceChanging,
)
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry, from_ranges
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.sharing import CHUNKS_PER_TWICE, most_twice
from chunkq.protocol.strikes import MAX_VERSIONS
from chunkq.protocol.transfer import Transfer
from chunkq.protocol.transfer_events import Phase, Resumed, Waiting
from chunkq.protocol.window import INITIAL_CHUNKS, INITIAL_RTO_S, Window

from .world import CHUNK, Version

E = TypeVar("E")
PATIENCE_S = 120.0


class Bench:
    """A transfer from several origins, its clock, and every effect it has wanted."""

    def __init__(
        self,
        chunks: int = 1000,
        *,
        origins: int = 2,
        resumed: Resumed | None = None,
        version: Version | None = None,
    ) -> None:
        self.source = version or Version(Random(1).randbytes(chunks * CHUNK))
        self.now = 100.0
        self.windows = [Window(512) for _ in range(origins)]
        self.effects: list[ev.Effect] = []
        self.transfer = Transfer(
            window=self.windows[0],
            mirrors=self.windows[1:],
            resumed=resumed,
            now=self.now,
            patience_s=PATIENCE_S,
        )
        self.feed(ev.Tick())

    def feed(self, *events: ev.Event, after_s: float = 0.0) -> list[ev.Effect]:
        """Feed these, some time later; the effects of all of them."""
        self.now += after_s
        effects: list[ev.Effect] = []
        for event in events:
            effects += self.transfer.handle(event, self.now)
        self.effects += effects
        return effects

    def last(self, kind: type[E], lane: int = 0) -> E:
        """The newest effect of this kind at this origin."""
        return next(
            effect
            for effect in reversed(self.effects)
            if isinstance(effect, kind) and getattr(effect, "lane", lane) == lane
        )

    def offer(self, lane: int, version: Version | None = None) -> list[ev.Effect]:
        """This origin's manifest comes."""
        head = (version or self.source).head
        return self.feed(ev.ManifestCame(self.last(ev.AskOpen, lane).token, head, lane))

    def refuse(self, lane: int, reason: RefusalReason, token: int | None = None) -> list[ev.Effect]:
        asked = self.last(ev.AskOpen, lane).token if token is None else token
        return self.feed(ev.Refused(asked, Refusal(reason=reason), lane))

    def give_pages(self) -> list[ev.Effect]:
        ask = next(each for each in reversed(self.effects) if isinstance(each, ev.AskPages))
        pages = from_ranges(ask.runs)
        return self.feed(
            *(ev.PageCame(ask.token, page, self.source.page(page), ask.lane) for page in pages)
        )

    def running(self) -> Bench:
        """Everybody has it, and the leaves are here."""
        for lane in range(len(self.windows)):
            self.offer(lane)
        self.feed(ev.Prepared())
        self.give_pages()
        assert self.transfer.phase is Phase.RUNNING
        return self

    def store(self, *asks: ev.AskChunks) -> list[ev.Effect]:
        """Every chunk of these requests lands and is stored."""
        effects = []
        for ask in asks:
            for index in from_ranges(ask.runs):
                effects += self.feed(
                    ev.ChunkLanded(index, ask.lane), ev.ChunkStored(index, ask.token, ask.lane)
                )
        return effects

    def left(self) -> dict[int, type[ChunkqError]]:
        lanes = self.transfer.lanes
        return {lane.number: type(lane.left) for lane in lanes if lane.left is not None}

    @property
    def error(self) -> ChunkqError | None:
        assert self.transfer.finished
        assert [0] * len(self.windows) == [window.outstanding for window in self.windows]
        return self.last(ev.Finish).error


def asked(effects: list[ev.Effect], lane: int) -> list[int]:
    """The chunks that these effects ask of this origin."""
    asks = [each for each in effects if isinstance(each, ev.AskChunks) and each.lane == lane]
    return [index for ask in asks for index in from_ranges(ask.runs)]


def opens(effects: list[ev.Effect]) -> list[int]:
    return [effect.lane for effect in effects if isinstance(effect, ev.AskOpen)]


def changed(version: Version) -> Version:
    return Version(b"new" + version.content[3:])


# ---------------------------------------------------------------- which version


def test_all_are_asked_to_open_at_once_and_the_first_decides() -> None:
    """Whoever else answers sooner is waited with, for the first one's timer at most."""
    bench = Bench()
    assert [0, 1] == opens(bench.effects)
    assert [] == bench.offer(1)
    assert bench.transfer.next_wake_s == 100.0 + INITIAL_RTO_S
    assert [ev.Prepare(bench.source.head)] == bench.offer(0)
    assert bench.transfer.signer.number == 0


def test_a_first_one_that_is_dead_is_not_waited_for() -> None:
    """After its timer the next one that has answered decides; the first is asked on."""
    bench = Bench()
    bench.offer(1)
    effects = bench.feed(ev.Tick(), after_s=INITIAL_RTO_S)
    assert [ev.Prepare(bench.source.head)] == effects
    assert bench.transfer.signer.number == 1
    bench.feed(ev.Prepared())
    assert [] == asked(bench.give_pages(), 0)
    assert opens(bench.effects) == [0, 1, 0]
    assert asked(bench.offer(0), 0) != []


def test_a_first_one_that_is_busy_is_hoped_for_as_long() -> None:
    """It says that it has no time for a minute: the timer goes on all the same."""
    bench = Bench()
    busy = Refusal(reason=RefusalReason.BUSY, retry_after_ms=60_000)
    bench.feed(ev.Refused(bench.last(ev.AskOpen, 0).token, busy, 0))
    assert [] == bench.offer(1)
    assert bench.transfer.next_wake_s == 100.0 + INITIAL_RTO_S
    assert [ev.Prepare(bench.source.head)] == bench.feed(ev.Tick(), after_s=INITIAL_RTO_S)


def test_another_version_than_the_first_ones_leaves() -> None:
    """Before it is decided, and after."""
    bench = Bench(origins=3)
    bench.offer(1, changed(bench.source))
    effects = bench.offer(0)
    assert [ev.OriginLeft, ev.Prepare] == [type(effect) for effect in effects]
    bench.feed(ev.Prepared())
    assert [ev.OriginLeft] == [type(each) for each in bench.offer(2, changed(bench.source))]
    assert {1: OtherVersion, 2: OtherVersion} == bench.left()
    bench.give_pages()
    assert INITIAL_CHUNKS == bench.windows[0].outstanding


def test_the_same_content_cut_otherwise_joins() -> None:
    """A request names the chunk size, so that origin cuts it anew."""
    bench = Bench(4)
    bench.offer(0)
    head = bench.source.head
    coarser = Geometry(head.geometry.size_bytes, 2 * CHUNK)
    same = Head(coarser, bytes(32), head.content_digest)
    bench.feed(ev.ManifestCame(bench.last(ev.AskOpen, 1).token, same, 1))
    assert ({}, True) == (bench.left(), bench.transfer.lanes[1].joined)


def test_one_that_hashes_is_not_waited_for() -> None:
    """`preparing` is no manifest; it joins when it has one."""
    bench = Bench()
    bench.refuse(0, RefusalReason.PREPARING)
    bench.offer(1)
    bench.feed(ev.Tick(), after_s=INITIAL_RTO_S)
    bench.feed(ev.Prepared())
    assert bench.transfer.waiting is None
    bench.give_pages()
    assert asked(bench.effects, 1) != []
    bench.feed(ev.Tick(), after_s=1.0)
    assert asked(bench.offer(0), 0) != []


def test_resumed_everybody_is_asked_without_a_manifest() -> None:
    """Requests name the version: whoever has another one says `stale`, and leaves."""
    version = Version(Random(1).randbytes(1000 * CHUNK))
    bench = Bench(
        version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(1000), lane=1)
    )
    assert [] == opens(bench.effects)
    effects = bench.give_pages()
    assert (INITIAL_CHUNKS, INITIAL_CHUNKS) == (len(asked(effects, 0)), len(asked(effects, 1)))
    effects = bench.refuse(1, RefusalReason.STALE, bench.last(ev.AskChunks, 1).token)
    assert ({1: OtherVersion}, Phase.RUNNING) == (bench.left(), bench.transfer.phase)


# ---------------------------------------------------------------- who leaves


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (RefusalReason.NOT_FOUND, NotFound),
        (RefusalReason.UNSUPPORTED, PeerRefused),
        (RefusalReason.STALE, OtherVersion),
    ],
)
def test_a_refusal_that_is_final_takes_one_out_and_the_others_go_on(
    reason: RefusalReason, error: type[ChunkqError]
) -> None:
    """What it was asked for is asked of the others; the leaving is told with its reason."""
    bench = Bench().running()
    mine = asked(bench.effects, 1)
    effects = bench.refuse(1, reason, bench.last(ev.AskChunks, 1).token)
    left = [each for each in effects if isinstance(each, ev.OriginLeft)]
    assert [(1, error)] == [(each.lane, type(each.error)) for each in left]
    assert (0, {1: error}) == (bench.windows[1].outstanding, bench.left())
    bench.store(bench.last(ev.AskChunks, 0))
    assert set(mine) <= set(asked(bench.effects[-20:], 0))


def test_one_that_lies_is_out_at_its_first_bad_chunk() -> None:
    """Under a valid seal nobody else can have made it: it costs what it delivered."""
    bench = Bench().running()
    bad = asked(bench.effects, 1)[0]
    bench.feed(ev.ChunkLanded(bad, 1))
    effects = bench.feed(ev.ChunkBad(bad, 1))
    assert {1: IntegrityError} == bench.left()
    bench.store(bench.last(ev.AskChunks, 0))
    assert bad in asked(bench.effects, 0)
    assert [] == asked(effects, 1)


def test_a_page_that_does_not_prove_takes_out_who_sent_it() -> None:
    """The others are asked for it."""
    bench = Bench()
    bench.offer(0)
    bench.offer(1)
    bench.feed(ev.Prepared())
    ask = next(each for each in bench.effects if isinstance(each, ev.AskPages))
    effects = bench.feed(ev.PageCame(ask.token, 0, bytes(512 * 32), ask.lane))
    assert {ask.lane: IntegrityError} == bench.left()
    again = [each for each in effects if isinstance(each, ev.AskPages)]
    assert [1 - ask.lane] == [each.lane for each in again]


def test_a_link_that_ends_for_good_takes_its_origin_out() -> None:
    """The driver says so; the last one's error ends it."""
    bench = Bench().running()
    bench.feed(ev.OriginBroken(0, PeerRefused("gone")))
    assert ({0: PeerRefused}, False) == (bench.left(), bench.transfer.finished)
    bench.feed(ev.OriginBroken(1, PeerRefused("gone, too")))
    assert isinstance(bench.error, PeerRefused)


def test_when_nobody_is_left_those_with_another_version_come_back() -> None:
    """The first lies; the second had another version, which then is the one: all in doubt."""
    bench = Bench()
    other = changed(bench.source)
    bench.offer(1, other)
    bench.offer(0)
    bench.feed(ev.Prepared())
    bench.give_pages()
    effects = bench.refuse(0, RefusalReason.NOT_FOUND, bench.last(ev.AskChunks, 0).token)
    assert [1] == opens(effects)
    assert [ev.Prepare(other.head)] == bench.offer(1, other)
    bench.feed(ev.Prepared())
    assert (Phase.RECOVERING, 1000) == (bench.transfer.phase, bench.transfer.doubtful.present)
    assert {0: NotFound} == bench.left()


def test_one_that_comes_back_has_not_been_silent_meanwhile() -> None:
    """Nothing was awaited of it for longer than the patience."""
    bench = Bench().running()
    bench.refuse(1, RefusalReason.STALE, bench.last(ev.AskChunks, 1).token)
    bench.now += 2 * PATIENCE_S
    bench.transfer.lanes[0].heard(bench.now)
    effects = bench.refuse(0, RefusalReason.NOT_FOUND, bench.last(ev.AskChunks, 0).token)
    assert ([1], False) == (opens(effects), bench.transfer.finished)


def test_all_that_leave_for_their_version_are_asked_again() -> None:
    """As with one: the source has changed, everywhere; sixteen times are enough."""
    bench = Bench()
    for _ in range(MAX_VERSIONS + 1):
        assert not bench.transfer.finished
        bench.offer(0)
        bench.offer(1)
        bench.feed(ev.Prepared())
        pages = next(each for each in reversed(bench.effects) if isinstance(each, ev.AskPages))
        bench.refuse(pages.lane, RefusalReason.STALE, pages.token)
        pages = next(each for each in reversed(bench.effects) if isinstance(each, ev.AskPages))
        bench.refuse(pages.lane, RefusalReason.STALE, pages.token)
        bench.source = Version(bytes((bench.transfer.version,)) + bench.source.content[1:])
    assert isinstance(bench.error, SourceChanging)


def test_an_error_that_may_pass_is_told_before_one_that_does_not() -> None:
    """A job whose one origin has lost the file and whose other was unreachable is tried again."""
    bench = Bench()
    bench.refuse(0, RefusalReason.NOT_FOUND)
    bench.feed(ev.OriginBroken(1, PeerSilent("gone")))
    assert isinstance(bench.error, PeerSilent)


def test_a_digest_that_was_signed_wrong_takes_its_signer_out() -> None:
    """Every leaf holds, the whole does not: the next manifest is taken, nothing asked again."""
    bench = Bench(4)
    head = bench.source.head
    lie = Head(head.geometry, head.page_digests, bytes(32))
    bench.feed(ev.ManifestCame(bench.last(ev.AskOpen, 0).token, lie, 0))
    bench.feed(ev.Prepared())
    bench.give_pages()
    bench.store(*[each for each in bench.effects if isinstance(each, ev.AskChunks)])
    for _ in range(20):
        if bench.left():
            break
        bench.feed(ev.ReadBackDone(False))
        bench.give_pages()
        bench.feed(ev.Rechecked((0, 1, 2, 3), ()))
    assert {0: IntegrityError} == bench.left()
    bench.offer(1)
    bench.feed(ev.Prepared())
    bench.give_pages()
    effects = bench.feed(ev.Rechecked((0, 1, 2, 3), ()))
    assert [] == asked(bench.effects, 1)
    assert [ev.ReadBack()] == effects


# ---------------------------------------------------------------- silence


def test_a_silent_one_costs_its_timer_and_is_asked_whether_it_is_there() -> None:
    """All it was asked for goes to the others at once, and nothing new until it is heard."""
    bench = Bench().running()
    held = asked(bench.effects, 1)
    bench.feed(ev.Tick(), after_s=INITIAL_RTO_S - 0.1)
    bench.store(bench.last(ev.AskChunks, 0))
    effects = bench.feed(ev.Tick(), after_s=0.1)
    assert [1] == opens(effects)
    assert ([], {}, 0) == (asked(effects, 1), bench.left(), bench.windows[1].outstanding)
    bench.now += 0.01
    effects = bench.store(bench.last(ev.AskChunks, 0))
    assert held == asked(effects, 0)[: len(held)]
    assert [] == asked(effects, 1)
    assert asked(bench.offer(1), 1) != []


def test_what_a_silent_one_was_asked_for_later_is_not_waited_for_either() -> None:
    """With the first overdue chunk everything under way there is given up."""
    bench = Bench().running()
    bench.windows[1]._limit = 16.0
    bench.feed(ev.Tick(), after_s=1.0)
    assert 16 == bench.windows[1].outstanding
    bench.store(bench.last(ev.AskChunks, 0))
    bench.feed(ev.Tick(), after_s=INITIAL_RTO_S - 1.0)
    assert (0, {}) == (bench.windows[1].outstanding, bench.left())


def test_silence_ends_it_only_when_all_are_silent() -> None:
    """One that delivers keeps it going, however long the other has been gone."""
    bench = Bench().running()
    while bench.now < 100.0 + 3 * PATIENCE_S:
        index, _ = next(bench.transfer.lanes[0].chunks.waiting_since())
        bench.feed(ev.ChunkLanded(index), ev.ChunkStored(index, None), after_s=1.0)
        if any(isinstance(effect, ev.Commit) for effect in bench.effects[-8:]):
            bench.feed(ev.Committed(Phase.RUNNING))
    assert (False, {}) == (bench.transfer.finished, bench.left())
    assert opens(bench.effects).count(1) < 20
    began = bench.now
    while not bench.transfer.finished:
        wake = bench.transfer.next_wake_s
        assert wake is not None
        assert wake > bench.now
        bench.now = wake
        if any(isinstance(each, ev.Commit) for each in bench.feed(ev.Tick())):
            bench.feed(ev.Committed(Phase.RUNNING))
    assert isinstance(bench.error, PeerSilent)
    assert began + PATIENCE_S <= bench.now <= began + PATIENCE_S + 1.0


def test_what_one_waits_for_is_not_what_the_transfer_waits_for() -> None:
    """A reason is told when there is nobody who has none."""
    bench = Bench().running()
    bench.feed(ev.AskFailed(bench.last(ev.AskChunks, 1).token, Waiting("busy"), 1))
    assert bench.transfer.waiting is None
    bench.feed(ev.AskFailed(bench.last(ev.AskChunks, 0).token, Waiting("broker_unreachable"), 0))
    assert Waiting("broker_unreachable") == bench.transfer.waiting


# ---------------------------------------------------------------- who is asked for what


def measure(bench: Bench, lane: int, rate: float, round_trip_s: float = 0.1) -> None:
    """This window has seen such a rate and round trip."""
    window = bench.windows[lane]
    window.rtt_min_s = window.rtt_smoothed_s = round_trip_s
    window._rates.append(rate)


def test_no_chunk_is_asked_of_two_while_there_is_another() -> None:
    """The requests of all origins together name each chunk once."""
    bench = Bench(10_000, origins=3).running()
    for _ in range(30):
        bench.store(*[each for each in bench.effects if isinstance(each, ev.AskChunks)][-3:])
        bench.now += 0.01
    chunks = [index for lane in range(3) for index in asked(bench.effects, lane)]
    assert len(chunks) == len(set(chunks))


def test_one_that_was_not_measured_gets_no_more_than_can_be_asked_twice() -> None:
    """Of a small file one chunk, until it has shown what it can."""
    bench = Bench(2 * CHUNKS_PER_TWICE).running()
    assert most_twice(2 * CHUNKS_PER_TWICE) == 2
    assert (INITIAL_CHUNKS, 2) == tuple(window.outstanding for window in bench.windows)


def test_near_the_end_a_slow_one_gets_only_what_it_brings_by_then() -> None:
    """Sixty chunks are left: at 100/s and 1/s, all of them are the fast one's."""
    version = Version(Random(1).randbytes(100 * CHUNK))
    present = Bitmap(100)
    present.fill(0, 40)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, present))
    bench.windows[1]._limit = 64.0
    measure(bench, 0, rate=1.0)
    measure(bench, 1, rate=100.0)
    effects = bench.give_pages()
    assert ([], 60) == (asked(effects, 0), len(asked(effects, 1)))


def test_what_came_of_late_counts_if_that_is_less_than_the_best() -> None:
    """A token bucket let a hundred a second pass at first; by now it is one."""
    version = Version(Random(1).randbytes(400 * CHUNK))
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(400)))
    bench.give_pages()
    for window in bench.windows:
        window._limit = 8.0
    for _ in range(40):
        for lane, times in ((0, 1), (1, 8)):
            for _ in range(times):
                index, _ = next(bench.transfer.lanes[lane].chunks.waiting_since())
                bench.feed(ev.ChunkLanded(index, lane), ev.ChunkStored(index, None, lane))
        bench.now += 1.0
        if any(isinstance(effect, ev.Commit) for effect in bench.effects[-8:]):
            bench.feed(ev.Committed(Phase.RUNNING))
    for lane in (0, 1):
        bench.windows[lane]._rates.clear()
        measure(bench, lane, rate=100.0)
    slow, fast = (bench.transfer.lanes[lane].pace[0] for lane in (0, 1))
    assert (True, True) == (0.9 < slow < 1.1, 7.5 < fast < 10.0)


def test_near_the_end_a_far_one_gets_nothing() -> None:
    """However fast it is: what it is asked for now comes later than all the rest."""
    version = Version(Random(1).randbytes(20 * CHUNK))
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(20)))
    measure(bench, 0, rate=200.0, round_trip_s=5.0)
    measure(bench, 1, rate=100.0)
    effects = bench.give_pages()
    assert ([], INITIAL_CHUNKS) == (asked(effects, 0), len(asked(effects, 1)))


def test_far_from_the_end_the_slow_one_is_asked_as_well() -> None:
    """As much as its window has room for."""
    version = Version(Random(1).randbytes(4000 * CHUNK))
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(4000)))
    measure(bench, 0, rate=1.0)
    measure(bench, 1, rate=100.0)
    assert INITIAL_CHUNKS == len(asked(bench.give_pages(), 0))


def at_the_end(chunks: int = 1000) -> Bench:
    """All is here but what the slow origin 0 (1/s) holds: its 4 chunks; origin 1 makes 100/s."""
    version = Version(Random(1).randbytes(chunks * CHUNK))
    present = Bitmap(chunks)
    present.fill(4, chunks - 4)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, present))
    pages = next(each for each in bench.effects if isinstance(each, ev.AskPages))
    bench.windows[1].outstanding = bench.windows[1].limit  # others have it
    bench.feed(*(ev.PageCame(pages.token, p, version.page(p), pages.lane) for p in (0,)))
    assert [0, 1, 2, 3] == asked(bench.effects, 0)
    bench.windows[1].outstanding = 0
    measure(bench, 0, rate=1.0, round_trip_s=1.0)
    measure(bench, 1, rate=100.0)
    return bench


def test_at_the_end_what_another_brings_clearly_sooner_is_asked_twice() -> None:
    """Once each, the latest first; whichever comes first counts."""
    bench = at_the_end()
    effects = bench.feed(ev.Tick())
    assert [0, 1, 2, 3] == asked(effects, 1)
    assert [] == bench.feed(ev.Tick(), after_s=0.05)
    bench.store(bench.last(ev.AskChunks, 1))
    assert bench.transfer.bitmap.complete
    assert [0, 0] == [window.outstanding for window in bench.windows]


def test_at_the_end_at_most_two_in_a_hundred_are_asked_twice() -> None:
    """Of a hundred chunks two: those that would come last."""
    bench = at_the_end(100)
    assert [2, 3] == asked(bench.feed(ev.Tick()), 1)
    assert [] == bench.feed(ev.Tick(), after_s=0.05)


def test_what_is_promised_as_soon_is_not_asked_twice() -> None:
    """Not sooner, not asked; but when it has become late."""
    bench = at_the_end()
    measure(bench, 0, rate=90.0)
    bench.windows[0]._rates.clear()
    bench.windows[0]._rates.append(90.0)
    assert [] == asked(bench.feed(ev.Tick()), 1)
    wake = bench.transfer.next_wake_s
    assert wake is not None
    assert wake < bench.now + 1.0
    assert [0, 1, 2, 3] == asked(bench.feed(ev.Tick(), after_s=wake - bench.now), 1)


def test_a_reply_after_its_chunk_was_given_to_another_counts() -> None:
    """Late from the one that was given up: stored, and the other's is no longer awaited."""
    bench = Bench().running()
    index = asked(bench.effects, 1)[0]
    token = bench.last(ev.AskChunks, 1).token
    bench.feed(ev.AskFailed(token, Waiting("busy"), 1))
    bench.store(bench.last(ev.AskChunks, 0))
    assert index in asked(bench.effects, 0)
    assert index in bench.transfer.lanes[0].chunks
    bench.feed(ev.ChunkLanded(index, 1), ev.ChunkStored(index, token, 1))
    assert (True, False) == (
        index in bench.transfer.bitmap,
        index in bench.transfer.lanes[0].chunks,
    )
