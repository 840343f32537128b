"""One transfer over a simulated link, and what it shows of the link: share, queue, duplicates."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from chunkq.ports import Buffer
from chunkq.protocol.packet import ReplyKind, parse_reply
from chunkq.protocol.window import Window
from tests.simulation.clock import VirtualClock, run
from tests.simulation.files import Content
from tests.simulation.link import LinkShape, Passage, SimulatedLink
from tests.simulation.sites import two_sites

#: Round trips from the beginning, and after each change of the rate, that are not yet steady.
STARTUP_ROUND_TRIPS = 20
SETTLING_ROUND_TRIPS = 30


@dataclass
class Seen:
    """What went over the link to the requester. Times in virtual seconds from the beginning."""

    shape: LinkShape
    size_bytes: int
    #: When the last byte was published, or the run was stopped.
    took_s: float = 0.0
    finished: bool = False
    passages: list[Passage] = field(default_factory=list)
    chunks: Counter[int] = field(default_factory=Counter)

    @property
    def round_trips(self) -> float:
        return self.took_s / self.shape.round_trip_s

    @property
    def share(self) -> float:
        """Bytes of the file over what the link could have carried, from the request to the end."""
        carried = self.size_bytes
        if not self.finished:
            carried = sum(each.size_bytes for each in self.passages if each.sent_s <= self.took_s)
        return carried / self._capacity_bytes(0.0, self.took_s)

    @property
    def share_steady(self) -> float:
        """The same without the start, the tail of a round trip, and what follows a change."""
        sent = could = 0.0
        for begin, end in self.steady_s:
            sent += sum(each.size_bytes for each in self.passages if begin < each.sent_s <= end)
            could += self._capacity_bytes(begin, end)
        return sent / could if could else 0.0

    @property
    def queue_s(self) -> float:
        """The longest that a packet waited to be sent, in the steady state."""
        return max((self._queue_s(*span) for span in self.steady_s), default=0.0)

    @property
    def queue_start_s(self) -> float:
        """The longest of all, the start included."""
        return self._queue_s(0.0, self.took_s)

    @property
    def duplicates(self) -> float:
        """Chunks that came again, over those of the file."""
        return (self.chunks.total() - len(self.chunks)) / max(1, len(self.chunks))

    @property
    def steady_s(self) -> list[tuple[float, float]]:
        """The spans of time in which nothing is new."""
        begins = [STARTUP_ROUND_TRIPS * self.shape.round_trip_s]
        changes = [at for at, _ in self.shape.rates]
        begins += [at + SETTLING_ROUND_TRIPS * self.shape.round_trip_s for at in changes]
        ends = [*changes, self.took_s - self.shape.round_trip_s]
        return [
            (begin, min(end, ends[-1]))
            for begin, end in zip(begins, ends, strict=True)
            if begin < min(end, ends[-1])
        ]

    def _queue_s(self, begin: float, end: float) -> float:
        spans = (each.queued_s for each in self.passages if begin <= each.published_s <= end)
        return max(spans, default=0.0)

    def _capacity_bytes(self, begin: float, end: float) -> float:
        steps = [(0.0, self.shape.bytes_per_s), *self.shape.rates, (float("inf"), 0.0)]
        return sum(
            rate * max(0.0, min(end, until) - max(begin, since))
            for (since, rate), (until, _) in pairwise(steps)
        )


def transfer(
    shape: LinkShape,
    size_bytes: int,
    *,
    window: Callable[[int], Window] = Window,
    at_most_s: float | None = None,
    work_s: Callable[[], float] | None = None,
) -> Seen:
    """Fetch a file of that size over such a link; or see how far it gets in `at_most_s`.

    `work_s`: how long each piece of work on a thread takes.
    """
    return run(lambda clock: _transfer(clock, shape, size_bytes, window, at_most_s), work_s=work_s)


async def _transfer(
    clock: VirtualClock,
    shape: LinkShape,
    size_bytes: int,
    window: Callable[[int], Window],
    at_most_s: float | None,
) -> Seen:
    seen = Seen(shape, size_bytes)

    def watch(body: Buffer, passage: Passage) -> None:
        header = parse_reply(body).header
        if header.kind is ReplyKind.CHUNK:
            seen.passages.append(passage)
            seen.chunks[header.index] += 1

    link = SimulatedLink(shape, watch)
    content = Content(size_bytes)
    async with two_sites(clock, link, content) as sites:
        sites.peer.window = window(sites.peer.window.max_chunks)
        try:
            async with asyncio.timeout(at_most_s):
                await sites.fetch().run()
                seen.finished = True
        except TimeoutError:
            pass
        seen.took_s = clock.monotonic_s()
        if seen.finished:  # what was asked for twice is still on its way
            await asyncio.sleep(2 * shape.round_trip_s)
    return seen
