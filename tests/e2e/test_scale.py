"""Memory that does not grow with the file, and a sparse file that stays small everywhere.

The slices here are what `make test` has time for; `make scale` runs the full sizes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.protocol.limits import GIB, MIB
from chunkq.storage.transfers import TransferSummary, list_transfers
from tests.e2e.processes import (
    Pair,
    Process,
    asked_after,
    available_disk,
    random_file,
    same,
    wait_until,
)
from tests.support.broker import Broker

#: What one process may have resident, at any size of file.
MOST_RESIDENT_MIB = 96.0
#: How often a kill half way is tried.
MOST_TRIES = 20
#: `make scale` sets these: 16 and 100.
LARGE_GIB = float(os.environ.get("CHUNKQ_TEST_SCALE_LARGE_GIB", "1"))
SPARSE_GIB = int(os.environ.get("CHUNKQ_TEST_SCALE_SPARSE_GIB", "12"))
#: What the sparse file is compared with.
DENSE_BYTES = GIB if SPARSE_GIB >= 100 else GIB // 4


@pytest.fixture
def pair(broker: Broker, vhost: str, tmp_path: Path) -> Iterator[Pair]:
    url = broker.url(vhost=vhost)
    made = Pair.make(tmp_path, url, url)
    yield made
    made.end()


def sparse_file(path: Path, size_gib: int) -> None:
    """Zeros, but for one random MiB in every GiB."""
    with path.open("wb") as file:
        file.truncate(size_gib * GIB)
        for number in range(size_gib):
            file.seek(number * GIB)
            file.write(os.urandom(MIB))


def data_runs(path: Path) -> list[tuple[int, int]]:
    """Where a file has data, as `(start, stop)`, from the file system."""
    runs, at = [], 0
    with path.open("rb") as file:
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return runs
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            runs.append((start, at))


def same_sparse(first: Path, second: Path) -> bool:
    """Whether two sparse files are equal, without reading their holes."""
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as one, second.open("rb") as other:
        for start, stop in sorted({*data_runs(first), *data_runs(second)}):
            one.seek(start)
            other.seek(start)
            if one.read(stop - start) != other.read(stop - start):
                return False
    return True


def disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def summary(inbox: Path) -> TransferSummary | None:
    found = list_transfers(inbox)
    return found[0] if found else None


def seconds_to_first_request(pair: Pair, worker: Process, name: str) -> float:
    """From the start of a resumed `get` to its first request for chunks that is answered."""
    began = time.time()
    getting = pair.alice.start("get", f"bob:files/{name}", str(pair.inbox / name))
    wait_until(
        lambda: (
            getting.popen.poll() is not None
            or any(asked_after(event, began) for event in worker.events)
        )
    )
    taken = time.time() - began
    assert 0 == getting.wait(), getting.log.read_text()
    return taken


def stop_half_way(pair: Pair, name: str, chunks_with_data: int) -> None:
    """Kill a `get` when some of its data is committed and some is not.

    A file with little data may be whole before that is seen; then it is got once more.
    """
    for _ in range(MOST_TRIES):
        getting = pair.alice.start(
            "get", f"bob:files/{name}", str(pair.inbox / name), CHUNKQ_REQUESTER_COMMIT_SIZE="1MiB"
        )
        wait_until(lambda g=getting: g.popen.poll() is not None or part_way(pair, chunks_with_data))
        getting.kill()
        if part_way(pair, chunks_with_data):
            return
        for path in (pair.inbox / name, pair.inbox / ".chunkq"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    raise AssertionError(f"it was whole {MOST_TRIES} times before it could be killed")


def part_way(pair: Pair, chunks_with_data: int) -> bool:
    found = summary(pair.inbox)
    missing = 0 if found is None else found.chunks_total - found.chunks_present
    return 0 < missing < chunks_with_data


@pytest.mark.rabbitmq
@pytest.mark.large
@pytest.mark.timeout(3000)
def test_memory_stays_bounded(pair: Pair) -> None:
    """Neither the requester nor the origin holds more than 96 MiB, whatever the size."""
    size = int(LARGE_GIB * GIB)
    assert available_disk(pair.files) > 2 * size + 4 * GIB, "not enough disk for this test"
    worker = pair.bob.serve()
    worker.watch_memory()
    random_file(pair.files / "large", size)
    getting = pair.alice.start("get", "bob:files/large", str(pair.inbox / "large"))
    getting.watch_memory()
    assert 0 == getting.popen.wait(timeout=2400), getting.log.read_text()
    assert same(pair.files / "large", pair.inbox / "large")
    peaks = {"requester": getting.peak_mib, "origin": worker.peak_mib}
    print(json.dumps({"size_gib": LARGE_GIB, "peak_mib": peaks}))
    assert {} == {who: peak for who, peak in peaks.items() if not 0 < peak < MOST_RESIDENT_MIB}


@pytest.mark.rabbitmq
@pytest.mark.large
@pytest.mark.timeout(1800)
def test_sparse_file_stays_sparse_and_resumes(pair: Pair) -> None:
    """Holes cost no disk and no request; a resume costs no more than a small file's."""
    sparse_file(pair.files / "image", SPARSE_GIB)
    random_file(pair.files / "dense", DENSE_BYTES)
    worker = pair.bob.serve()
    seconds = {}
    for name, data_chunks in (("dense", DENSE_BYTES >> 18), ("image", 4 * SPARSE_GIB)):
        stop_half_way(pair, name, data_chunks)
        seconds[name] = seconds_to_first_request(pair, worker, name)
    assert same_sparse(pair.files / "image", pair.inbox / "image")
    assert same(pair.files / "dense", pair.inbox / "dense")
    assert disk_bytes(pair.inbox / "image") < (SPARSE_GIB + 8) * MIB
    found = pair.alice.run("status")
    assert "" == found
    print(json.dumps({"sparse_gib": SPARSE_GIB, "first_request_s": seconds}))


@pytest.mark.rabbitmq
@pytest.mark.large
@pytest.mark.timeout(600)
def test_others_are_served_while_a_file_is_hashed(pair: Pair) -> None:
    """The requester is told how far the hash is, and a small file comes at once."""
    sparse_file(pair.files / "image", max(SPARSE_GIB, 40))
    (pair.files / "small").write_text("a small file")
    pair.bob.serve()
    waiting = pair.alice.start("get", "--json", "bob:files/image", str(pair.inbox / "image"))
    wait_until(lambda: any(event.get("waiting") == "preparing" for event in waiting.events))
    pair.alice.run("get", "bob:files/small", str(pair.inbox / "small"))
    assert "a small file" == (pair.inbox / "small").read_text()
    assert not any(event.get("chunks_total") for event in waiting.events)
    assert waiting.popen.poll() is None
    waiting.kill()
