"""The requester's machine, one transition at a time: events in, effects and phases out."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TypeVar

import pytest

from chunkq.errors import (
    BrokerUnreachable,
    ChunkqError,
    DestinationExists,
    IntegrityError,
    NotFound,
    NotPermitted,
    PeerRefused,
    PeerSilent,
    SourceChanging,
    SyncFailed,
)
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import from_ranges
from chunkq.protocol.limits import LEAVES_PER_PAGE, MAX_REPAIR_ROUNDS, MIB
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.patience import MAX_RETRY_S, RETRY_S
from chunkq.protocol.strikes import MAX_VERSIONS
from chunkq.protocol.transfer import Transfer
from chunkq.protocol.transfer_events import Phase, Resumed, Waiting
from chunkq.protocol.window import INITIAL_CHUNKS, INITIAL_RTO_S, Window

from .world import CHUNK, Version

E = TypeVar("E")
PATIENCE_S = 120.0


class Bench:
    """A transfer under test, its clock, and every effect it has wanted."""

    def __init__(
        self,
        chunks: int = 10,
        *,
        content: bytes | None = None,
        resumed: Resumed | None = None,
        version: Version | None = None,
        doubt_all: bool = False,
        commit_bytes: int = 64 * MIB,
        max_chunks: int = 512,
    ) -> None:
        content = Random(1).randbytes(chunks * CHUNK) if content is None else content
        self.source = version or Version(content)
        self.now = 100.0
        self.window = Window(max_chunks)
        self.effects: list[ev.Effect] = []
        self.transfer = Transfer(
            window=self.window,
            resumed=resumed,
            now=self.now,
            patience_s=PATIENCE_S,
            doubt_all=doubt_all,
            commit_bytes=commit_bytes,
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

    def last(self, kind: type[E]) -> E:
        """The newest effect of this kind."""
        return next(effect for effect in reversed(self.effects) if isinstance(effect, kind))

    def open(self) -> list[ev.Effect]:
        """The manifest comes and staging has it."""
        self.feed(ev.ManifestCame(self.last(ev.AskOpen).token, self.source.head))
        return self.feed(ev.Prepared())

    def give_pages(self) -> list[ev.Effect]:
        ask = self.last(ev.AskPages)
        pages = from_ranges(ask.runs)
        return self.feed(*(ev.PageCame(ask.token, page, self.source.page(page)) for page in pages))

    def store(self, *asks: ev.AskChunks) -> list[ev.Effect]:
        """Every chunk of these requests lands and is stored, 10 ms later."""
        effects = []
        for ask in asks:
            for index in from_ranges(ask.runs):
                effects += self.feed(ev.ChunkLanded(index), ev.ChunkStored(index, ask.token))
        return effects

    def store_all(self) -> None:
        """Answer until there is nothing more to be asked."""
        done = 0
        while done < len(self.effects):
            effect = self.effects[done]
            done += 1
            if isinstance(effect, ev.AskChunks):
                self.now += 0.01
                self.store(effect)

    def running(self) -> Bench:
        self.open()
        self.give_pages()
        assert self.transfer.phase is Phase.RUNNING
        return self

    def complete(self) -> Bench:
        self.running().store_all()
        return self

    @property
    def error(self) -> ChunkqError | None:
        finish = self.last(ev.Finish)
        assert self.transfer.finished
        assert self.window.outstanding == 0
        return finish.error


def refusal(reason: RefusalReason, **fields: int) -> Refusal:
    return Refusal(reason=reason, **fields)  # type: ignore[arg-type]


def asked_chunks(effects: Iterable[ev.Effect]) -> list[int]:
    asks = [effect for effect in effects if isinstance(effect, ev.AskChunks)]
    return [index for ask in asks for index in from_ranges(ask.runs)]


# ---------------------------------------------------------------- the way through


def test_the_whole_way_of_a_small_file() -> None:
    """One commit group is the whole file: read back, publish, and no commit at all."""
    bench = Bench(3)
    bench.complete()
    bench.feed(ev.ReadBackDone(True))
    bench.feed(ev.Published())
    kinds = [type(effect).__name__ for effect in bench.effects]
    assert ["AskOpen", "Prepare", "AskPages", "AskChunks", "ReadBack", "Publish", "Finish"] == kinds
    assert (Phase.DONE, None) == (bench.transfer.phase, bench.error)


def test_the_whole_way_of_a_file_larger_than_a_commit_group() -> None:
    """Commit before it is read back, commit again before it is published."""
    bench = Bench(10, commit_bytes=5 * CHUNK)
    bench.running().store_all()
    while not isinstance(bench.effects[-1], ev.ReadBack):
        bench.feed(ev.Committed(bench.last(ev.Commit).phase))
    assert Phase.VERIFYING is bench.last(ev.Commit).phase
    assert [ev.Commit(Phase.PUBLISHING)] == bench.feed(ev.ReadBackDone(True))
    assert Phase.VERIFYING is bench.transfer.phase
    assert [ev.Publish()] == bench.feed(ev.Committed(Phase.PUBLISHING))
    assert [ev.Finish(None)] == bench.feed(ev.Published())


def test_an_empty_file_asks_for_nothing_but_the_manifest() -> None:
    """0 bytes: no page, no chunk, and published all the same."""
    bench = Bench(content=b"")
    assert [ev.ReadBack()] == bench.open()
    assert [ev.Publish()] == bench.feed(ev.ReadBackDone(True))


def test_no_chunk_is_asked_for_before_its_leaf_is_here() -> None:
    """Pages first; then as many chunks as the window allows."""
    bench = Bench(10)
    assert [ev.AskPages(2, ((0, 1),))] == bench.open()
    assert list(range(INITIAL_CHUNKS)) == asked_chunks(bench.give_pages())
    assert (INITIAL_CHUNKS, INITIAL_CHUNKS) == (bench.transfer.in_flight, bench.window.outstanding)


def test_a_file_that_is_there_already_ends_at_the_prepare() -> None:
    """The driver found an equal file at the destination."""
    bench = Bench(3)
    bench.feed(ev.ManifestCame(1, bench.source.head))
    assert [ev.Finish(None)] == bench.feed(ev.Published())


def test_holes_in_a_page_are_neither_asked_for_nor_written() -> None:
    """Their room is given back, and the rest is asked for."""
    content = Random(1).randbytes(CHUNK) + bytes(2 * CHUNK) + Random(2).randbytes(CHUNK + 5)
    bench = Bench(content=content)
    bench.open()
    effects = bench.give_pages()
    assert ev.Punch(((1, 2),)) in effects
    assert [0, 3, 4] == asked_chunks(effects)


def test_pages_of_holes_are_known_from_the_head() -> None:
    """Neither their leaves nor their chunks are asked for."""
    zeros = bytes(LEAVES_PER_PAGE * CHUNK)
    bench = Bench(content=zeros + Random(1).randbytes(CHUNK) + bytes(3 * CHUNK))
    bench.open()
    assert ((1, 1),) == bench.last(ev.AskPages).runs
    assert LEAVES_PER_PAGE == bench.transfer.bitmap.present


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("phase", "present", "expected", "effect"),
    [
        (Phase.OPENING, 4, Phase.RUNNING, ev.AskPages),
        (Phase.OPENING, 10, Phase.OPENING, ev.AskOpen),
        (Phase.RUNNING, 4, Phase.RUNNING, ev.AskPages),
        (Phase.RUNNING, 10, Phase.RUNNING, ev.Commit),
        (Phase.RECOVERING, 4, Phase.RECOVERING, ev.AskPages),
        (Phase.VERIFYING, 10, Phase.VERIFYING, ev.ReadBack),
        (Phase.VERIFYING, 4, Phase.RECOVERING, ev.AskPages),
        (Phase.PUBLISHING, 10, Phase.PUBLISHING, ev.Publish),
    ],
)
def test_resumes_where_the_slot_says(
    phase: Phase, present: int, expected: Phase, effect: type[ev.Effect]
) -> None:
    """Each phase on disk goes on with the step that it had come to."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    bitmap = Bitmap(10)
    bitmap.fill(0, present)
    bench = Bench(version=version, resumed=Resumed(version.head, phase, bitmap))
    assert expected is bench.transfer.phase
    assert [effect] == [type(wanted) for wanted in bench.effects]


def test_what_was_durable_is_not_asked_for_again() -> None:
    """Only the absent chunks are."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    bitmap = Bitmap(10)
    bitmap.fill(2, 6)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, bitmap))
    assert [0, 1, 8, 9] == asked_chunks(bench.give_pages())


def test_leaves_of_what_is_there_are_not_asked_for() -> None:
    """A page without a missing chunk is of no use."""
    version = Version(b"x" * (3 * LEAVES_PER_PAGE * CHUNK))
    bitmap = Bitmap(3 * LEAVES_PER_PAGE)
    bitmap.fill(0, LEAVES_PER_PAGE)
    bitmap.fill(2 * LEAVES_PER_PAGE, 5)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, bitmap))
    assert ((1, 2),) == bench.last(ev.AskPages).runs


def test_the_bitmap_of_the_slot_stays_as_it_was() -> None:
    """The driver keeps it as what is durable; the machine has its own."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    durable = Bitmap(10)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, durable))
    bench.give_pages()
    bench.store(bench.last(ev.AskChunks))
    assert (0, INITIAL_CHUNKS) == (durable.present, bench.transfer.bitmap.present)


def test_doubt_on_disk_compares_what_is_absent_before_it_asks() -> None:
    """RECOVERING: the good ones are taken, the bad ones asked for, and then it is RUNNING."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    bitmap = Bitmap(10)
    bitmap.fill(0, 6)
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RECOVERING, bitmap))
    assert [ev.Recheck((6, 7, 8, 9), 0, version.page(0))] == bench.give_pages()
    assert [8] == asked_chunks(bench.feed(ev.Rechecked((6, 7, 9), (8,))))
    assert Phase.RUNNING is bench.transfer.phase


def test_a_part_file_without_its_state_is_compared_all_of_it() -> None:
    """`doubt_all`: a manifest, then every chunk in doubt."""
    bench = Bench(5, doubt_all=True)
    bench.open()
    assert Phase.RECOVERING is bench.transfer.phase
    assert [ev.Recheck(tuple(range(5)), 0, bench.source.page(0))] == bench.give_pages()
    bench.feed(ev.Rechecked(tuple(range(5)), ()))
    assert [ev.Commit(Phase.VERIFYING)] == bench.effects[-1:]


def test_zeros_in_doubt_are_compared_like_everything_else() -> None:
    """A hole of the new version may be data of the old one in the part file."""
    bench = Bench(content=bytes(4 * CHUNK), doubt_all=True)
    effects = bench.open()
    assert [(0, 1, 2, 3)] == [e.indices for e in effects if isinstance(e, ev.Recheck)]
    assert [2] == asked_chunks(bench.feed(ev.Rechecked((0, 1, 3), (2,))))


def test_an_adopted_chunk_is_compared_when_its_leaf_is_here() -> None:
    """A reply to an earlier process is in the part file, unverified: at once, or with its page."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(10)))
    assert [] == bench.feed(ev.ChunkAdopted(3))
    assert ev.Recheck((3,), 0, version.page(0)) in bench.give_pages()
    assert ev.Recheck((5,), 0, version.page(0)) in bench.feed(ev.ChunkAdopted(5))
    bench.feed(ev.Rechecked((3,), ()), ev.Rechecked((), (5,)))
    assert (True, False) == (3 in bench.transfer.bitmap, 5 in bench.transfer.bitmap)
    bench.store_all()
    assert bench.transfer.bitmap.complete


def test_a_chunk_asked_for_and_then_found_is_given_up() -> None:
    """The window has its place back at once."""
    bench = Bench(4).running()
    assert 4 == bench.window.outstanding
    bench.feed(ev.ChunkAdopted(1), ev.Rechecked((1,), ()))
    assert (3, 3) == (bench.transfer.in_flight, bench.window.outstanding)


def test_a_bad_chunk_of_an_earlier_process_is_no_strike() -> None:
    """It may be of another version: only what this process asked for counts."""
    bench = Bench(10).running()
    for _ in range(MAX_REPAIR_ROUNDS + 1):
        bench.feed(ev.ChunkBad(9))
    assert not bench.transfer.finished


# ---------------------------------------------------------------- another version


def changed(version: Version) -> Version:
    return Version(b"new" + version.content[3:] + b"more")


def test_stale_asks_for_the_manifest_and_keeps_what_is_unchanged() -> None:
    """RUNNING -> OPENING -> RECOVERING; all chunks in doubt, the window empty meanwhile."""
    bench = Bench(10).running()
    ask = bench.last(ev.AskChunks)
    bench.store(ask)
    effects = bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    assert [ev.AskOpen] == [type(effect) for effect in effects]
    assert (Phase.OPENING, 0) == (bench.transfer.phase, bench.window.outstanding)
    bench.source = changed(bench.source)
    bench.open()
    assert (Phase.RECOVERING, 11) == (bench.transfer.phase, bench.transfer.doubtful.present)
    assert [ev.Recheck] == [type(effect) for effect in bench.give_pages()]
    bench.feed(ev.Rechecked((1, 2, 3), (0, *range(4, 11))))
    assert [1, 2, 3] == [i for i in range(11) if i in bench.transfer.bitmap]


def test_stale_and_yet_the_same_manifest_goes_on() -> None:
    """An origin that had to hash anew: nothing is in doubt, nothing is lost."""
    bench = Bench(10).running()
    bench.store(bench.last(ev.AskChunks))
    present = bench.transfer.bitmap.present
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    effects = bench.feed(ev.ManifestCame(bench.last(ev.AskOpen).token, bench.source.head))
    assert [ev.AskPages] == [type(effect) for effect in effects]
    assert (Phase.RUNNING, present) == (bench.transfer.phase, bench.transfer.bitmap.present)


def test_refusals_of_one_change_count_once() -> None:
    """All requests under way are refused; the first says it all."""
    bench = Bench(200)
    bench.window._limit = 190.0
    bench.running()
    asks = [effect for effect in bench.effects if isinstance(effect, ev.AskChunks)]
    for ask in asks:
        bench.feed(ev.Refused(ask.token, refusal(RefusalReason.STALE)))
    assert 3 == len(asks)
    assert 2 == [type(effect) for effect in bench.effects].count(ev.AskOpen)


def test_a_manifest_waits_for_the_commit_of_the_old_version() -> None:
    """Else the slot would mix the old bitmap with the new root: it is asked for once more."""
    bench = Bench(10, commit_bytes=CHUNK).running()
    bench.store(bench.last(ev.AskChunks))
    commit = bench.last(ev.Commit)
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    asked = [effect for effect in bench.effects if isinstance(effect, ev.AskOpen)]
    assert 1 == len(asked)  # none while the commit is under way
    effects = bench.feed(ev.Committed(commit.phase))
    assert [ev.AskOpen, ev.Commit] == [type(effect) for effect in effects]
    bench.source = changed(bench.source)
    assert [] == bench.feed(ev.ManifestCame(bench.last(ev.AskOpen).token, bench.source.head))
    assert [] == bench.feed(ev.Committed(Phase.OPENING))
    assert [ev.AskOpen] == [type(effect) for effect in bench.feed(ev.Tick(), after_s=0.2)]
    bench.open()
    assert Phase.RECOVERING is bench.transfer.phase


def test_nothing_is_committed_between_a_new_manifest_and_its_staging() -> None:
    """The slot names the new root only once the new manifest is kept and there is room."""
    bench = Bench(10).running()
    bench.store(bench.last(ev.AskChunks))
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    bench.source = Version(bytes(LEAVES_PER_PAGE * CHUNK) + bench.source.content)
    bench.feed(ev.ManifestCame(bench.last(ev.AskOpen).token, bench.source.head))
    effects = bench.feed(ev.SpaceGone("full", step=True))
    effects += bench.feed(ev.Tick(), after_s=5.0)
    assert ([], None) == (effects, bench.transfer.next_wake_s)
    assert 0 == bench.transfer.uncommitted_bytes
    assert [ev.Prepare(bench.source.head)] == bench.feed(ev.SpaceBack())
    bench.feed(ev.Prepared())
    assert [ev.Commit(Phase.RECOVERING)] == [
        effect for effect in bench.feed(ev.Tick(), after_s=1.0) if isinstance(effect, ev.Commit)
    ]


def test_doubt_is_written_as_recovering() -> None:
    """A commit while the manifest is awaited must not forget that chunks are in doubt."""
    bench = Bench(10, doubt_all=True)
    bench.open()
    bench.feed(ev.Refused(bench.last(ev.AskPages).token, refusal(RefusalReason.STALE)))
    assert Phase.OPENING is bench.transfer.phase
    assert Phase.RECOVERING is bench.transfer.commit().phase


def test_space_that_comes_back_while_a_new_manifest_is_awaited_prepares_nothing() -> None:
    """The old head is in staging already; its chunks would only be refused again."""
    bench = Bench(10).running()
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    bench.feed(ev.SpaceGone("full"))
    assert ev.Prepare not in [type(effect) for effect in bench.feed(ev.SpaceBack())]
    assert Phase.OPENING is bench.transfer.phase


def test_a_source_that_never_rests_ends_with_its_reason() -> None:
    """Sixteen versions are enough."""
    bench = Bench(10)
    for at in range(MAX_VERSIONS + 1):
        bench.open()
        bench.feed(ev.Refused(bench.last(ev.AskPages).token, refusal(RefusalReason.STALE)))
        bench.source = Version(bytes((at + 1,)) * CHUNK * 2)
    assert isinstance(bench.error, SourceChanging)


# ---------------------------------------------------------------- what comes wrong, late, or twice


def test_a_chunk_that_comes_bad_is_asked_for_again_and_then_no_more() -> None:
    """Three rounds, and the words name the chunk."""
    bench = Bench(2).running()
    for _ in range(MAX_REPAIR_ROUNDS - 1):
        bench.feed(ev.ChunkLanded(0))
        assert [0] == asked_chunks(bench.feed(ev.ChunkBad(0)))
    bench.feed(ev.ChunkLanded(0), ev.ChunkBad(0))
    assert isinstance(bench.error, IntegrityError)
    assert "chunk 0" in str(bench.error)


def test_a_page_that_fails_its_proof_ends_it() -> None:
    """Under a valid seal and for this root, only a head that lies does that."""
    bench = Bench(3)
    bench.open()
    bench.feed(ev.PageCame(bench.last(ev.AskPages).token, 0, bytes(3 * 32)))
    assert isinstance(bench.error, IntegrityError)


@pytest.mark.parametrize("page", [0, 1, 1 << 40])
def test_a_page_that_an_earlier_process_asked_for_is_no_lie(page: int) -> None:
    """It may be of the version before: the broker gave it back, or kept it and gives it again."""
    version = Version(Random(1).randbytes(10 * CHUNK))
    bench = Bench(version=version, resumed=Resumed(version.head, Phase.RUNNING, Bitmap(10)))
    asked = bench.last(ev.AskPages)
    assert [] == bench.feed(ev.PageCame(0, page, bytes(10 * 32)))
    effects = bench.feed(ev.PageCame(0, 0, version.page(0)))
    assert ((0, 1),) == asked.runs
    assert not bench.transfer.finished
    assert asked_chunks(effects)


def test_a_page_nobody_asked_for_is_not_kept() -> None:
    """Memory is bounded by what is asked for."""
    bench = Bench(content=b"x" * (40 * LEAVES_PER_PAGE * CHUNK))
    bench.open()
    assert ((0, 32),) == bench.last(ev.AskPages).runs
    bench.feed(ev.PageCame(bench.last(ev.AskPages).token, 39, bench.source.page(39)))
    assert bench.transfer.leaf(39 * LEAVES_PER_PAGE) is None


def test_a_manifest_that_comes_late_is_taken() -> None:
    """Its timer ran out and it was asked for again: either answer is of use, one of them."""
    bench = Bench(3)
    first = bench.last(ev.AskOpen)
    assert [ev.AskOpen] == [type(effect) for effect in bench.feed(ev.Tick(), after_s=INITIAL_RTO_S)]
    head = bench.source.head
    assert [ev.Prepare(head)] == bench.feed(ev.ManifestCame(first.token, head), after_s=1.0)
    assert [] == bench.feed(ev.ManifestCame(bench.last(ev.AskOpen).token, head))


def test_a_manifest_of_before_the_change_is_not_taken() -> None:
    """A duplicate of the answer to an earlier ask would be the old version again."""
    bench = Bench(3).running()
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.STALE)))
    bench.feed(ev.ManifestCame(1, bench.source.head))
    assert Phase.OPENING is bench.transfer.phase


def test_a_page_that_comes_late_is_taken() -> None:
    """Whichever request it answers: the head proves it."""
    bench = Bench(3)
    bench.open()
    late = bench.last(ev.AskPages)
    bench.feed(ev.Tick(), after_s=INITIAL_RTO_S)
    assert late != bench.last(ev.AskPages)
    effects = bench.feed(ev.PageCame(late.token, 0, bench.source.page(0)))
    assert [0, 1, 2] == asked_chunks(effects)


def test_unanswered_opens_are_asked_less_and_less_often() -> None:
    """3 s, 6, 12, ...: a courier's link is not filled with copies of one question."""
    bench = Bench(3)
    times = []
    while not bench.transfer.finished:
        wake = bench.transfer.next_wake_s
        assert wake is not None
        assert wake > bench.now
        bench.now = wake
        if bench.feed(ev.Tick()):
            times.append(wake - 100.0)
    assert [3.0, 9.0, 21.0, 45.0, 93.0, PATIENCE_S] == times


def test_overdue_chunks_are_asked_for_again() -> None:
    """At the deadline, not before; two until something comes; the window counts each once."""
    bench = Bench(4).running()
    wake = bench.transfer.next_wake_s
    assert wake == bench.now + INITIAL_RTO_S
    assert [] == bench.feed(ev.Tick(), after_s=INITIAL_RTO_S - 0.01)
    assert [0, 1] == asked_chunks(bench.feed(ev.Tick(), after_s=0.01))
    assert 2 == bench.window.outstanding
    assert [2, 3] == asked_chunks(bench.store(bench.last(ev.AskChunks)))


def test_a_chunk_that_is_to_be_asked_again_is_not_also_asked_as_new() -> None:
    """Found bad before the order of asking had come to it: one request names it once."""
    bench = Bench(10, doubt_all=True)
    bench.open()
    others = [bench.window.sent(bench.now) for _ in range(bench.window.room)]
    bench.give_pages()
    bench.window.lost(len(others))
    chunks = asked_chunks(bench.feed(ev.Rechecked(tuple(range(2, 10)), (0, 1))))
    assert [0, 1] == chunks


def test_replies_that_nobody_wants_are_told_apart() -> None:
    """Present, out of range, or before there is a manifest: of no use."""
    bench = Bench(4)
    assert not bench.transfer.wants(0)
    bench.running()
    bench.feed(ev.ChunkLanded(0), ev.ChunkStored(0, bench.last(ev.AskChunks).token))
    assert [False, True, False] == [bench.transfer.wants(index) for index in (0, 1, 4)]


def test_stored_twice_counts_once() -> None:
    """A duplicate changes neither the bitmap nor what is uncommitted."""
    bench = Bench(4).running()
    token = bench.last(ev.AskChunks).token
    bench.feed(ev.ChunkStored(0, token), ev.ChunkStored(0, token))
    assert (1, CHUNK) == (bench.transfer.bitmap.present, bench.transfer.uncommitted_bytes)


def test_events_after_the_end_change_nothing() -> None:
    """A reply after the transfer is done."""
    bench = Bench(2).complete()
    bench.feed(ev.ReadBackDone(True), ev.Published())
    late = ev.Refused(1, refusal(RefusalReason.STALE))
    assert [] == bench.feed(ev.Tick(), ev.ChunkStored(0, 1), late)
    assert bench.transfer.next_wake_s is None


# ---------------------------------------------------------------- refusals and waiting


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (RefusalReason.NOT_FOUND, NotFound),
        (RefusalReason.NOT_PERMITTED, NotPermitted),
        (RefusalReason.TOO_LARGE, PeerRefused),
        (RefusalReason.UNSUPPORTED, PeerRefused),
    ],
)
def test_refusals_that_waiting_does_not_mend_end_it(
    reason: RefusalReason, error: type[ChunkqError]
) -> None:
    """Each with an error of its own."""
    bench = Bench(3)
    bench.feed(ev.Refused(1, refusal(reason)))
    assert type(bench.error) is error


@pytest.mark.parametrize(
    "reason",
    [
        RefusalReason.BUSY,
        RefusalReason.PREPARING,
        RefusalReason.EXPIRED,
        RefusalReason.CLOCK_SKEW,
    ],
)
def test_refusals_that_waiting_mends_are_told_and_waited_out(reason: RefusalReason) -> None:
    """The reason is shown, nothing is asked until it is time, and then it is asked again."""
    bench = Bench(3)
    assert [] == bench.feed(ev.Refused(1, refusal(reason, done=1, total=2)))
    assert Waiting(reason.value, "", 1, 2) == bench.transfer.waiting
    assert bench.now + RETRY_S == bench.transfer.next_wake_s
    assert [] == bench.feed(ev.Tick(), after_s=RETRY_S / 2)
    assert [ev.AskOpen] == [type(effect) for effect in bench.feed(ev.Tick(), after_s=RETRY_S / 2)]
    bench.open()
    assert bench.transfer.waiting is None


def test_the_origin_says_when_to_come_again() -> None:
    """Sooner or later than we would have; an hour is not believed."""
    bench = Bench(3)
    bench.feed(ev.Refused(1, refusal(RefusalReason.BUSY, retry_after_ms=20)))
    assert bench.now + 0.02 == bench.transfer.next_wake_s
    bench.feed(ev.Tick(), after_s=0.02)
    again = bench.last(ev.AskOpen)
    bench.feed(ev.Refused(again.token, refusal(RefusalReason.BUSY, retry_after_ms=3_600_000)))
    assert bench.now + MAX_RETRY_S == bench.transfer.next_wake_s


def test_a_busy_origin_is_no_silent_one() -> None:
    """It may announce a wait that is longer than our patience."""
    bench = Bench(3)
    bench.transfer.lanes[0].patience._limit_s = 5.0
    bench.feed(ev.Refused(1, refusal(RefusalReason.BUSY, retry_after_ms=30_000)))
    bench.feed(ev.Tick(), after_s=29.0)
    assert not bench.transfer.finished
    bench.feed(ev.Tick(), after_s=1.0)
    assert 2 == [type(effect) for effect in bench.effects].count(ev.AskOpen)


def test_many_refusals_of_one_moment_wait_once() -> None:
    """Requests that meet a lost carrier together are one second, not the doubled wait of each."""
    bench = Bench(200)
    bench.window._limit = 190.0
    bench.running()
    asks = [effect for effect in bench.effects if isinstance(effect, ev.AskChunks)]
    assert 3 == len(asks)
    for ask in asks:
        bench.feed(ev.AskFailed(ask.token, Waiting("broker_unreachable")))
    assert bench.now + RETRY_S == bench.transfer.next_wake_s
    assert Waiting("broker_unreachable") == bench.transfer.waiting


def test_nothing_is_waited_for_once_everything_is_here() -> None:
    """Late replies complete it while the origin is busy: the reason is gone, and it goes on."""
    bench = Bench(4).running()
    ask = bench.last(ev.AskChunks)
    bench.feed(ev.Refused(ask.token, refusal(RefusalReason.BUSY, retry_after_ms=50_000)))
    assert bench.transfer.waiting is not None
    assert [ev.ReadBack()] == bench.store(ask)
    assert bench.transfer.waiting is None


def test_waits_double_while_nothing_comes_and_start_anew_when_it_does() -> None:
    """1, 2, 4 ... s, at most a minute."""
    bench, waits = Bench(3), []
    for _ in range(8):
        bench.feed(ev.Refused(bench.last(ev.AskOpen).token, refusal(RefusalReason.BUSY)))
        wake = bench.transfer.next_wake_s
        assert wake is not None
        waits.append(wake - bench.now)
        bench.feed(ev.Tick(), after_s=wake - bench.now)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_RETRY_S, MAX_RETRY_S] == waits
    bench.running()
    bench.feed(ev.Refused(bench.last(ev.AskChunks).token, refusal(RefusalReason.BUSY)))
    assert bench.now + RETRY_S == bench.transfer.next_wake_s


def test_refusals_and_failures_of_requests_long_given_up_are_not_heeded() -> None:
    """They say nothing of the requests that are under way."""
    bench = Bench(3).running()
    bench.feed(ev.Refused(99, refusal(RefusalReason.NOT_FOUND)))
    bench.feed(ev.AskFailed(98, Waiting("busy")))
    assert (Phase.RUNNING, None) == (bench.transfer.phase, bench.transfer.waiting)


def test_silence_is_told_and_then_ends_it() -> None:
    """First a word, then `PeerSilent`, at the patience and not before."""
    bench = Bench(3).running()
    bench.feed(ev.Tick(), after_s=30.0)
    assert bench.transfer.waiting is not None
    assert "peer_silent" == bench.transfer.waiting.reason
    bench.feed(ev.Tick(), after_s=PATIENCE_S - 30.0 - 0.001)
    assert not bench.transfer.finished
    bench.feed(ev.Tick(), after_s=0.001)
    assert isinstance(bench.error, PeerSilent)


def test_a_broker_that_is_gone_is_not_called_a_silent_peer() -> None:
    """The reason that ends it is the one that was shown."""
    bench = Bench(3)
    while not bench.transfer.finished:
        bench.feed(ev.AskFailed(bench.last(ev.AskOpen).token, Waiting("broker_unreachable", "no")))
        wake = bench.transfer.next_wake_s
        assert wake is not None
        bench.feed(ev.Tick(), after_s=max(0.0, wake - bench.now))
    assert type(bench.error) is BrokerUnreachable


@pytest.mark.parametrize("offset_s", [0.0, 0.1, 1 / 3, 1e9 + 0.7])
def test_a_tick_at_the_wake_time_always_moves_the_next_one(offset_s: float) -> None:
    """Whatever floating point makes of a sum and a difference: no busy loop."""
    bench = Bench(4)
    bench.now += offset_s
    bench.running()
    bench.store(ev.AskChunks(bench.last(ev.AskChunks).token, ((0, 1),)))
    for _ in range(40):
        wake = bench.transfer.next_wake_s
        if wake is None:
            break
        bench.now = wake
        bench.feed(ev.Tick())
        later = bench.transfer.next_wake_s
        assert later is None or later > bench.now
    assert bench.transfer.finished


def test_no_room_in_the_window_is_not_the_peers_silence() -> None:
    """Another transfer has all of it: this one is hungry, looks now and then, and goes on."""
    bench = Bench(4, max_chunks=2)
    taken = [bench.window.sent(bench.now) for _ in range(bench.window.room)]
    bench.running()
    assert (True, 0) == (bench.transfer.hungry, bench.transfer.in_flight)
    for _ in range(300):
        wake = bench.transfer.next_wake_s
        assert wake is not None
        assert bench.now < wake <= bench.now + 1.0
        bench.feed(ev.Tick(), after_s=wake - bench.now)
    bench.window.lost(len(taken))
    assert [0, 1] == asked_chunks(bench.feed(ev.Tick(), after_s=1.0))


def test_a_slow_sync_is_not_the_peers_silence() -> None:
    """Everything is here, and only our own disk is waited for."""
    bench = Bench(10, commit_bytes=CHUNK).complete()
    bench.feed(ev.Committed(Phase.RUNNING))
    assert [ev.Commit(Phase.VERIFYING)] == bench.effects[-1:]
    assert [] == bench.feed(ev.Tick(), after_s=10 * PATIENCE_S)
    assert not bench.transfer.finished


# ---------------------------------------------------------------- commits and the disk


def test_a_commit_is_due_after_its_bytes() -> None:
    """And the next one only when that is done."""
    bench = Bench(20, commit_bytes=2 * CHUNK).running()
    token = bench.last(ev.AskChunks).token
    assert [] == [e for e in bench.feed(ev.ChunkStored(0, token)) if isinstance(e, ev.Commit)]
    assert ev.Commit(Phase.RUNNING) in bench.feed(ev.ChunkStored(1, token))
    more = bench.feed(ev.ChunkStored(2, token), ev.ChunkStored(3, token))
    assert [] == [e for e in more if isinstance(e, ev.Commit)]
    assert ev.Commit(Phase.RUNNING) in bench.feed(ev.Committed(Phase.RUNNING))


def test_a_commit_is_due_a_second_after_the_first_chunk() -> None:
    """The timer says so, and stops when the commit begins."""
    bench = Bench(20).running()
    token = bench.last(ev.AskChunks).token
    bench.feed(ev.ChunkLanded(0), ev.ChunkStored(0, token))
    assert bench.now + 1.0 == bench.transfer.next_wake_s
    assert ev.Commit(Phase.RUNNING) in bench.feed(ev.Tick(), after_s=1.0)
    assert 0 == bench.transfer.uncommitted_bytes


def test_a_failed_sync_drops_back_to_what_is_durable() -> None:
    """The lost chunks are absent, and asked for again; the durable ones are not."""
    bench = Bench(10, commit_bytes=CHUNK).running()
    bench.store(bench.last(ev.AskChunks))
    durable = Bitmap(10)
    durable.add(1)
    before = len(bench.effects)
    bench.feed(ev.SyncLost(durable))
    assert [1] == [index for index in range(10) if index in bench.transfer.bitmap]
    bench.store_all()
    asked_again = {0, 1, 2, 3}.intersection(asked_chunks(bench.effects[before:]))
    assert {0, 2, 3} == asked_again
    assert bench.transfer.bitmap.complete


def test_a_disk_that_fails_to_sync_each_time_ends_it() -> None:
    """Three in a row; one that works in between starts the count anew."""
    bench = Bench(10, commit_bytes=CHUNK).running()
    none = Bitmap(10)
    bench.feed(*[ev.SyncLost(none)] * 2)
    bench.feed(ev.Committed(Phase.RUNNING))
    bench.feed(*[ev.SyncLost(none)] * 2)
    assert not bench.transfer.finished
    bench.feed(ev.SyncLost(none, "Input/output error"))
    assert isinstance(bench.error, SyncFailed)
    assert "Input/output error" in bench.error.message


def test_holes_that_a_failed_sync_lost_are_committed_again() -> None:
    """They come back without a reply, so that no other event would go on with them."""
    bench = Bench(content=bytes(2 * CHUNK), commit_bytes=CHUNK)
    bench.open()
    for _ in range(2):
        effects = bench.feed(ev.SyncLost(Bitmap(2)))
        assert [ev.Punch(((0, 2),)), ev.Commit(Phase.VERIFYING)] == effects


def test_a_failed_sync_before_publishing_reads_back_again() -> None:
    """VERIFYING -> RUNNING; complete as it is, it is committed and hashed anew."""
    bench = Bench(10, commit_bytes=CHUNK).complete()
    bench.feed(ev.Committed(Phase.RUNNING), ev.Committed(Phase.VERIFYING), ev.ReadBackDone(True))
    assert [ev.Commit(Phase.PUBLISHING)] == bench.effects[-1:]
    assert [ev.Commit(Phase.VERIFYING)] == bench.feed(ev.SyncLost(bench.transfer.bitmap.copy()))


def test_no_room_for_a_chunk_pauses_the_asking() -> None:
    """The reason is shown; no timer of the network runs; then all of it goes on."""
    bench = Bench(4).running()
    bench.feed(ev.ChunkLanded(0), ev.ChunkDropped(0))
    bench.feed(ev.SpaceGone("no room"))
    assert Waiting("disk_full", "no room") == bench.transfer.waiting
    assert bench.transfer.next_wake_s is None
    assert [] == bench.feed(ev.Tick(), after_s=10 * PATIENCE_S)
    assert [1, 2] == asked_chunks(bench.feed(ev.SpaceBack()))
    assert bench.transfer.waiting is None
    bench.store_all()
    assert bench.transfer.phase is Phase.VERIFYING


def test_a_commit_without_room_is_tried_again() -> None:
    """What it would have made durable still counts as uncommitted."""
    bench = Bench(4).running()
    bench.feed(ev.ChunkStored(0, bench.last(ev.AskChunks).token))
    bench.feed(ev.Tick(), after_s=1.0)
    assert 0 == bench.transfer.uncommitted_bytes
    bench.feed(ev.SpaceGone("no room", step=True))
    assert (CHUNK, bench.now + 1.0) == (
        bench.transfer.uncommitted_bytes,
        bench.transfer.next_wake_s,
    )
    assert [ev.Commit(Phase.RUNNING)] == bench.feed(ev.Tick(), after_s=1.0)


def test_a_large_commit_without_room_is_not_tried_again_at_once() -> None:
    """However much is due: it would fail over and over, as fast as the disk can say so."""
    bench = Bench(4).running()
    bench.transfer._dirty.limit_bytes = CHUNK
    effects = bench.feed(ev.ChunkStored(0, bench.last(ev.AskChunks).token))
    assert ev.Commit(Phase.RUNNING) in effects
    assert [] == bench.feed(ev.SpaceGone("no room", step=True))
    assert [] == bench.feed(ev.Tick(), after_s=0.5)
    assert [ev.Commit(Phase.RUNNING)] == bench.feed(ev.Tick(), after_s=0.5)


def test_no_room_at_the_start_prepares_again() -> None:
    """ENOSPC at the allocation: it pauses, asks for nothing, and goes on once there is room."""
    bench = Bench(4)
    bench.feed(ev.ManifestCame(1, bench.source.head))
    assert [] == bench.feed(ev.SpaceGone("no room", step=True))
    assert bench.transfer.next_wake_s is None
    assert [ev.Prepare(bench.source.head)] == bench.feed(ev.SpaceBack())
    assert [ev.AskPages] == [type(effect) for effect in bench.feed(ev.Prepared())]


def test_a_read_back_that_does_not_match_finds_the_bad_chunks() -> None:
    """VERIFYING -> RECOVERING: everything in doubt; a bit that rotted is fetched again."""
    bench = Bench(10).complete()
    bench.feed(ev.ReadBackDone(False))
    assert (Phase.RECOVERING, 10, 0) == (
        bench.transfer.phase,
        bench.transfer.doubtful.present,
        bench.transfer.bitmap.present,
    )
    bench.give_pages()
    rest = tuple(index for index in range(10) if index != 7)
    assert [7] == asked_chunks(bench.feed(ev.Rechecked(rest, (7,))))
    bench.store(bench.last(ev.AskChunks))
    assert ev.ReadBack() == bench.effects[-1]


def test_a_file_that_never_reads_back_right_ends_it() -> None:
    """Three repairs, then the disk or the signed digest is at fault."""
    bench = Bench(3).complete()
    for _ in range(MAX_REPAIR_ROUNDS):
        bench.feed(ev.ReadBackDone(False))
        bench.give_pages()
        bench.feed(ev.Rechecked((0, 1, 2), ()))
        assert ev.ReadBack() == bench.effects[-1]
    bench.feed(ev.ReadBackDone(False))
    assert isinstance(bench.error, IntegrityError)


@pytest.mark.parametrize("moment", ["opening", "running", "complete"])
def test_what_is_broken_here_ends_it_with_its_own_error(moment: str) -> None:
    """A destination that exists, a disk error: as it is, and the window is free."""
    bench = Bench(10)
    if moment != "opening":
        bench.running()
    if moment == "complete":
        bench.store_all()
    error = DestinationExists("there is one")
    assert [ev.Finish(error)] == bench.feed(ev.Broken(error))
    assert (Phase.FAILED, error) == (bench.transfer.phase, bench.error)


def test_abandoning_gives_the_window_back() -> None:
    """A pause or a stop: nothing of it is outstanding any more."""
    bench = Bench(10).running()
    assert bench.window.outstanding > 0
    bench.transfer.abandon()
    assert (0, None, []) == (
        bench.window.outstanding,
        bench.transfer.next_wake_s,
        bench.feed(ev.Tick()),
    )


# ---------------------------------------------------------------- large files


def test_leaves_are_fetched_as_needed_and_kept_no_longer() -> None:
    """At most 32 pages at a time, of whatever file; the next when half of them are done."""
    content = b"x" * (50 * LEAVES_PER_PAGE * CHUNK)
    bench = Bench(content=content, commit_bytes=1 << 40, max_chunks=4096)
    bench.open()
    done = most = 0
    while done < len(bench.effects):
        effect = bench.effects[done]
        done += 1
        bench.now += 0.001
        if isinstance(effect, ev.AskPages):
            assert sum(count for _, count in effect.runs) <= 32
            for page in from_ranges(effect.runs):
                bench.feed(ev.PageCame(effect.token, page, bench.source.page(page)))
        elif isinstance(effect, ev.AskChunks):
            bench.store(effect)
        elif isinstance(effect, ev.Commit):
            bench.feed(ev.Committed(effect.phase))
        pages = range(bench.source.geometry.page_count)
        kept = sum(bench.transfer.leaf(page * LEAVES_PER_PAGE) is not None for page in pages)
        most = max(most, kept)
    assert bench.transfer.bitmap.complete
    assert 16 <= most <= 32


def test_a_request_asks_for_at_most_64_chunks_and_16_mib() -> None:
    """However large the window is."""
    bench = Bench(1000, max_chunks=4096)
    bench.window._limit = 300.0
    bench.running().store_all()
    asks = [effect for effect in bench.effects if isinstance(effect, ev.AskChunks)]
    sizes = [sum(count for _, count in ask.runs) for ask in asks]
    assert 64 == max(sizes)
    assert 1000 == sum(sizes)
