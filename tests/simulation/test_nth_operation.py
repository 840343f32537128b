"""Each call of a transfer fails once, and then for good, with each error that it can give."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from chunkq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    ChunkqError,
    DiskFull,
    Nacked,
    OutcomeUnknown,
    StorageError,
    SyncFailed,
    TransportClosed,
    Unroutable,
)
from chunkq.ports import Transport
from tests.simulation.hooked import HookedTransport
from tests.simulation.pair import (
    INBOX,
    NAME,
    TARGET,
    Hosts,
    Processes,
    Shape,
    Wrap,
    fetch,
    make_source,
    new_processes,
)
from tests.simulation.process import Process
from tests.simulation.test_crash_states import STARTS, check_finished, read

#: What the man pages permit. Those that Python hides are left out: a call that EINTR ended is made
#: again before anybody hears of it, but for close.
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES),
    "create": (errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),
    "dup": (errno.EMFILE,),
    "read": (errno.EIO,),
    "write": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    "fdatasync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "fstat": (errno.EIO, errno.ENOMEM),
    "stat": (errno.EIO, errno.ENOMEM, errno.EACCES),
    "fstatvfs": (errno.EIO, errno.ENOSYS),
    "readdir": (errno.EIO, errno.ENOMEM),
    "readlink": (errno.EIO,),
    "lseek": (errno.EIO, errno.EINVAL),
    "ftruncate": (errno.EIO, errno.EFBIG, errno.EPERM),
    "fallocate": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP),
    "punch": (errno.EIO, errno.EOPNOTSUPP),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),
    "link": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EPERM, errno.EROFS, errno.EMLINK),
    "rename": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),
    "unlink": (errno.EIO, errno.EACCES, errno.EROFS),
    "rmdir": (errno.EIO, errno.EBUSY, errno.EROFS),
    "fchmod": (errno.EIO, errno.EPERM, errno.EROFS),
    "utime": (errno.EIO, errno.EPERM, errno.EROFS),
    "flock": (errno.ENOLCK, errno.EIO),
    "mmap": (errno.ENOMEM,),
    "fadvise": (errno.EINVAL,),
    "close": (errno.EIO, errno.EINTR, errno.ENOSPC, errno.EDQUOT),
}
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: `make test` has one failure of so many; `make nth-operation` sets it to 1.
EVERY = int(os.environ.get("CHUNKQ_TEST_NTH_OPERATION_EVERY", "20"))
#: Longer than a requester's patience; a full disk is waited for without end.
AT_MOST_S = 90.0
SHAPE = Shape(chunk_count=6, commit_chunks=2)


@dataclass
class Failing:
    """The kernel's hook: the nth call of one process fails; `forever`: and all like it after."""

    process: Process
    nth: int
    number: int = 0
    forever: bool = False
    calls: list[str] = field(default_factory=list)
    failed: str | None = None

    def __call__(self, process: Process, name: str, arguments: tuple[object, ...]) -> None:
        if process is not self.process:
            return
        self.calls.append(name)
        again = self.forever and name == self.failed
        if len(self.calls) - 1 == self.nth or again:
            self.failed = name
            raise OSError(self.number, os.strerror(self.number))


def calls_of(host: Literal["alice", "bob"], shape: Shape) -> list[str]:
    """What a process of that host does in one transfer."""
    hosts, processes = prepared(shape), new_processes()
    watching = Failing(getattr(processes, host), nth=-1)
    hosts.kernel.before_call = watching
    fetch(hosts, processes)
    return watching.calls


def prepared(shape: Shape) -> Hosts:
    hosts = Hosts(shape)
    make_source(hosts)
    return hosts


def failures(calls: list[str]) -> Iterator[tuple[int, int, bool]]:
    """Which call, which error, and whether for good: all of them, or a slice."""
    everything = [
        (nth, number, forever)
        for nth, name in enumerate(calls)
        for number in ERRORS.get(name, ())
        for forever in (False, True)
    ]
    return iter(everything[::EVERY])


def attempt(hosts: Hosts, processes: Processes) -> ChunkqError | TimeoutError | None:
    """What became of one run. Any other error is a mistake of the product's."""
    try:
        fetch(hosts, processes, at_most_s=AT_MOST_S)
    except (ChunkqError, TimeoutError) as error:
        return error
    return None


def check_outcome(
    host: str, failing: Failing, hosts: Hosts, outcome: ChunkqError | TimeoutError | None
) -> None:
    """An identical file, a full disk that is waited for, or an error that says what was wrong."""
    if outcome is None:
        assert SHAPE.content == hosts.run("alice", lambda: read(TARGET))
        return
    if isinstance(outcome, TimeoutError):  # it waits, and says what for
        assert failing.forever
        assert {"disk_full", "source_unreadable"} & set(hosts.events), hosts.events
        return
    if host == "alice":
        assert isinstance(outcome, StorageError), repr(outcome)
        if failing.number in FULL:
            assert isinstance(outcome, DiskFull | SyncFailed), repr(outcome)
        told = os.strerror(failing.number) in outcome.message
        assert told or "times in a row" in outcome.message, outcome.message
    assert outcome.message


def check_call_failing(host: Literal["alice", "bob"], nth: int, number: int, forever: bool) -> str:
    """One failure, its outcome, and another run once the disk is well; what became of it."""
    hosts, processes = prepared(SHAPE), new_processes()
    failing = Failing(getattr(processes, host), nth, number, forever)
    hosts.kernel.before_call = failing
    outcome = attempt(hosts, processes)
    check_outcome(host, failing, hosts, outcome)
    assert [] == hosts.unheard
    assert [] == hosts.kernel.open_fds(processes.alice)
    check_runs_again(hosts, processes)
    return type(outcome).__name__


def check_runs_again(hosts: Hosts, processes: Processes) -> None:
    """The same command, with nothing in its way, finishes and leaves nothing behind."""
    hosts.kernel.before_call = None
    hosts.kernel.kill(processes.alice)
    hosts.kernel.kill(processes.bob)
    hosts.started += STARTS
    hosts.now_s += 3600.0
    fetch(hosts, at_most_s=AT_MOST_S)
    assert SHAPE.content == hosts.run("alice", lambda: read(TARGET))
    assert [NAME] == hosts.run("alice", lambda: os.listdir(INBOX))


@pytest.mark.parametrize("host", ["alice", "bob"])
def test_each_storage_call_fails_with_each_error(host: Literal["alice", "bob"]) -> None:
    """Once and for good: an identical file, or an error that says what was wrong; then it goes."""
    calls, outcomes = calls_of(host, SHAPE), Counter[str]()
    for nth, number, forever in failures(calls):
        try:
            outcomes[check_call_failing(host, nth, number, forever)] += 1
        except Exception as error:
            how = "for good" if forever else "once"
            what = f"{calls[nth]} (call {nth} of {host}) {errno.errorcode[number]} {how}"
            raise AssertionError(f"{what}: {error!r}") from error
    print(f"{host}: {len(calls)} calls, {outcomes.total()} failures: {dict(outcomes)}")

    assert len(calls) > 60
    assert outcomes.total() > 20


# ---------------------------------------------------------------- the carrier

#: What the port allows each call to raise; and, `after`, though it had its effect.
CARRIED: dict[str, tuple[tuple[type[ChunkqError], bool], ...]] = {
    "publish": (
        (Nacked, False),
        (Unroutable, False),
        (OutcomeUnknown, False),
        (OutcomeUnknown, True),
        (BrokerRefused, False),
        (TransportClosed, False),
    ),
    "consume": ((BrokerRefused, False), (BrokerUnreachable, False)),
    "receive": ((BrokerRefused, False), (TransportClosed, False)),
}


@dataclass
class FailingCarrier:
    """The transport's hook: the nth call of its kind raises; `forever`: and all after it."""

    kind: str
    nth: int
    error: type[ChunkqError] | None = None
    after: bool = False
    forever: bool = False
    calls: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str, about: object, done: bool) -> None:
        if name != self.kind or done != self.after:
            return
        call = self.calls[name]
        self.calls[name] += 1
        if self.error is not None and (call == self.nth or (self.forever and call > self.nth)):
            raise self.error(f"{name} failed as the test wanted")

    def wrap(self, transport: Transport) -> Transport:
        return HookedTransport(transport, self)


def fetch_over(
    host: str, hosts: Hosts, processes: Processes, carrier: FailingCarrier
) -> ChunkqError | TimeoutError | None:
    wrapped: Mapping[str, Wrap] = {f"wrap_{host}": carrier.wrap}
    try:
        fetch(
            hosts,
            processes,
            wrap_alice=wrapped.get("wrap_alice"),
            wrap_bob=wrapped.get("wrap_bob"),
            at_most_s=AT_MOST_S,
        )
    except (ChunkqError, TimeoutError) as error:
        return error
    return None


def carrier_failures(host: str) -> Iterator[FailingCarrier]:
    """All of them, or a slice."""
    everything = []
    for kind, errors in CARRIED.items():
        hosts, watching = prepared(SHAPE), FailingCarrier(kind, -1)
        assert fetch_over(host, hosts, new_processes(), watching) is None
        everything += [
            FailingCarrier(kind, nth, error, after, forever)
            for nth in range(watching.calls[kind])
            for error, after in errors
            for forever in (False, True)
        ]
    return iter(everything[:: max(1, EVERY // 3)])


def check_carrier_failing(host: str, failing: FailingCarrier) -> str:
    hosts, processes = prepared(SHAPE), new_processes()
    outcome = fetch_over(host, hosts, processes, failing)
    if outcome is None:
        hosts.run("alice", lambda: check_finished(SHAPE))
    elif isinstance(outcome, TimeoutError):
        assert failing.forever, "one failure and it never ends"
    assert [] == hosts.unheard
    assert [] == hosts.kernel.open_fds(processes.alice)
    check_runs_again(hosts, processes)
    return type(outcome).__name__


@pytest.mark.parametrize("host", ["alice", "bob"])
def test_each_transport_call_fails_with_each_error(host: str) -> None:
    """As with storage: a file or a named error, and the next run finishes."""
    outcomes = Counter[str]()
    for failing in carrier_failures(host):
        try:
            outcomes[check_carrier_failing(host, failing)] += 1
        except Exception as error:
            raise AssertionError(f"{host}: {failing}: {error!r}") from error
    print(f"{host}: {outcomes.total()} failures: {dict(outcomes)}")

    assert outcomes.total() > 10
