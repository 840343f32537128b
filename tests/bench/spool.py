"""`spool`: one large file over a spool, against a bare maildir loop and against cp and sync."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from chunkq.protocol.packet import REPLY_HEADER_SIZE_BYTES
from tests.bench.getting import Getting
from tests.bench.measure import Report, Settings, alternate, rate, ratio, timed

DEFAULT_MIB = 1024
#: A chunk, its header and its seal of 16 bytes: what our packets weigh.
MESSAGE_BYTES = DEFAULT_CHUNK_SIZE_BYTES + REPLY_HEADER_SIZE_BYTES + 16


class Maildir:
    """The steps that any maildir needs, and nothing else: no digest, no seal, no sync."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        self._target = root / "assembled"
        self._count = size_bytes // DEFAULT_CHUNK_SIZE_BYTES
        self._message = os.urandom(MESSAGE_BYTES)
        self._root = root
        for name in ("tmp", "new", "cur"):
            (root / name).mkdir(parents=True)

    def run(self) -> float:
        taken = timed(self._move)
        self._target.unlink()
        return taken

    def _move(self) -> None:
        tmp, new, cur = (f"{self._root}/{name}/" for name in ("tmp", "new", "cur"))
        body = memoryview(self._message)
        assembled = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for number in range(self._count):
                name = f"{number:016d}"
                descriptor = os.open(tmp + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                os.write(descriptor, body)
                os.close(descriptor)
                os.rename(tmp + name, new + name)
                os.rename(new + name, cur + name)
                descriptor = os.open(cur + name, os.O_RDONLY)
                got = os.read(descriptor, MESSAGE_BYTES)
                os.close(descriptor)
                chunk = memoryview(got)[-DEFAULT_CHUNK_SIZE_BYTES:]
                os.pwrite(assembled, chunk, number * DEFAULT_CHUNK_SIZE_BYTES)
                os.unlink(cur + name)
        finally:
            os.close(assembled)


def copy(source: Path, target: Path) -> float:
    """`cp`, and `sync` of the one file: other writers of the machine are not waited for."""

    def run() -> None:
        subprocess.run(["cp", source, target], check=True)
        subprocess.run(["sync", target], check=True)

    taken = timed(run)
    target.unlink()
    return taken


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    spool = settings.root / "spool"
    spool.mkdir()
    maildir = Maildir(settings.root / "maildir", size)
    with Getting.over(settings.root / "sites", f"spool://{spool}", size) as getting:
        copied = settings.root / "copied"
        seconds = alternate(
            {
                "chunkq": getting.unknown,
                "maildir": maildir.run,
                "chunkq, hashed before": getting.known,
                "cp": lambda: copy(getting.source, copied),
            },
            settings,
        )
        peaks = getting.peaks
    report = Report(f"spool: {size >> 20} MiB over a spool, {settings.pairs} rounds")
    ours, known = "chunkq", "chunkq, hashed before"
    report.figure(
        "mb_per_s", "chunkq get, file new to the origin", rate(size, seconds[ours]), " MB/s"
    )
    known_rate = rate(size, seconds[known])
    report.figure("mb_per_s_hashed_before", "the same, file hashed before", known_rate, " MB/s")
    report.row("bare maildir loop, one process", f"{rate(size, seconds['maildir']):.0f} MB/s")
    report.row("cp and sync", f"{rate(size, seconds['cp']):.0f} MB/s")
    for key, theirs in (("bare", "maildir"), ("cp", "cp")):
        report.figure(f"ratio_{key}", f"chunkq ÷ {theirs}", ratio(seconds, ours, theirs))
        report.figure(
            f"ratio_{key}_hashed_before",
            f"chunkq ÷ {theirs}, file hashed before",
            ratio(seconds, known, theirs),
        )
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
    return report
