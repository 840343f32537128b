"""`workers`: 1, 2 and 4 origin workers and 1, 2 and 4 requesters, each with a file of its own.

The aggregate rate over one RabbitMQ: the bytes of all files over the time until the last of them
is published. Requesters and workers run and are connected before; the files are hashed before.
On a machine with fewer cores than processes it shows what sharing them costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.getting import ask, start_requester, told
from tests.bench.measure import MIB, Report, Settings, alternate, rate, timed
from tests.e2e.processes import Pair, Process, random_file, same, wait_until
from tests.support.broker import Broker

#: Of all files of a run together.
DEFAULT_MIB = 512
COUNTS = (1, 2, 4)


class Pool:
    """Requesters that run; origin workers are started for each run."""

    def __init__(self, root: Path, link: str, size_bytes: int, counts: Sequence[int]) -> None:
        self.pair = Pair.make(root, link, link)
        for requesters in counts:
            for number in range(requesters):
                random_file(self.pair.files / _name(requesters, number), size_bytes // requesters)
        with self.serving(1):
            self.requesters = [start_requester(self.pair.alice, "bob") for _ in range(max(counts))]
            for requesters in counts:
                self._move(requesters)
                self._check(requesters)

    def run(self, workers: int, requesters: int) -> float:
        with self.serving(workers):
            taken = timed(partial(self._move, requesters))
            self._check(requesters)
        return taken

    def close(self) -> None:
        for requester in self.requesters:
            requester.popen.communicate(timeout=60)
        self.pair.end()

    @contextmanager
    def serving(self, count: int) -> Iterator[None]:
        workers = [self.pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json") for _ in range(count)]
        try:
            wait_until(lambda: all(map(_serves, workers)))
            yield
        finally:
            codes = [worker.stop() for worker in workers]
        assert [0] * count == codes

    def _move(self, requesters: int) -> None:
        for number in range(requesters):
            name = _name(requesters, number)
            ask(self.requesters[number], f"bob:files/{name}", self.pair.inbox / name)
        for number in range(requesters):
            told(self.requesters[number])

    def _check(self, requesters: int) -> None:
        for number in range(requesters):
            name = _name(requesters, number)
            target = self.pair.inbox / name
            assert same(self.pair.files / name, target), "what arrived is not what was sent"
            target.unlink()


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    counts = [count for count in COUNTS if count <= settings.counted(max(COUNTS))]
    cases = list(itertools.product(counts, counts))
    with ExitStack() as stack:
        broker = Broker.start(settings.root / "node")
        stack.callback(broker.stop)
        url = broker.url(vhost=broker.add_vhost())
        pool = Pool(settings.root / "sites", url, size, counts)
        stack.callback(pool.close)
        runs: dict[str, Callable[[], float]] = {
            _key(*case): partial(pool.run, *case) for case in cases
        }
        seconds = alternate(runs, settings)
    report = Report(
        f"workers: {size // MIB} MiB in all over RabbitMQ, {settings.pairs} rounds, MB/s together"
    )
    for workers, requesters in cases:
        key = _key(workers, requesters)
        words = f"{_of(workers, 'worker')}, {_of(requesters, 'requester')}"
        report.figure(f"mb_per_s_{key}", words, rate(size, seconds[key]), " MB/s")
    return report


def _name(requesters: int, number: int) -> str:
    return f"{number + 1}of{requesters}"


def _key(workers: int, requesters: int) -> str:
    return f"{workers}w_{requesters}r"


def _of(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _serves(worker: Process) -> bool:
    return any(event.get("event") == "serving" for event in worker.events)
