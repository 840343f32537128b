"""`throughput`: one large file through a private RabbitMQ, against clients that move bare bytes.

On both sides everything runs and is connected before the clock starts; ours ends when the file is
published and durable. The whole `chunkq get`, start of the process and all, has keys of its own.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pika

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from tests.bench import librabbitmq
from tests.bench.getting import Getting
from tests.bench.measure import (
    PeerMissing,
    Report,
    Seconds,
    Settings,
    alternate,
    rate,
    ratio,
    timed,
)
from tests.support.broker import Broker

DEFAULT_MIB = 1024
OURS, KNOWN, COMMAND = "chunkq", "chunkq, hashed before", "chunkq get"
#: No run takes so long on a machine that works.
DEADLINE_S = 240


#: Its consumer and its publisher are the words after it.
STOCK_PIKA = [sys.executable, "-m", "tests.bench.stock_pika"]


def bare(program: list[str], url: str, size_bytes: int) -> Callable[[], float]:
    """A run of a peer: from the word to begin, both connections open, to the last body."""
    count = size_bytes // DEFAULT_CHUNK_SIZE_BYTES
    numbers = itertools.count(1)

    def run() -> float:
        queue = f"bare{next(numbers)}"
        what = [url, queue, str(count), str(DEFAULT_CHUNK_SIZE_BYTES)]
        with ExitStack() as stack:
            consumer = stack.enter_context(_ready([*program, "consume", *what]))
            publisher = stack.enter_context(_ready([*program, "publish", *what]))

            def move() -> None:
                assert publisher.stdin is not None
                publisher.stdin.write(b"begin\n")
                publisher.stdin.flush()
                assert consumer.wait(DEADLINE_S) == 0, f"{program}: the consumer failed"

            taken = timed(move)
            assert publisher.wait(DEADLINE_S) == 0, f"{program}: the publisher failed"
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
    report = Report(f"throughput: {size >> 20} MiB over RabbitMQ, {settings.pairs} rounds")
    peers = {"stock pika": STOCK_PIKA}
    try:
        peers["librabbitmq"] = [str(librabbitmq.compiled(settings.root))]
    except PeerMissing as error:
        report.absent("ratio_librabbitmq", "librabbitmq, links open, bare bytes", str(error))
    broker = Broker.start(settings.root / "node")
    try:
        url = broker.url(vhost=broker.add_vhost())
        bare_url = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", url, size) as getting:
            seconds = alternate(
                {
                    OURS: getting.running_unknown,
                    **{name: bare(program, bare_url, size) for name, program in peers.items()},
                    KNOWN: getting.running_known,
                    COMMAND: getting.unknown,
                },
                settings,
            )
            peaks = getting.peaks
        report.about |= {"RabbitMQ": broker.version(), "pika": pika.__version__}
    finally:
        broker.stop()
    if "librabbitmq" in peers:
        report.about["librabbitmq"] = librabbitmq.version()
    _tell(report, size, seconds, list(peers))
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
    return report


def _tell(report: Report, size: int, seconds: Seconds, peers: list[str]) -> None:
    for key, name, which in (
        ("", "chunkq, link open, file new to the origin", OURS),
        ("_hashed_before", "the same, file hashed before", KNOWN),
        ("_command", "chunkq get, whole process, file new to the origin", COMMAND),
    ):
        report.figure(f"mb_per_s{key}", name, rate(size, seconds[which]), " MB/s")
    for peer in peers:
        name, key = f"{peer}, links open, bare bytes", peer.replace(" ", "_")
        report.figure(f"mb_per_s_{key}", name, rate(size, seconds[peer]), " MB/s")
        for suffix, which in (("", OURS), ("_hashed_before", KNOWN), ("_command", COMMAND)):
            value = ratio(seconds, which, peer)
            report.figure(f"ratio_{key}{suffix}", f"{which} ÷ {peer}", value)
