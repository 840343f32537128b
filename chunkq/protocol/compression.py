"""Whether packing a chunk pays: pure rules, fed with what packing and sending took.

    a frame pays if   at least 5 % of the chunk are saved, and
                      bytes saved × the link's seconds per byte ≥ 2 × seconds of packing

What the link takes for a byte is measured at the origin over all that one peer asks of it: the
seconds that pass while chunks of a file are asked for, without those in which the origin itself was
at work on one, over the bytes that left. So a link is slow whether the carrier takes the packets
slowly or the peer asks for them slowly, because *its* side of the carrier is slow. If it is the
peer that is slow and not its link, it says so, by not asking for packed replies (`Appetite`). While
the origin's own work is what everybody waits for, nothing can be learnt about the link; after a
while packing then pauses, and what the link takes without it decides anew.

While the last frame of a file pays, every chunk of it is packed. When it does not, so many chunks
pass as they are, and then the middle of one is tried: after 1, 3, 7, 15, 31.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from chunkq.protocol.limits import KIB, MIB
from chunkq.protocol.packing import CAREFUL_LEVEL, FAST_LEVEL

#: A frame that saves less is not worth the requester's work and memory.
MIN_SAVING: Final = 0.05
#: Packing's seconds count so often: unpacking takes a third of them, and who packs one file would
#: serve others meanwhile.
COST_FACTOR: Final = 2.0
#: If the link's seconds that are saved are so many times packing's, the careful level is used. It
#: takes half as long again and saves a fifteenth more.
CAREFUL_FACTOR: Final = 20.0
#: Most chunks in a row that pass untried because the last did not pack: 8 MiB at the default chunk
#: size, so that the text in a disk image is soon met; 11 µs in 32 chunks are 0.1 % of their cost.
MAX_PASSED: Final = 31
#: The same where the last did pack, but not fast enough for the link: such a trial takes 0.2 ms.
MAX_PASSED_DEAR: Final = 255
#: So much of a chunk's middle is tried. Random bytes take 11 µs; 32 KiB take 15, as zstd gives up
#: early only on 40 KiB and more.
TRIAL_BYTES: Final = 64 * KIB
#: Smaller bodies are mostly header; they are left as they are.
MIN_PACKED_BYTES: Final = 512

#: The measure of a link forgets half after so many bytes: 50 ms of a fast link, 13 s at 10 Mbit/s.
HALF_LIFE_BYTES: Final = 16 * MIB
#: A longer silence within one file was not the link (two round trips of the slowest links).
MAX_GAP_S: Final = 60.0
#: Fewer bytes say nothing about the link yet.
MIN_MEASURED_BYTES: Final = 256 * KIB
#: After so many bytes of which nothing could be learnt the link is measured without packing: it
#: then is off for a fifth of the time at most.
STALE_BYTES: Final = 64 * MIB
#: Files of one peer whose transfers are taken to be under way.
MAX_UNDER_WAY: Final = 64
#: A requester that was at work for more of the time than this does not wait for its link.
BUSY_SHARE: Final = 0.7
#: How long is looked at to tell; requests come more often.
LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """What packing `raw_bytes` made of them and took, by the clock: a machine that has others to
    serve has no time for it.
    """

    raw_bytes: int
    packed_bytes: int
    took_s: float

    @property
    def small_enough(self) -> bool:
        """Whether the frame is worth sending once it is there."""
        return self.packed_bytes <= (1 - MIN_SAVING) * self.raw_bytes


#: What a file is taken for before anything of it was packed: source text.
_TYPICAL: Final = Sample(raw_bytes=256 * KIB, packed_bytes=80 * KIB, took_s=0.0007)


class Pace:
    """How fast one peer takes bytes."""

    __slots__ = ("_at_s", "_bytes", "_seconds", "_under_way", "_unsaid_bytes", "_work_s")

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0
        self._unsaid_bytes = 0
        self._work_s = 0.0
        self._at_s = 0.0
        self._under_way: OrderedDict[object, None] = OrderedDict()

    def worked(self, seconds: float) -> None:
        """So long this origin was at work on a chunk since the last `sent`.

        Threads may call it: what one of them loses of another's is little.
        """
        self._work_s += seconds

    def sent(self, of: object, size_bytes: int, now_s: float) -> None:
        """Bytes have left that are `of` one transfer.

        The time since the last ones counts if that transfer was under way: else there was nothing
        to send.
        """
        if of in self._under_way:
            self._measure(size_bytes, min(now_s - self._at_s, MAX_GAP_S))
        self._under_way[of] = None
        self._under_way.move_to_end(of)
        if len(self._under_way) > MAX_UNDER_WAY:
            self._under_way.popitem(last=False)
        self._at_s = now_s
        self._work_s = 0.0

    def _measure(self, size_bytes: int, passed_s: float) -> None:
        if self._work_s > passed_s / 2 and self.seconds_per_byte is not None:
            self._unsaid_bytes += size_bytes
            if self._unsaid_bytes < STALE_BYTES:
                return
            self._bytes = self._seconds = 0.0
        self._unsaid_bytes = 0
        fading = 0.5 ** (size_bytes / HALF_LIFE_BYTES)
        self._seconds = self._seconds * fading + max(0.0, passed_s - self._work_s)
        self._bytes = self._bytes * fading + size_bytes

    @property
    def seconds_per_byte(self) -> float | None:
        """None until something was measured."""
        return self._seconds / self._bytes if self._bytes >= MIN_MEASURED_BYTES else None


class Choice(Enum):
    """What to do with a chunk: send it as it is, try a piece of it, or pack it."""

    PASS = auto()
    TRY = auto()
    PACK = auto()


class Trials:
    """What packing one file has brought so far."""

    __slots__ = ("_hopeless", "_last", "_pace", "_passed", "_to_pass")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._last = _TYPICAL
        self._hopeless = False
        self._passed = 0
        self._to_pass = 1

    def choose(self) -> Choice:
        """For the next chunk. The link may have changed since the last frame."""
        if not self._hopeless and self._worth(self._last) >= 1:
            return Choice.PACK
        if self._passed < self._to_pass:
            self._passed += 1
            return Choice.PASS
        return Choice.TRY

    def learn(self, sample: Sample) -> bool:
        """What a trial or a frame was; returns whether such a frame pays."""
        self._last = sample
        self._hopeless = not sample.small_enough
        self._passed = 0
        pays = self._worth(sample) >= 1
        most = MAX_PASSED if self._hopeless else MAX_PASSED_DEAR
        self._to_pass = 0 if pays else min(2 * self._to_pass + 1, most)
        return pays

    @property
    def level(self) -> int:
        """How hard to pack the next chunk."""
        known = self._pace.seconds_per_byte is not None
        careful = known and self._worth(self._last) >= CAREFUL_FACTOR
        return CAREFUL_LEVEL if careful else FAST_LEVEL

    def _worth(self, sample: Sample) -> float:
        """Seconds saved on the link over what they cost. An unknown link counts as slow."""
        if not sample.small_enough:
            return 0.0
        saved_bytes = sample.raw_bytes - sample.packed_bytes
        seconds_per_byte = self._pace.seconds_per_byte
        if seconds_per_byte is None or sample.took_s <= 0:
            return 1.0
        return saved_bytes * seconds_per_byte / (COST_FACTOR * sample.took_s)


class Appetite:
    """Whether a requester waits for its link, or the link for it."""

    __slots__ = ("_backlog_bytes", "_busy_s", "_looked_s", "_since_s", "_starving")

    def __init__(self) -> None:
        self._backlog_bytes = 0
        self._since_s = 0.0
        self._busy_s = 0.0
        self._looked_s = 0.0
        self._starving = True

    def backlog(self, size_bytes: int, now_s: float) -> None:
        """So many bytes are here and not dealt with; told when that becomes 0, or is no more."""
        if self._backlog_bytes:
            self._busy_s += now_s - self._since_s
        self._backlog_bytes = size_bytes
        self._since_s = now_s

    def starving(self, now_s: float) -> bool:
        """What the last quarter of a second or more says."""
        if now_s - self._looked_s >= LOOK_S:
            self.backlog(self._backlog_bytes, now_s)
            self._starving = self._busy_s < BUSY_SHARE * (now_s - self._looked_s)
            self._looked_s = now_s
            self._busy_s = 0.0
        return self._starving
