"""`throughput`: one large file through a private RabbitMQ, against stock pika with bare bytes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from tests.bench.getting import Getting
from tests.bench.measure import Report, Settings, alternate, rate, ratio, timed
from tests.support.broker import Broker

DEFAULT_MIB = 1024
#: No run takes so long on a machine that works.
DEADLINE_S = 240


def stock_pika(url: str, size_bytes: int) -> Callable[[], float]:
    """A run of the peer. As with chunkq, one side is running already and the other is started."""
    count = size_bytes // DEFAULT_CHUNK_SIZE_BYTES
    numbers = itertools.count(1)

    def run() -> float:
        queue = f"bare{next(numbers)}"
        program = [sys.executable, "-m", "tests.bench.stock_pika"]
        what = [url, queue, str(count), str(DEFAULT_CHUNK_SIZE_BYTES)]
        consumer = subprocess.Popen([*program, "consume", *what], stdout=subprocess.PIPE)
        publisher: subprocess.Popen[bytes] | None = None

        def publish() -> None:
            nonlocal publisher
            publisher = subprocess.Popen([*program, "publish", *what])
            assert consumer.wait(DEADLINE_S) == 0, "the stock consumer failed"

        try:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"ready\n", "the stock consumer did not start"
            taken = timed(publish)
            assert publisher is not None
            assert publisher.wait(DEADLINE_S) == 0, "the stock publisher failed"
            return taken
        finally:
            for process in (consumer, publisher):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
            assert consumer.stdout is not None
            consumer.stdout.close()

    return run


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    broker = Broker.start(settings.root / "node")
    try:
        url = broker.url(vhost=broker.add_vhost())
        bare = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", url, size) as getting:
            seconds = alternate(
                {
                    "chunkq": getting.unknown,
                    "stock pika": stock_pika(bare, size),
                    "chunkq, hashed before": getting.known,
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
    report.figure(
        "mb_per_s", "chunkq get, file new to the origin", rate(size, seconds[ours]), " MB/s"
    )
    known_rate = rate(size, seconds[known])
    report.figure("mb_per_s_hashed_before", "the same, file hashed before", known_rate, " MB/s")
    report.row("stock pika, bare bytes", f"{rate(size, seconds[theirs]):.0f} MB/s")
    report.figure("ratio_stock_pika", "chunkq ÷ stock pika", ratio(seconds, ours, theirs))
    report.figure(
        "ratio_stock_pika_hashed_before",
        "chunkq ÷ stock pika, file hashed before",
        ratio(seconds, known, theirs),
    )
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
    return report
