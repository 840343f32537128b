"""A crash at any moment of a transfer, with any state of the disk that it may leave."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import pytest

from chunkq.ports import Delivery, TransferState, Transport
from chunkq.protocol.packet import ReplyKind, parse_reply
from chunkq.runtime import committing
from chunkq.storage import partfile, staging
from chunkq.storage.statefile import newest_slot
from tests.simulation.crash_states import Recorder
from tests.simulation.hooked import HookedTransport
from tests.simulation.pair import (
    INBOX,
    NAME,
    SOURCE_MODE,
    TARGET,
    TRANSFER_ID,
    Hosts,
    Shape,
    fetch,
    make_source,
    new_processes,
)
from tests.simulation.process import Killed, Process
from tests.simulation.survival import DirectoryImage, Draw, FileImage, Image

#: More than one of the hosts of a test ever starts.
STARTS = 1 << 20
OLDER = b"an older file" * 1000
#: `make test` has one state of so many; `make crash-states` sets it to 1.
EVERY = int(os.environ.get("CHUNKQ_TEST_CRASH_STATES_EVERY", "10"))
STAGING = f"{INBOX}/.chunkq/{TRANSFER_ID}"


@dataclass(frozen=True)
class Told:
    """What others rely on: chunks that were acknowledged to the broker, and success."""

    acknowledged: frozenset[int] = frozenset()
    finished: bool = False


class Acknowledged:
    """Which chunks the requester has acknowledged: its broker has them no more."""

    def __init__(self) -> None:
        self.told = Told()
        self._chunks: dict[int, int] = {}

    def __call__(self, name: str, about: object, done: bool) -> None:
        if not isinstance(about, Delivery) or not done:
            return
        if name == "delivery":
            header = parse_reply(about.body).header
            if header.kind is ReplyKind.CHUNK:
                self._chunks[about.tag] = header.index
        elif name == "acknowledge":
            chunks = {index for tag, index in self._chunks.items() if tag <= about.tag}
            self.told = replace(self.told, acknowledged=self.told.acknowledged | chunks)

    def wrap(self, transport: Transport) -> Transport:
        return HookedTransport(transport, self)


@dataclass
class Recorded:
    """Every state of the requester's disk in one transfer, and the origin's disk."""

    shape: Shape
    recorder: Recorder
    bob: Image


def record(shape: Shape) -> Recorded:
    """One transfer without faults, looked at before each of its calls."""
    hosts = prepared(shape)
    fetch(hosts)  # so that the origin has its manifest
    hosts.bob.sync_all()
    bob = hosts.bob.image(Draw(Random(0)))
    hosts = prepared(shape, later=1)
    hosts.bob.load(bob)
    acknowledged = Acknowledged()
    recorder = Recorder(hosts.alice, "alice", lambda: acknowledged.told)
    hosts.kernel.before_call = recorder.before_call
    fetch(hosts, wrap_alice=acknowledged.wrap)
    acknowledged.told = replace(acknowledged.told, finished=True)
    recorder.take()
    return Recorded(shape, recorder, bob)


def prepared(shape: Shape, *, later: int = 0) -> Hosts:
    """`later`: the processes of these hosts are none of those before."""
    hosts = Hosts(shape, started=later * STARTS, now_s=later * 1000.0)
    make_source(hosts)
    if shape.overwrite:
        hosts.run("alice", write_older)
        hosts.alice.sync_all()
    return hosts


def write_older() -> None:
    with open(TARGET, "wb") as file:
        file.write(OLDER)


# ---------------------------------------------------------------- what must hold


def check_recovers(recorded: Recorded, image: Image, told: Told, hosts: Hosts) -> None:
    """What is there keeps what was told; the same command finishes; nothing is left behind."""
    hosts.alice.load(image)
    hosts.bob.load(recorded.bob)
    hosts.run("alice", lambda: check_kept(recorded.shape, told))
    fetch(hosts, at_most_s=600.0)
    hosts.run("alice", lambda: check_finished(recorded.shape))


def check_kept(shape: Shape, told: Told) -> None:
    """Nothing but the whole file is ever seen; what was acknowledged is there."""
    content, there = shape.content, read(TARGET)
    assert there in {content, OLDER if shape.overwrite else None}
    if there == content:
        return
    assert not told.finished
    kept = believed(shape, content)
    assert told.acknowledged <= kept


def believed(shape: Shape, content: bytes) -> set[int]:
    """The chunks that the state file says are there; checks that they are."""
    try:
        fd = os.open(f"{STAGING}.state", os.O_RDONLY)
    except FileNotFoundError:
        return set()
    state, _ = newest_slot(fd, TRANSFER_ID, STAGING)
    os.close(fd)
    if state is None or not any(state.root):
        return set()
    part = read(f"{STAGING}.part")
    if part is None or len(part) < len(content):
        return set()
    size = shape.chunk_size_bytes
    chunks = {index for index in range(state.bitmap.count) if index in state.bitmap}
    for index in chunks:
        span = slice(index * size, (index + 1) * size)
        assert content[span] == part[span], f"chunk {index} is believed and is not there"
    return chunks


def check_finished(shape: Shape) -> None:
    assert shape.content == read(TARGET)
    assert SOURCE_MODE == os.stat(TARGET).st_mode & 0o777
    assert [NAME] == os.listdir(INBOX)


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


# ---------------------------------------------------------------- transfers

SHAPES = {
    "new": Shape(),
    "over an older file": Shape(overwrite=True),
    "larger chunks": Shape(chunk_size_bytes=16384, commit_chunks=2),
}


def check_every_state(recorded: Recorded, every: int = 1) -> int:
    """Recover from each; how many there were. The first that does not is told of.

    `every`: only one of so many, the others another time.
    """
    hosts = Hosts(recorded.shape, started=2 * STARTS, now_s=2000.0)
    states = recorded.recorder.states
    for number, ((_, told), image) in enumerate(states.items()):
        if number % every:
            continue
        assert isinstance(told, Told)
        try:
            check_recovers(recorded, image, told, hosts)
        except Exception as error:
            names = list_image(image)
            raise AssertionError(f"state {number} of {len(states)}, {told}: {names}") from error
    return len(states)


def list_image(image: Image) -> list[str]:
    """The paths on an image, for who looks for a mistake."""
    found, waiting = [], [("", image.root)]
    while waiting:
        path, number = waiting.pop()
        inode = image.inodes[number]
        if isinstance(inode, DirectoryImage):
            waiting += [(f"{path}/{name}", each) for name, each in inode.entries.items()]
        elif isinstance(inode, FileImage):
            found.append(f"{path} (inode {number}, {inode.size} bytes)")
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_every_state_of_every_prefix_of_a_transfer_is_recovered_from(
    name: str,
) -> None:
    """Finished with the same file; nothing bad published, nothing acknowledged lost."""
    recorded = record(SHAPES[name])
    count = check_every_state(recorded, EVERY)
    prefixes, enumerated = recorded.recorder.prefixes, recorded.recorder.enumerated
    print(f"{name}: {prefixes} prefixes, {enumerated} states, {count} of them different")

    assert count > 500


def test_every_state_of_a_transfer_past_the_page_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct writes are no more durable than others."""
    monkeypatch.setattr(partfile, "DIRECT_LEAST_BYTES", 4096)

    assert check_every_state(record(SHAPES["new"]), EVERY) > 500


@pytest.mark.parametrize("name", ["new", "over an older file"])
def test_killed_before_each_call_the_next_run_finishes(name: str) -> None:
    """kill -9 of the requester: what it wrote is in the page cache, its locks are free."""
    shape, nth = SHAPES[name], 0
    while True:
        hosts = prepared(shape)
        if not killed_before(hosts, nth):
            break
        fetch(hosts, at_most_s=600.0)
        hosts.run("alice", lambda: check_finished(shape))
        nth += 1

    assert nth > 70


def killed_before(hosts: Hosts, nth: int) -> bool:
    """Run until the requester's nth call; False if it came to its end before."""
    called = 0
    running = new_processes()

    def hook(process: Process, name: str, arguments: tuple[object, ...]) -> None:
        nonlocal called
        if process is running.alice:
            called += 1
            if called > nth:
                hosts.kernel.kill(process)
                raise Killed

    hosts.kernel.before_call = hook
    try:
        fetch(hosts, running, at_most_s=5.0)
    except BaseException:  # whatever a dead process's code still raises, or waits for in vain
        if running.alice.alive:
            raise
    killed = not running.alice.alive
    hosts.kernel.before_call = None
    hosts.kernel.kill(running.bob)
    hosts.kernel.kill(running.alice)
    return killed


# ---------------------------------------------------------------- whether the checks have teeth


def no_sync_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partfile.PartFile, "sync", lambda self: None)


def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.Staging, "settle", lambda self: None)


def bitmap_before_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: committing.Committer, state: TransferState) -> None:
        self._staging.settle()
        self._staging.state.store(state)
        self._staging.part.sync()

    monkeypatch.setattr(committing.Committer, "_commit_blocking", commit)


@pytest.mark.parametrize("plant", [no_sync_of_data, no_settling, bitmap_before_data])
def test_a_planted_mistake_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loses what was promised in some state."""
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"state \d+ of"):
        check_every_state(record(Shape(chunk_count=2, commit_chunks=1)), EVERY)
