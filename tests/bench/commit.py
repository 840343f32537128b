"""`commit`: what durability costs. One large file with the commits on, and with them off.

Off is made here and nowhere else: in a requester of the benchmark's own, fdatasync of the part
file does nothing and no slot of the state file is written. All else is the same: the group of
64 MiB, the acknowledgements after it, the read-back, and the fsync of the finished file.
"""

from __future__ import annotations

import asyncio
import sys
from unittest import mock

from chunkq.storage.partfile import PartFile
from chunkq.storage.statefile import StateFile
from tests.bench import requester
from tests.bench.getting import Getting
from tests.bench.measure import Report, Settings, alternate, rate, ratio
from tests.support.broker import Broker

DEFAULT_MIB = 1024


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    broker = Broker.start(settings.root / "node")
    try:
        url = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", url, size) as getting:
            off = getting.another("tests.bench.commit")
            getting.running_unknown()  # from now on the origin has its manifest
            seconds = alternate(
                {
                    "commit on": getting.running_known,
                    "commit off": lambda: getting.running_known(off),
                },
                settings,
            )
    finally:
        broker.stop()
    report = Report(f"commit: {size >> 20} MiB over RabbitMQ, {settings.pairs} rounds")
    for key, name in (("on", "commit on"), ("off", "commit off")):
        value = rate(size, seconds[name])
        report.figure(f"mb_per_s_{key}", f"{name}, link open, hashed before", value, " MB/s")
    report.figure("ratio", "on ÷ off", ratio(seconds, "commit on", "commit off"))
    return report


def main() -> None:
    """The requester whose commits do nothing; as `tests.bench.requester` else."""
    with (
        mock.patch.object(PartFile, "sync", return_value=None),
        mock.patch.object(StateFile, "store", return_value=None),
    ):
        asyncio.run(requester.serve(*sys.argv[1:]))


if __name__ == "__main__":
    main()
