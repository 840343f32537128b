"""`link`: the real machines of both sites over simulated links, in virtual time.

Nothing of the product is modelled: requester, window, seals, origin and commit are what `chunkq
get` and `chunkq serve` run. Simulated are the link with its broker, the disk and the clock. The
same transfers are made with a window of 32 chunks, and with one of what three seconds bring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chunkq.protocol.limits import GIB, MIB
from chunkq.protocol.window import Mode, Window
from tests.bench.measure import Report, Settings
from tests.simulation.link import LinkShape
from tests.simulation.transfer import Seen, transfer

#: What the other rules get: the first so many round trips.
OTHERS_ROUND_TRIPS = 100
#: A queue of 100 ms is nobody's notice, however short the round trip.
QUEUE_FLOOR_S = 0.1
MBIT = 1e6 / 8


@dataclass(frozen=True)
class Case:
    """A link and how much goes over it."""

    key: str
    name: str
    shape: LinkShape
    size_bytes: int = GIB


def _shape(round_trip_s: float, mbit_per_s: float, **others: Any) -> LinkShape:
    return LinkShape(round_trip_s=round_trip_s, bytes_per_s=mbit_per_s * MBIT, **others)


CASES = (
    Case("80ms_1gbit", "80 ms, 1 Gbit/s", _shape(0.08, 1000), 4 * GIB),
    Case("600ms_50mbit", "600 ms, 50 Mbit/s", _shape(0.6, 50)),
    Case("600ms_500mbit", "600 ms, 500 Mbit/s", _shape(0.6, 500), 10 * GIB),
    Case("5s_20mbit", "5 s, 20 Mbit/s", _shape(5.0, 20)),
    Case("30s_2mbit", "30 s, 2 Mbit/s", _shape(30.0, 2)),
    Case("600ms_loss", "600 ms, 50 Mbit/s, 1 % lost", _shape(0.6, 50, loss=0.01)),
    Case(
        "600ms_drop",
        "600 ms, 50, 10, 50 Mbit/s",
        _shape(0.6, 50, rates=((60.0, 10 * MBIT), (240.0, 50 * MBIT))),
    ),
    Case("80ms_jitter", "80 ms, 1 Gbit/s, ± 20 %", _shape(0.08, 1000, jitter=0.2), 2 * GIB),
)


class FixedWindow(Window):
    """32 chunks, whatever the link."""

    @property
    def limit(self) -> int:
        return 32


class QueueTimeWindow(Window):
    """What three seconds bring at the measured rate, after a start as ours: BitTorrent's rule."""

    @property
    def limit(self) -> int:
        if self.mode is Mode.STARTUP:
            return super().limit
        return max(2, min(self.max_chunks, int(3 * self.rate_chunks_per_s)))


OTHERS: dict[str, Callable[[int], Window]] = {
    "window of 32": FixedWindow,
    "3 s queue": QueueTimeWindow,
}


def run(settings: Settings) -> Report:
    report = Report("link: requester and origin over simulated links, the start included")
    for case in CASES:
        size = settings.size_mib * MIB if settings.size_mib else case.size_bytes
        ours = transfer(case.shape, size)
        _tell(report, case, ours)
        for name, window in OTHERS.items():
            limit_s = min(ours.took_s, OTHERS_ROUND_TRIPS * case.shape.round_trip_s)
            theirs = transfer(case.shape, size, window=window, at_most_s=limit_s)
            key = name.replace(" ", "_")
            report.figures[f"share_{case.key}_{key}"] = round(theirs.share, 3)
            queue = theirs.queue_s / case.shape.round_trip_s
            report.figures[f"queue_{case.key}_{key}"] = round(queue, 3)
            report.row(f"  {name}", f"share {theirs.share:.2f}, queue {_queue(theirs)}")
    return report


def _tell(report: Report, case: Case, seen: Seen) -> None:
    report.figures[f"share_{case.key}"] = round(seen.share, 3)
    report.figures[f"share_steady_{case.key}"] = round(seen.share_steady, 3)
    report.figures[f"queue_{case.key}"] = round(seen.queue_s / case.shape.round_trip_s, 3)
    report.figures[f"duplicates_{case.key}"] = round(seen.duplicates, 5)
    report.row(
        case.name,
        f"share {seen.share:.3f} of {seen.size_bytes / GIB:.3g} GiB in {seen.round_trips:.0f} round"
        f" trips ({seen.share_steady:.3f} after the start), queue {_queue(seen)}"
        f" (at the start {seen.queue_start_s / case.shape.round_trip_s:.2f}),"
        f" duplicates {100 * seen.duplicates:.2f} %",
    )


def _queue(seen: Seen) -> str:
    """Of the steady state; in milliseconds where it is below the floor."""
    queue_s = seen.queue_s
    ratio = f"{queue_s / seen.shape.round_trip_s:.2f} round trips"
    return f"{ratio} ({1000 * queue_s:.0f} ms)" if queue_s <= QUEUE_FLOOR_S else ratio
