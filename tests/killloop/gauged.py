"""Runs a worker's program so that it tells, on SIGUSR2, what of its memory is in use.

`python gauged.py DIRECTORY PROGRAM`. What the system sees of a process is also what the allocator
holds free for the next large packets, and that says nothing about what is kept.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, of all arenas together, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def main(directory: str, program: str) -> None:
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallInfo
    told = os.path.join(directory, str(os.getpid()))

    def tell(*_: object) -> None:
        found = libc.mallinfo2()
        figures = {
            "in_use_bytes": found.uordblks + found.hblkhd,
            "blocks": sys.getallocatedblocks(),
        }
        with open(f"{told}.new", "w", encoding="ascii") as file:
            json.dump(figures, file)
        os.replace(f"{told}.new", told)

    os.makedirs(directory, exist_ok=True)
    signal.signal(signal.SIGUSR2, tell)
    tell()
    sys.argv = [program]
    sys.path[0] = os.path.dirname(program)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
