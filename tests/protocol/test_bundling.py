"""The machine for small files: whole lists of effects, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from chunkq.errors import BrokerUnreachable, NotFound, PeerSilent, SyncFailed
from chunkq.protocol import bundling_events as ev
from chunkq.protocol.bundle import OVERHEAD_SIZE_BYTES, RECORD_SIZE_BYTES
from chunkq.protocol.bundling import (
    FIRST_BUNDLE_BYTES,
    LEAST_BUNDLE_BYTES,
    MAX_OLD_ASKS,
    Bundling,
    is_small,
)
from chunkq.protocol.bundling_events import Small
from chunkq.protocol.limits import MAX_FILES_PER_REQUEST, MAX_NAMES_SIZE_BYTES
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.transfer_events import Waiting
from chunkq.protocol.window import INITIAL_CHUNKS, INITIAL_RTO_S, Window

MIB = 1 << 20
PATIENCE_S = 60.0


class Run:
    """A machine, its clock, and what it has asked for."""

    def __init__(self, largest_bytes: int = MIB, patience_s: float = PATIENCE_S) -> None:
        self.now = 0.0
        self.window = Window(64)
        self.machine = Bundling(
            window=self.window, largest_bytes=largest_bytes, patience_s=patience_s, now=0.0
        )

    def __call__(self, event: ev.Event) -> list[ev.Effect]:
        return self.machine.handle(event, self.now)

    def wake(self) -> list[ev.Effect]:
        """Let the time pass until the machine wants to be woken."""
        wake = self.machine.next_wake_s
        assert wake is not None
        self.now = max(self.now, wake)
        return self(ev.Tick())

    def offer(self, files: list[Small], *, end: bool = True) -> list[ev.Ask]:
        """All there will be, unless there is more; the requests that come of it."""
        effects = self(ev.Offered(tuple(files)))
        return asks(effects + (self(ev.WalkEnded()) if end else []))

    def answer(self, ask: ev.Ask, *indices: int) -> list[ev.Effect]:
        """The bundle with these files (all, if none is said), to be placed."""
        self(ev.Landed(ask.token))
        good = indices or tuple(range(len(ask.files)))
        return self(ev.Opened(ask.token, good, (), ()))

    def settle(self, ask: ev.Ask, *indices: int) -> list[ev.Effect]:
        good = indices or tuple(range(len(ask.files)))
        return self(ev.Settled(ask.token, tuple(ask.files[index] for index in good)))


def small(number: int, size: int = 4096, directory: str = "d") -> Small:
    return Small(directory, ("here", f"f{number:05d}"), size)


def some(count: int, size: int = 4096) -> list[Small]:
    return [small(number, size) for number in range(count)]


def asks(effects: list[ev.Effect]) -> list[ev.Ask]:
    return [effect for effect in effects if isinstance(effect, ev.Ask)]


def test_one_request_for_few_files() -> None:
    """Asked, placed, settled, finished: nothing else happens."""
    run, files = Run(), some(3)

    assert [] == run(ev.Tick())
    assert [ev.Ask(1, tuple(files))] == run(ev.Offered(tuple(files)))
    assert [] == run(ev.WalkEnded())
    assert [] == run(ev.Landed(1))
    assert [ev.Place(1, (0, 1, 2))] == run(ev.Opened(1, (0, 1, 2), (), ()))
    assert [] == run(ev.Settled(1, tuple(files[:2])))
    assert [ev.Finish(None)] == run(ev.Settled(1, (files[2],)))
    assert run.machine.finished
    assert 0 == run.window.outstanding


def test_an_empty_tree_ends_at_once() -> None:
    """No file, no request."""
    assert [ev.Finish(None)] == Run()(ev.WalkEnded())


def test_requests_are_as_large_as_a_bundle() -> None:
    """Content and records count; the window bounds how many there are at first."""
    run, files = Run(), some(1000)

    asked = run.offer(files)

    per = (FIRST_BUNDLE_BYTES - OVERHEAD_SIZE_BYTES) // (4096 + RECORD_SIZE_BYTES)
    assert [per] * INITIAL_CHUNKS == [len(ask.files) for ask in asked]
    assert files[: per * INITIAL_CHUNKS] == [file for ask in asked for file in ask.files]


def test_names_and_numbers_bound_a_request_too() -> None:
    """Empty files with long names fit into a request all the same."""
    run = Run()
    many = run.offer(some(MAX_FILES_PER_REQUEST + 1, size=0))
    assert [MAX_FILES_PER_REQUEST, 1] == [len(ask.files) for ask in many]

    long = [Small("p" * 4000, (f"{n:04d}" + "ü" * 120,), 0) for n in range(1000)]
    for ask in Run().offer(long):
        names = sum(len(file.name.encode()) for file in ask.files)
        assert names + 4000 <= MAX_NAMES_SIZE_BYTES
        assert 100 < len(ask.files) < 200


def test_a_file_larger_than_the_bundles_of_now_goes_by_itself() -> None:
    """Bundles shrink on a slow link, and the file must still come."""
    run = Run()
    asked = run.offer([small(0, 200_000), small(1, 200_000), small(2, 10)])

    assert [1, 2] == [len(ask.files) for ask in asked]


@pytest.mark.parametrize(
    ("size", "largest", "expected"),
    [
        (262_144, MIB, True),
        (262_145, MIB, False),
        (4096, 4096, False),
        (4096 - OVERHEAD_SIZE_BYTES - RECORD_SIZE_BYTES, 4096, True),
    ],
)
def test_what_is_small(size: int, largest: int, expected: bool) -> None:
    """Up to 256 KiB, and no more than the link carries with what stands around it."""
    assert expected is is_small(size, largest)


def test_little_is_asked_for_only_when_little_is_under_way() -> None:
    """While the walk goes on, a third request waits until it is worth one."""
    run = Run()
    first = run.offer(some(1), end=False)
    second = run.offer([small(1)], end=False)
    third = run.offer([small(2)], end=False)

    assert [1, 1, 0] == [len(first), len(second), len(third)]
    assert 1 == run.machine.queued
    run.answer(first[0])
    assert [(small(2).name,)] == [
        tuple(file.name for file in ask.files) for ask in asks(run.settle(first[0]))
    ]


def test_bundles_grow_on_a_quick_link_up_to_the_largest() -> None:
    """Twice as much after each full one that was placed at once; never above what is carried."""
    run = Run(largest_bytes=600_000)
    asked = run.offer(some(3000))
    sizes = []
    while asked:
        ask = asked.pop(0)
        sizes.append(sum(file.size_bytes for file in ask.files))
        run.now += 0.01
        run.answer(ask)
        asked += asks(run.settle(ask))

    assert 500_000 < max(sizes) < 600_000
    assert sizes[-2] == max(sizes)
    assert run.machine.finished


def test_bundles_do_not_grow_on_a_slow_link() -> None:
    """Each answer takes a second longer than the one before: there is a queue already."""
    run = Run()
    asked = run.offer(some(600))
    sizes = set()
    while asked:
        ask = asked.pop(0)
        sizes.add(len(ask.files))
        run.now += 0.9
        run.answer(ask)
        asked += asks(run.settle(ask))

    per = (FIRST_BUNDLE_BYTES - OVERHEAD_SIZE_BYTES) // (4096 + RECORD_SIZE_BYTES)
    assert max(sizes) == per


def test_silence_asks_again_with_smaller_bundles_and_ever_later() -> None:
    """3 s, then 6, then 12; down to a least size."""
    run, files = Run(), some(60)
    (first,) = run.offer(files)
    (second, *_) = asks(run.wake())
    assert INITIAL_RTO_S == run.now
    assert len(second.files) < len(first.files)
    run.wake()
    assert INITIAL_RTO_S * 3 == run.now
    sizes = [ask.files for ask in asks(run.wake())]
    assert INITIAL_RTO_S * 7 == run.now

    assert sum(file.size_bytes for file in sizes[0]) <= LEAST_BUNDLE_BYTES
    assert run.machine.waiting is not None
    assert "peer_silent" == run.machine.waiting.reason


def test_a_late_answer_is_taken() -> None:
    """Where the round trip is longer than the timer, every answer is late."""
    run, files = Run(), some(10)
    (first,) = run.offer(files)
    (second,) = asks(run.wake())

    assert [ev.Place(first.token, tuple(range(10)))] == run.answer(first)
    assert [ev.Finish(None)] == run.settle(first)
    assert second.files == tuple(files)
    assert 0 == run.window.outstanding


def test_the_answer_to_what_was_asked_twice_is_placed_once() -> None:
    """The second bundle with a file finds nothing to do, while it is placed and afterwards."""
    run = Run()
    (first,) = run.offer(some(2))
    (second,) = asks(run.wake())
    run.answer(first)

    assert [] == run.answer(second)
    assert [ev.Finish(None)] == run.settle(first)


def test_the_timer_rests_while_a_bundle_is_being_opened() -> None:
    """What has landed only needs our machine; the rest of the request has its full time again."""
    run = Run()
    (ask,) = run.offer(some(2))
    run.now = 2.0
    run(ev.Landed(ask.token))
    assert run.machine.next_wake_s is None
    run.now = 100.0

    assert [ev.Place(1, (0,))] == run(ev.Opened(1, (0,), (), ()))
    assert [] == run.settle(ask, 0)


def test_patience_ends_it() -> None:
    """Nothing is heard for a minute: the peer is silent."""
    run = Run()
    run.offer(some(1))
    effects: list[ev.Effect] = []
    while not run.machine.finished:
        effects = run.wake()

    assert [PeerSilent] == [type(e.error) for e in effects if isinstance(e, ev.Finish)]
    assert PATIENCE_S == run.now
    assert 0 == run.window.outstanding


def test_a_carrier_that_takes_nothing() -> None:
    """The request is made anew after a while, and the end says whose fault it is."""
    run = Run()
    (ask,) = run.offer(some(1))
    trouble = Waiting("broker_unreachable", "no connection")

    assert [] == run(ev.AskFailed(ask.token, trouble))
    assert trouble == run.machine.waiting
    (again,) = asks(run.wake())
    assert 1.0 == run.now
    effects: list[ev.Effect] = run(ev.AskFailed(again.token, trouble))
    while not run.machine.finished:
        effects = run.wake()
        for each in asks(effects):
            effects = run(ev.AskFailed(each.token, trouble))
    assert isinstance(effects[-1], ev.Finish)
    assert isinstance(effects[-1].error, BrokerUnreachable)


def test_files_that_cannot_be_in_a_bundle() -> None:
    """Missing: it fails by itself. Grown, or another kind of share: alone. Busy: once more."""
    run, files = Run(), some(4)
    run.offer(files)
    run(ev.Landed(1))
    reasons = [RefusalReason.NOT_FOUND, RefusalReason.TOO_LARGE, RefusalReason.UNSUPPORTED]
    refused = (*enumerate(reasons), (3, RefusalReason.BUSY))

    missing, grown, other, again = run(ev.Opened(1, (), (), tuple(refused)))

    assert isinstance(missing, ev.Fail)
    assert (files[0], NotFound) == (missing.file, type(missing.error))
    assert [ev.GoAlone((files[1],)), ev.GoAlone((files[2],))] == [grown, other]
    assert ev.Ask(2, (files[3],)) == again
    run(ev.Landed(2))
    busy = ((0, RefusalReason.BUSY),)
    assert [ev.GoAlone((files[3],)), ev.Finish(None)] == run(ev.Opened(2, (), (), busy))


def test_bad_content_is_asked_for_once_more() -> None:
    """Then it goes alone, where every chunk is compared; its neighbours are placed."""
    run, files = Run(), some(2)
    run.offer(files)
    run(ev.Landed(1))
    assert [ev.Place(1, (0,)), ev.Ask(2, (files[1],))] == run(ev.Opened(1, (0,), (1,), ()))
    run(ev.Settled(1, (files[0],)))
    run(ev.Landed(2))

    assert [ev.GoAlone((files[1],)), ev.Finish(None)] == run(ev.Opened(2, (), (0,), ()))


def test_a_spoiled_bundle_is_asked_for_once_more() -> None:
    """A signature that does not hold, an index that was not asked for: the same."""
    run, files = Run(), some(2)
    run.offer(files)
    run(ev.Landed(1))
    assert [ev.Ask(2, tuple(files))] == run(ev.Spoiled(1))
    run(ev.Landed(2))

    effects = run(ev.Spoiled(2))
    alone = [file for each in effects if isinstance(each, ev.GoAlone) for file in each.files]
    assert files == alone
    assert ev.Finish(None) == effects[-1]


def test_a_request_that_is_refused_for_good() -> None:
    """Each file goes alone, and is told why there."""
    run, files = Run(), some(2)
    run.offer(files)
    refusal = Refusal(reason=RefusalReason.UNSUPPORTED)

    assert [ev.GoAlone(tuple(files)), ev.Finish(None)] == run(ev.Refused(1, refusal))


def test_a_busy_origin_is_asked_again_when_it_says() -> None:
    """Not before, and the wait is told."""
    run, files = Run(), some(2)
    run.offer(files)
    refusal = Refusal(reason=RefusalReason.BUSY, detail="slowly", retry_after_ms=5000)

    assert [] == run(ev.Refused(1, refusal))
    assert Waiting("busy", "slowly") == run.machine.waiting
    assert [ev.Ask(2, tuple(files))] == run.wake()
    assert 5.0 == run.now


def test_a_full_disk_pauses_it() -> None:
    """Nothing is asked for until there is room; then what was returned comes again."""
    run, files = Run(), some(2)
    (ask,) = run.offer(files)
    run.answer(ask)
    assert [] == run(ev.SpaceGone("no room"))
    assert [] == run(ev.Returned(1, tuple(files)))
    assert Waiting("disk_full", "no room") == run.machine.waiting
    assert run.machine.next_wake_s is None
    run.now = 1000.0

    assert [ev.Ask(2, tuple(files))] == run(ev.SpaceBack())
    assert run.machine.waiting is None


def test_a_sync_that_fails_again_and_again() -> None:
    """Fetched anew twice; the third time the file fails, and only that one."""
    run, files = Run(), some(1)
    (ask,) = run.offer(files)
    error = SyncFailed("no")
    for _ in range(2):
        run.answer(ask)
        (ask,) = asks(run(ev.Returned(ask.token, ask.files, error)))
    run.answer(ask)

    effects = run(ev.Returned(ask.token, ask.files, error))
    assert [ev.Fail(files[0], error), ev.Finish(None)] == effects


def test_old_requests_are_forgotten() -> None:
    """Their number is bounded, and an answer to a forgotten one has no effect."""
    run = Run(patience_s=6000.0)
    (first,) = run.offer(some(1))
    token = first.token
    while token <= MAX_OLD_ASKS + 1:
        assert first.files == run.machine.files_of(first.token)
        run(ev.Landed(first.token))  # not silent: only slow
        run(ev.Opened(first.token, (), (), ()))
        token = max([token, *(ask.token for ask in asks(run.wake()))])

    assert () == run.machine.files_of(first.token)
    assert not run.machine.finished
    assert [] == run(ev.Opened(first.token, (0,), (), ()))


class Chaos:
    """Lost, late, repeated, spoiled, bad and refused answers, and full disks, from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance, self.run = Random(seed), Run(patience_s=6000.0)
        self.files = [small(n, self.chance.randrange(100_000), f"d{n // 7}") for n in range(300)]
        #: How often each file came to its end.
        self.settled: dict[Small, int] = dict.fromkeys(self.files, 0)
        self.on_the_way: list[ev.Ask] = []
        self.placing: list[tuple[int, tuple[Small, ...]]] = []
        self.errors: list[object] = []

    def go(self) -> None:
        """Until it is finished, or far too long."""
        for at in range(0, len(self.files), 50):
            self.perform(self.run(ev.Offered(tuple(self.files[at : at + 50]))))
        self.perform(self.run(ev.WalkEnded()))
        for _ in range(20_000):
            if self.run.machine.finished:
                return
            self.run.now += self.chance.random() * 0.2
            steps = [self.tick]
            steps += [self.answer] if self.on_the_way else []
            steps += [self.place] if self.placing else []
            self.chance.choice(steps)()

    def perform(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            match effect:
                case ev.Ask():
                    self.on_the_way.append(effect)
                case ev.Place(token, indices):
                    asked = self.run.machine.files_of(token)
                    self.placing.append((token, tuple(asked[index] for index in indices)))
                case ev.GoAlone(files):
                    self.count(files)
                case ev.Fail(file, _):
                    self.count((file,))
                case ev.Finish(error):
                    self.errors.append(error)

    def count(self, files: tuple[Small, ...]) -> None:
        for file in files:
            self.settled[file] += 1

    def tick(self) -> None:
        wake = self.run.machine.next_wake_s
        late = self.chance.random() < 0.05 and wake is not None
        self.perform(self.run.wake() if late else self.run(ev.Tick()))

    def place(self) -> None:
        token, chosen = self.placing.pop(self.chance.randrange(len(self.placing)))
        cut = len(chosen)
        if self.chance.random() < 0.2:
            cut = self.chance.randrange(cut + 1)
        self.count(chosen[:cut])
        self.perform(self.run(ev.Settled(token, chosen[:cut])))
        if chosen[cut:]:
            self.perform(self.run(ev.SpaceGone("full")))
            self.perform(self.run(ev.Returned(token, chosen[cut:])))
            self.perform(self.run(ev.SpaceBack()))

    def answer(self) -> None:
        ask = self.on_the_way.pop(self.chance.randrange(len(self.on_the_way)))
        if not self.run.machine.files_of(ask.token) or self.chance.random() < 0.1:
            return  # lost, or too late
        self.perform(self.run(ev.Landed(ask.token)))
        if self.chance.random() < 0.1:
            self.perform(self.run(ev.Spoiled(ask.token)))
            return
        count = len(ask.files)
        answered = sorted(self.chance.sample(range(count), self.chance.randint(0, count)))
        kinds = {index: self.chance.random() for index in answered}
        reasons = (RefusalReason.BUSY, RefusalReason.NOT_FOUND)
        opened = ev.Opened(
            ask.token,
            good=tuple(index for index in answered if kinds[index] >= 0.15),
            bad=tuple(index for index in answered if kinds[index] < 0.05),
            refused=tuple(
                (index, self.chance.choice(reasons))
                for index in answered
                if 0.05 <= kinds[index] < 0.15
            ),
        )
        self.perform(self.run(opened))
        if self.chance.random() < 0.5:
            self.on_the_way.append(ask)  # the rest of it, or once more


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_file_is_settled_once(seed: int) -> None:
    """It comes to its end, and the window is empty then."""
    chaos = Chaos(seed)
    chaos.go()

    assert [None] == chaos.errors, seed
    assert {1} == set(chaos.settled.values()), seed
    assert 0 == chaos.run.window.outstanding, seed
