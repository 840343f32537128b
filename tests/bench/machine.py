"""What a table's head says of the machine that it was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

GIB = 1 << 30


def described(root: Path) -> dict[str, str]:
    """The machine, its system, the file system under `root`, Python: as they are now."""
    return {
        "machine": f"{os.cpu_count()} cores ({_processor()}), {_memory_gib():.0f} GiB",
        "system": f"{_distribution()}, {platform.system()} {platform.release()}",
        "disk": _disk(root),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _memory_gib() -> float:
    return float(psutil.virtual_memory().total) / GIB


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"


def _disk(root: Path) -> str:
    """The file system whose mount point is the longest one above `root`, and what is free there."""
    path = root.resolve()
    above = [
        part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)
    ]
    found = max(above, key=lambda part: len(part.mountpoint), default=None)
    kind = f"{found.fstype} on {found.device}" if found else "unknown file system"
    return f"{kind}, {psutil.disk_usage(str(path)).free / GIB:.0f} GiB free"
