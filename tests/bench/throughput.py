"""`throughput`: one large file through a private RabbitMQ, against stock pika with bare bytes.

On both sides everything runs and is connected before the clock starts; ours ends when the file is
published and durable. The whole `chunkq get`, start of the process and all, has keys of its own.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from tests.bench.getting import Getting
from tests.bench.measure import Report, Settings, alternate, rate, ratio, timed
from tests.support.broker import Broker

DEFAULT_MIB = 1024
#: No run takes so long on a machine that works.
DEADLINE_S = 240


def stock_pika(url: str, size_bytes: int) -> Callable[[], float]:
    """A run of the peer: from the word to begin, both connections open, to the last body."""
    count = size_bytes // DEFAULT_CHUNK_SIZE_BYTES
    numbers = itertools.count(1)

    def run() -> float:
        queue = f"bare{next(numbers)}"
        program = [sys.executable, "-m", "tests.bench.stock_pika"]
        what = [url, queue, str(count), str(DEFAULT_CHUNK_SIZE_BYTES)]
        with ExitStack() as stack:
            consumer = stack.enter_context(_ready([*program, "consume", *what]))
            publisher = stack.enter_context(_ready([*program, "publish", *what]))

            def move() -> None:
                assert publisher.stdin is not None
                publisher.stdin.write(b"begin\n")
                publisher.stdin.flush()
                assert consumer.wait(DEADLINE_S) == 0, "the stock consumer failed"

            taken = timed(move)
            assert publisher.wait(DEADLINE_S) == 0, "the stock publisher failed"
            return taken

    return run


@contextmanager
def _ready(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said `ready`; ended with the block."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", f"{command} did not start"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    broker = Broker.start(settings.root / "node")
    try:
        url = broker.url(vhost=broker.add_vhost())
        bare = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", url, size) as getting:
            seconds = alternate(
                {
                    "chunkq": getting.running_unknown,
                    "stock pika": stock_pika(bare, size),
                    "chunkq, hashed before": getting.running_known,
                    "chunkq get": getting.unknown,
                },
                settings,
            )
            peaks = getting.peaks
            version = broker.version()
    finally:
        broker.stop()
    report = Report(f"throughput: {size >> 20} MiB over RabbitMQ, {settings.pairs} rounds")
    report.about["RabbitMQ"] = version
    ours, known, theirs = "chunkq", "chunkq, hashed before", "stock pika"
    command = "chunkq get"
    report.figure(
        "mb_per_s", "chunkq, link open, file new to the origin", rate(size, seconds[ours]), " MB/s"
    )
    for key, name, which in (
        ("hashed_before", "the same, file hashed before", known),
        ("command", "chunkq get, whole process, file new to the origin", command),
    ):
        report.figure(f"mb_per_s_{key}", name, rate(size, seconds[which]), " MB/s")
    report.row("stock pika, links open, bare bytes", f"{rate(size, seconds[theirs]):.0f} MB/s")
    report.figure("ratio_stock_pika", "chunkq ÷ stock pika", ratio(seconds, ours, theirs))
    for key, which in (("hashed_before", known), ("command", command)):
        value = ratio(seconds, which, theirs)
        report.figure(f"ratio_stock_pika_{key}", f"{which} ÷ stock pika", value)
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
    return report
