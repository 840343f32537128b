"""What was acted upon stays remembered: across workers, restarts, kills and power cuts."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chunkq.errors import EpochLost, StorageError, SyncFailed
from chunkq.protocol.limits import MAX_EPOCHS_PER_PEER, REPLAY_WINDOW_COUNTERS
from chunkq.protocol.packet import RequestId
from chunkq.storage import descriptors, replayfile
from chunkq.storage.replayfile import ReplayFile
from chunkq.storage.replays import (
    MAX_COUNTER,
    MAX_OPEN,
    MAX_STEP,
    MIN_STEP,
    ReplayStore,
    current_boot_id,
    epoch_floor_at,
)
from tests.storage.crashes import FailingCall, killed_at_every_step

PEER, OTHER = b"p" * 32, b"o" * 32
BOOT, NEXT_BOOT = b"b" * 16, b"c" * 16
NOW_MS = 1_700_000_000_000
EPOCH = (NOW_MS - 1000) << 20 | 77
#: An epoch that begins after `NOW_MS`.
LATER = (NOW_MS + 1) << 20 | 5

WORKER = """
import sys
from chunkq.protocol.packet import RequestId
from chunkq.storage.replays import ReplayStore
store = ReplayStore(sys.argv[1], boot_id=b"b" * 16)
epoch, count = int(sys.argv[2]), int(sys.argv[3])
print(*(c for c in range(count) if store.record(b"p" * 32, RequestId(epoch, c))))
"""
ENDLESS = """
import itertools, sys
from chunkq.protocol.packet import RequestId
from chunkq.storage.replays import ReplayStore
store = ReplayStore(sys.argv[1], boot_id=b"b" * 16)
for counter in itertools.count():
    assert store.record(b"p" * 32, RequestId(int(sys.argv[2]), counter * 3))
    print(counter * 3, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replays"


def open_store(path: Path, boot: bytes = BOOT, now_ms: int = NOW_MS) -> ReplayStore:
    return ReplayStore(path, boot_id=boot, wall_ms=lambda: now_ms)


@pytest.fixture
def store(path: Path) -> ReplayStore:
    opened = open_store(path)
    opened.create(PEER)
    return opened


def the_file(path: Path) -> Path:
    return path / f"{PEER.hex()}.replay"


def request(counter: int, epoch: int = EPOCH) -> RequestId:
    return RequestId(epoch, counter)


# ---------------------------------------------------------------- one worker


def test_a_request_counts_once(store: ReplayStore) -> None:
    """Seen after it was recorded, and only that one."""
    for counter in (0, 5, 3, 70_000, 69_999):
        assert not store.seen(PEER, request(counter))
        assert store.record(PEER, request(counter))

        assert store.seen(PEER, request(counter))
        assert not store.record(PEER, request(counter))
    assert not store.seen(PEER, request(4 + 60_000))


def test_what_is_older_than_the_window_counts_as_seen(store: ReplayStore) -> None:
    """It cannot be told."""
    store.record(PEER, request(REPLAY_WINDOW_COUNTERS + 10))

    assert store.seen(PEER, request(10))
    assert not store.record(PEER, request(10))
    assert not store.seen(PEER, request(11))


def test_epochs_and_peers_do_not_mix(store: ReplayStore) -> None:
    """Several requesters of a site, and several sites."""
    store.create(OTHER)
    store.record(PEER, request(1))

    assert not store.seen(PEER, request(1, EPOCH + 1))
    assert not store.seen(OTHER, request(1))
    assert store.record(PEER, request(1, EPOCH + 1))
    assert store.record(OTHER, request(1))


def test_seen_changes_nothing(store: ReplayStore, path: Path) -> None:
    """It is asked before the signature holds: anybody could fill the record."""
    assert not store.seen(PEER, request(0))  # who is the first makes its name durable, and notes it
    before = the_file(path).read_bytes()
    for number in range(100):
        assert not store.seen(PEER, request(number, EPOCH + number))

    assert before == the_file(path).read_bytes()


def test_epochs_per_peer_are_bounded_and_the_oldest_is_refused_for_good(
    store: ReplayStore, path: Path
) -> None:
    """It makes way for a new one; the answer says which epochs are taken."""
    for number in range(MAX_EPOCHS_PER_PEER + 1):
        assert store.record(PEER, request(0, EPOCH + number))

    assert store.record(PEER, request(1, EPOCH + MAX_EPOCHS_PER_PEER))
    for reader in (store, open_store(path), open_store(path, NEXT_BOOT)):
        for counter in (0, 1, 10**6):
            with pytest.raises(EpochLost) as caught:
                reader.record(PEER, request(counter, EPOCH))
            assert EPOCH <= caught.value.epoch_floor < EPOCH + 2


def test_a_new_epoch_older_than_all_that_are_kept_is_refused(store: ReplayStore) -> None:
    """It would be the first to go."""
    for number in range(MAX_EPOCHS_PER_PEER):
        store.record(PEER, request(0, EPOCH + 10 + number))

    with pytest.raises(EpochLost) as caught:
        store.record(PEER, request(0, EPOCH))
    assert EPOCH + 10 == caught.value.epoch_floor
    with pytest.raises(EpochLost):
        store.seen(PEER, request(0, EPOCH))


@pytest.mark.parametrize("counter", [MAX_COUNTER, MAX_COUNTER - 1, 2**63])
def test_the_largest_numbers_are_numbers(store: ReplayStore, counter: int) -> None:
    """A peer may send any counter and any epoch."""
    assert store.record(PEER, request(counter, 2**64 - 1))
    assert not store.record(PEER, request(counter, 2**64 - 1))


def test_epoch_zero_is_no_epoch(store: ReplayStore) -> None:
    """It is at the floor, whatever the floor is."""
    with pytest.raises(EpochLost):
        store.record(PEER, request(1, 0))


# ---------------------------------------------------------------- restarts


def test_requests_again_after_a_restart_are_seen(store: ReplayStore, path: Path) -> None:
    """The process ended; the machine went on: every counter is remembered one by one."""
    recorded = random.Random(1).sample(range(50_000), 500)
    for counter in recorded:
        store.record(PEER, request(counter))
    store.close()
    again = open_store(path)

    assert all(again.seen(PEER, request(counter)) for counter in recorded)
    fresh = [counter for counter in range(0, 50_000, 997) if counter not in recorded]
    assert not any(again.seen(PEER, request(counter)) for counter in fresh)


def test_power_cut_refuses_up_to_the_ceiling_and_says_the_way_out(
    store: ReplayStore, path: Path
) -> None:
    """What lies above goes on; a new epoch is free."""
    for counter in range(100):
        store.record(PEER, request(counter))
    store.close()
    again = open_store(path, NEXT_BOOT)
    ceiling = 65 + MIN_STEP + 1

    for counter in (0, 99, 100, ceiling - 1):
        with pytest.raises(EpochLost) as caught:
            again.seen(PEER, request(counter))
        assert EPOCH == caught.value.epoch_floor
        with pytest.raises(EpochLost):
            again.record(PEER, request(counter))
    assert again.record(PEER, request(MAX_STEP))
    assert again.record(PEER, request(0, EPOCH + 1))
    assert again.seen(PEER, request(MAX_STEP))


def test_power_cut_that_drops_every_unsynced_page(store: ReplayStore, path: Path) -> None:
    """The bits are gone and only what was synced is there: still nothing is accepted twice."""
    images = []
    for counter in range(0, 30_000, 7):
        store.record(PEER, request(counter))
        durable = the_file(path).read_bytes()[:4096]
        images.append((counter, durable.ljust(replayfile.FILE_SIZE_BYTES, b"\0")))
    store.close()

    for counter, image in random.Random(2).sample(images, 60):
        the_file(path).write_bytes(image)
        again = open_store(path, NEXT_BOOT)
        for each in (0, counter // 2, counter):
            with pytest.raises(EpochLost):
                again.record(PEER, request(each))
        again.close()


def test_one_fsync_serves_many_requests(
    store: ReplayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand requests in a row cost fewer than twenty."""
    syncs = FailingCall(monkeypatch, "fdatasync", errno.EIO, at=10**9)
    for counter in range(10_000):
        store.record(PEER, request(counter))

    assert 2 <= syncs.calls < 20


def test_nothing_is_accepted_above_the_durable_ceiling(
    store: ReplayStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ceiling cannot be made durable, the request is refused and may come again."""
    store.record(PEER, request(0))
    before = the_file(path).read_bytes()[:4096]
    FailingCall(monkeypatch, "fdatasync", errno.EIO)

    with pytest.raises(SyncFailed):
        store.record(PEER, request(5000))

    assert before == the_file(path).read_bytes()[:4096]
    assert store.record(PEER, request(5000))
    assert before != the_file(path).read_bytes()[:4096]


def test_a_new_epoch_that_cannot_be_made_durable_is_refused(
    store: ReplayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut nobody would know of it."""
    FailingCall(monkeypatch, "fdatasync", errno.EIO)

    with pytest.raises(SyncFailed):
        store.record(PEER, request(0))
    assert store.record(PEER, request(0))


def test_a_new_epoch_that_cannot_be_written_is_not_remembered_by_one_worker_alone(
    store: ReplayStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one begins it anew, and what the first has recorded counts again."""
    with monkeypatch.context() as patch:
        FailingCall(patch, "pwritev", errno.EIO, times=2)
        with pytest.raises(StorageError):
            store.record(PEER, request(0))
    assert store.record(PEER, request(0))
    assert open_store(path).record(PEER, request(1))

    assert not store.record(PEER, request(0))


def test_the_oldest_epoch_keeps_its_requests_if_its_place_cannot_be_taken(
    store: ReplayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acted upon in it must not count again."""
    for number in range(MAX_EPOCHS_PER_PEER):
        store.record(PEER, request(0, EPOCH + number))
    with monkeypatch.context() as patch:
        FailingCall(patch, "fdatasync", errno.EIO)
        with pytest.raises(SyncFailed):
            store.record(PEER, request(0, LATER))

    assert not store.record(PEER, request(0))
    assert store.record(PEER, request(1))


def test_the_boot_id_of_this_machine_does_not_change() -> None:
    """While it runs."""
    assert 16 == len(current_boot_id())
    assert current_boot_id() == current_boot_id()


# ---------------------------------------------------------------- lost and torn


def test_a_lost_record_refuses_everything_begun_before(store: ReplayStore, path: Path) -> None:
    """Also an epoch that was never used; one begun from now on is taken."""
    store.record(PEER, request(1))
    the_file(path).unlink()

    for epoch in (EPOCH, EPOCH + 1, NOW_MS << 20, epoch_floor_at(NOW_MS)):
        for act in (store.seen, store.record):
            with pytest.raises(EpochLost) as caught:
                act(PEER, request(9, epoch))
            assert epoch_floor_at(NOW_MS) == caught.value.epoch_floor
    assert store.record(PEER, request(0, LATER))


def test_a_peer_without_a_record_is_treated_as_one_whose_record_was_lost(path: Path) -> None:
    """Only adding a peer makes a record that knows that nothing was there before."""
    store = open_store(path)

    with pytest.raises(EpochLost):
        store.record(PEER, request(0))
    assert the_file(path).exists()


def test_create_does_not_forget(store: ReplayStore) -> None:
    """A peer added again keeps its record: old requests must not come to life."""
    store.record(PEER, request(1))
    store.create(PEER)

    assert store.seen(PEER, request(1))


def test_a_torn_record_is_begun_anew_from_now(store: ReplayStore, path: Path) -> None:
    """Whatever byte of the durable part is wrong."""
    store.record(PEER, request(1))
    store.close()
    whole = the_file(path).read_bytes()

    for at in range(0, replayfile._DURABLE_BYTES, 7):
        the_file(path).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        again = open_store(path)
        with pytest.raises(EpochLost):
            again.record(PEER, request(1))
        assert again.record(PEER, request(1, LATER))
        again.close()


@pytest.mark.parametrize("size", [0, 100, 8191, replayfile.FILE_SIZE_BYTES - 1])
def test_a_truncated_record_does_not_end_the_process(
    store: ReplayStore, path: Path, size: int
) -> None:
    """Truncated while it is mapped: touching the map past its end would be SIGBUS."""
    store.record(PEER, request(1))
    os.truncate(the_file(path), size)

    with pytest.raises(EpochLost):
        store.record(PEER, request(2))
    assert store.record(PEER, request(2, LATER))


def test_a_record_of_another_peer_is_none_of_this_one(store: ReplayStore, path: Path) -> None:
    """Files mixed up in a restore."""
    store.create(OTHER)
    (path / f"{OTHER.hex()}.replay").rename(the_file(path))

    with pytest.raises(EpochLost):
        store.record(PEER, request(1))


def test_epoch_floor_at_refuses_all_of_its_millisecond() -> None:
    """Whatever the random bits."""
    floor = epoch_floor_at(NOW_MS)

    assert (NOW_MS << 20) + 2**20 - 1 == floor
    assert ((NOW_MS + 1) << 20) > floor


# ---------------------------------------------------------------- several workers


def test_two_stores_of_one_host_share_the_record(store: ReplayStore, path: Path) -> None:
    """What one records the other sees, at once."""
    other = open_store(path)
    for counter in range(0, 20_000, 3):
        assert (store if counter % 2 else other).record(PEER, request(counter))
        assert (other if counter % 2 else store).seen(PEER, request(counter))


def test_real_processes_win_each_request_once(store: ReplayStore, path: Path) -> None:
    """Four workers, the same 3,000 requests: each is acted upon by exactly one."""
    command = [sys.executable, "-c", WORKER, str(path), str(EPOCH), "3000"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    won = [int(word) for worker in workers for word in worker.communicate(timeout=60)[0].split()]

    assert [0, 0, 0, 0] == [worker.returncode for worker in workers]
    assert list(range(3000)) == sorted(won)


def test_threads_win_each_request_once(store: ReplayStore) -> None:
    """One store, several threads of a pool."""
    won: list[int] = []
    guard = threading.Lock()

    def work() -> None:
        for counter in range(1500):
            if store.record(PEER, request(counter)):
                with guard:
                    won.append(counter)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(range(1500)) == sorted(won)


def test_a_worker_killed_at_work_forgets_nothing(store: ReplayStore, path: Path) -> None:
    """kill -9 while it records as fast as it can: what it said it accepted is seen."""
    command = [sys.executable, "-c", ENDLESS, str(path), str(EPOCH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        said = [int(worker.stdout.readline()) for _ in range(700)]
        worker.kill()
        said += [int(line) for line in worker.stdout if line.endswith("\n")]
        assert -signal.SIGKILL == worker.wait()

    for counter in said:
        assert not accepts(store, counter), counter


def accepts(store: ReplayStore, counter: int) -> bool:
    try:
        return store.record(PEER, request(counter))
    except EpochLost:
        return False


def test_a_worker_killed_in_the_middle_of_a_change(store: ReplayStore, path: Path) -> None:
    """It left the entry marked: the epoch's past cannot be told and is refused."""
    store.record(PEER, request(1))
    with the_file(path).open("r+b") as file:
        file.seek(replayfile._MARKS_OFFSET + 8)
        file.write((1).to_bytes(8, sys.byteorder))

    with pytest.raises(EpochLost):
        store.seen(PEER, request(1))
    with pytest.raises(EpochLost):
        store.record(PEER, request(2))
    ceiling = 1 + MIN_STEP
    assert store.record(PEER, request(ceiling + 1))
    assert store.seen(PEER, request(ceiling + 1))


def test_a_worker_killed_before_its_sync(
    store: ReplayStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is made durable by the next one before anything is built upon it."""
    store.record(PEER, request(1))
    with the_file(path).open("r+b") as file:
        file.seek(replayfile._UNSYNCED_OFFSET)
        file.write((1).to_bytes(8, sys.byteorder))
    syncs = FailingCall(monkeypatch, "fdatasync", errno.EIO)

    with pytest.raises(SyncFailed):
        store.record(PEER, request(2))
    assert store.record(PEER, request(2))
    assert store.record(PEER, request(3))

    assert 2 == syncs.calls


def test_kill_at_every_step_of_a_record(path: Path) -> None:
    """A new epoch, a raised ceiling: nothing that was accepted is accepted again."""
    told = path.parent / "told"

    def work() -> None:
        store = open_store(path)
        for counter in (0, 1, 5000):
            assert store.record(PEER, request(counter))
            with told.open("a") as file:
                file.write(f"{counter}\n")

    def reset() -> None:
        the_file(path).unlink(missing_ok=True)
        told.write_text("")
        open_store(path).create(PEER)

    def check(step: int) -> None:
        accepted = [int(line) for line in told.read_text().split()]
        for boot in (BOOT, NEXT_BOOT):
            store = open_store(path, boot)
            assert not any(accepts(store, counter) for counter in accepted), step
            store.close()

    assert killed_at_every_step(work, check, reset) >= 4


def test_a_record_whose_name_is_not_durable_is_used_by_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut would take it, with all that was acted upon; its directory may be new as well."""

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = open_store(path)
    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "sync_directory", broken)
        for _ in range(2):
            with pytest.raises(SyncFailed):
                store.record(PEER, request(1))
    synced: list[int] = []

    def note(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(descriptors, "sync_directory", note)
    with pytest.raises(EpochLost):  # it was begun now, and the request before that
        store.record(PEER, request(1))
    directory = the_file(path).parent
    assert [directory.stat().st_ino, directory.parent.stat().st_ino] == synced
    store.close()


def test_what_a_failed_sync_left_as_clean_is_written_again(
    store: ReplayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch was written and neither synced nor taken back: it is in memory alone, and a further
    sync would find nothing to do. Once it counts, a power cut must not take it.
    """
    done: list[str] = []
    write, sync = descriptors.write_full, os.fdatasync
    broken = True

    def failing_write(fd: int, offset: int, buffers: list[bytes]) -> None:
        if broken and "sync" in done:
            raise OSError(errno.EIO, "I/O error")
        done.append("write")
        write(fd, offset, buffers)

    def failing_sync(fd: int) -> None:
        done.append("sync")
        if broken:
            raise OSError(errno.EIO, "I/O error")
        sync(fd)

    monkeypatch.setattr(descriptors, "write_full", failing_write)
    monkeypatch.setattr(os, "fdatasync", failing_sync)
    with pytest.raises(StorageError):
        store.record(PEER, request(1))
    assert ["write", "sync"] == done
    broken = False
    done.clear()

    assert store.record(PEER, request(2))
    assert ["write", "sync"] == done[:2]
    store.close()


def test_many_peers_do_not_use_up_descriptors(path: Path) -> None:
    """A thousand peers, some hundred open files."""
    store = open_store(path)
    gc.collect()  # what other tests left open would else be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    peers = [number.to_bytes(32, "big") for number in range(1, 301)]
    for peer in peers:
        store.create(peer)
        store.record(peer, request(1))

    assert len(os.listdir("/proc/self/fd")) - before <= 2 * MAX_OPEN
    assert all(store.seen(peer, request(1)) for peer in peers)
    store.close()
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_damaged_record_that_cannot_be_replaced_yet_holds_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at that moment; later the same worker, or another, begins anew."""
    store = open_store(path)
    store.create(PEER)
    the_file(path).write_bytes(b"damaged")

    def fail(*_: object, **__: object) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ReplayFile, "create", fail)
        with pytest.raises(StorageError):
            store.record(PEER, request(1))

    with open(the_file(path), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert store.record(PEER, request(1, LATER))


def test_what_a_backup_of_the_record_is_worth(path: Path) -> None:
    """An old one that is put back knows nothing of what came after it; without one all that was
    begun before is refused. So the runbook says to leave it out.
    """
    request, later = RequestId(EPOCH, 1), RequestId(EPOCH + 1, 1)
    with_backup = open_store(path)
    with_backup.create(PEER)
    assert with_backup.record(PEER, request)
    (file,) = path.iterdir()
    backup = file.read_bytes()
    assert with_backup.record(PEER, later)
    with_backup.close()

    file.write_bytes(backup)
    restored = open_store(path)
    assert (True, False) == (restored.seen(PEER, request), restored.seen(PEER, later))
    restored.close()

    file.unlink()
    lost = open_store(path)
    for each in (request, later):
        with pytest.raises(EpochLost):
            lost.record(PEER, each)
    assert lost.record(PEER, RequestId(LATER, 1))
    lost.close()
