"""`memory`: what requester and origin have resident at most, at two sizes of file.

By the kernel's own high-water mark (VmHWM) of fresh processes over RabbitMQ. The source is random
bytes, as packing and holes would make a file smaller than it is.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.measure import Report, Settings
from tests.e2e.processes import Pair, Process, available_disk, random_file, same, wait_until
from tests.support.broker import Broker

DEFAULT_MIB = 16 * 1024
#: How many times as large the larger file is.
TIMES = 16
#: What the broker, the logs and whoever shares the disk may take meanwhile, beside both copies.
SPARE_BYTES = 4 << 30
#: Of a file of 16 GiB on a machine that is busy with something else.
DEADLINE_S = 3600.0


def run(settings: Settings) -> Report:
    wanted = settings.size_bytes(DEFAULT_MIB)
    large = _fitting(wanted, available_disk(settings.root))
    broker = Broker.start(settings.root / "node")
    try:
        peaks = {
            size: _peaks(settings.root / f"{size}", broker.url(vhost=broker.add_vhost()), size)
            for size in (large // TIMES, large)
        }
    finally:
        broker.stop()
    report = Report(f"memory: {large // TIMES >> 20} and {large >> 20} MiB over RabbitMQ")
    if large < wanted:
        needed = 2 * wanted + SPARE_BYTES
        report.row(
            f"missing: room for {wanted >> 20} MiB",
            f"{needed >> 30} GiB free in {settings.root.parent}; the largest that fits was taken",
        )
    report.figures["size_mib"] = large >> 20
    for size, found in peaks.items():
        for who, peak in found.items():
            report.figure(f"{who}_{size >> 20}_mib", f"{who}, {size >> 20} MiB", peak, " MiB")
    report.figure(
        "rss_mib_max", "largest", max(max(found.values()) for found in peaks.values()), " MiB"
    )
    small_peaks, large_peaks = peaks[large // TIMES], peaks[large]
    report.figure(
        "rss_ratio",
        f"{large >> 20} MiB ÷ {large // TIMES >> 20} MiB",
        max(large_peaks[who] / small_peaks[who] for who in small_peaks),
    )
    return report


def _fitting(wanted_bytes: int, free_bytes: int) -> int:
    """The size itself, or that halved until source and destination fit."""
    size = wanted_bytes
    while size > TIMES << 20 and 2 * size + SPARE_BYTES > free_bytes:
        size //= 2
    return size


def _peaks(root: Path, link: str, size_bytes: int) -> dict[str, float]:
    """Get one file of that size from a fresh origin; nothing of it is left."""
    pair = Pair.make(root, link, link)
    source, target = pair.files / "file", pair.inbox / "file"
    try:
        random_file(source, size_bytes)
        worker = _serving(pair)
        getting = pair.alice.start("--quiet", "get", "bob:files/file", str(target))
        getting.watch_memory()
        assert getting.popen.wait(DEADLINE_S) == 0, getting.log.read_text()
        assert same(source, target), "what arrived is not what was sent"
        return {"requester": getting.peak_mib, "origin": worker.peak_mib}
    finally:
        pair.end()
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _serving(pair: Pair) -> Process:
    """An origin with its usual logging."""
    worker = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
    wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
    worker.watch_memory()
    return worker
