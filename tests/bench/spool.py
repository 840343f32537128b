"""`spool`: one large file over a spool, against a bare maildir loop and against cp and sync.

Ours is a requester that runs, its link open; the loop's process runs already, too. The whole
`chunkq get`, start of the process and all, has keys of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from chunkq.protocol.packet import REPLY_HEADER_SIZE_BYTES
from tests.bench.getting import Getting
from tests.bench.measure import Report, Settings, alternate, rate, ratio, timed

DEFAULT_MIB = 1024
OURS, KNOWN, COMMAND = "chunkq", "chunkq, hashed before", "chunkq get"
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
                OURS: getting.running_unknown,
                "maildir": maildir.run,
                KNOWN: getting.running_known,
                "cp": lambda: copy(getting.source, copied),
                COMMAND: getting.unknown,
            },
            settings,
        )
        peaks = getting.peaks
    report = Report(f"spool: {size >> 20} MiB over a spool, {settings.pairs} rounds")
    for key, name, which in (
        ("", "chunkq, link open, file new to the origin", OURS),
        ("_hashed_before", "the same, file hashed before", KNOWN),
        ("_command", "chunkq get, whole process, file new to the origin", COMMAND),
    ):
        report.figure(f"mb_per_s{key}", name, rate(size, seconds[which]), " MB/s")
    for key, theirs, name in (
        ("bare", "maildir", "bare maildir loop, one process"),
        ("cp", "cp", "cp and sync"),
    ):
        report.figure(f"mb_per_s_{key}", name, rate(size, seconds[theirs]), " MB/s")
        for suffix, which in (("", OURS), ("_hashed_before", KNOWN), ("_command", COMMAND)):
            value = ratio(seconds, which, theirs)
            report.figure(f"ratio_{key}{suffix}", f"{which} ÷ {theirs}", value)
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
    return report
