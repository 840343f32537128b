"""How everything here is measured: alternating rounds in one run, medians of ratios."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20
MB = 1_000_000
#: A hypervisor takes free memory back after two seconds.
DEFAULT_SETTLE_S = 3.0


class PeerMissing(Exception):
    """What a comparison needs is not installed; the message says so, and how to install it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says. `size_mib`, `count` None: what the benchmark itself takes.

    `count` is of files, transfers, rounds of a simulation: whatever the benchmark has many of.
    `settle_s`: before each run everything dirty is written, and then it is quiet for so long. Else
    a run pays for the one before, and on a virtual machine whose free memory goes back to its
    host (after 2 s) writing a file costs ten times as much or not, as it happens.
    """

    root: Path
    size_mib: int | None = None
    count: int | None = None
    pairs: int = 5
    settle_s: float = DEFAULT_SETTLE_S

    def size_bytes(self, default_mib: int) -> int:
        return (self.size_mib or default_mib) * MIB

    def counted(self, default: int) -> int:
        return self.count or default


@dataclass
class Report:
    """A table for people and the figures behind it.

    `about`: the machine and the versions that took part, the head of the table. `missing`: keys
    that have no figure, with what to install to get one.
    """

    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def row(self, name: str, text: str) -> None:
        self.rows.append((name, text))

    def figure(self, key: str, name: str, value: float, unit: str = "") -> None:
        """A row that is also a key of the JSON."""
        self.figures[key] = round(value, 3)
        self.row(name, f"{value:.2f}{unit}" if abs(value) < 100 else f"{value:.0f}{unit}")

    def absent(self, key: str, name: str, why: str) -> None:
        """A figure that could not be had, say because a peer is not installed: null in the JSON."""
        self.figures[key] = None
        self.missing[key] = why
        self.row(name, f"missing: {why}")

    def text(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{name:<{width}}  {text}" for name, text in self.rows]
        about = [f"[{name}: {text}]" for name, text in self.about.items()]
        return "\n".join([self.title, *(f"  {line}" for line in [*about, *lines])])

    def json(self) -> dict[str, Any]:
        """The figures, and beside them `about` and, if anything is, `missing`."""
        return {
            **self.figures,
            "about": self.about,
            **({"missing": self.missing} if self.missing else {}),
        }


Seconds = dict[str, list[float]]


def alternate(runs: Mapping[str, Callable[[], float]], settings: Settings) -> Seconds:
    """Every run once a round, in turn; `runs` return the seconds that they took.

    A run leaves no file behind, so that all begin with the same memory and disk.
    """
    seconds: Seconds = {name: [] for name in runs}
    for number in range(settings.pairs):
        for name, run in runs.items():
            os.sync()
            time.sleep(settings.settle_s)
            seconds[name].append(run())
        shown = ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in seconds.items())
        print(f"  round {number + 1}: {shown}", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: Seconds, ours: str, theirs: str) -> float:
    """How many times as fast ours is: the median over the rounds."""
    return statistics.median(
        their / our for our, their in zip(seconds[ours], seconds[theirs], strict=True)
    )


def rate(size_bytes: int, taken_s: list[float]) -> float:
    """The median in MB/s."""
    return size_bytes / statistics.median(taken_s) / MB


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
