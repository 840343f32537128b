"""What an origin worker packs before it seals: asks the rules, measures, remembers what paid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from chunkq.ports import Clock
from chunkq.protocol.compression import MIN_PACKED_BYTES, TRIAL_BYTES, Choice, Pace, Sample, Trials
from chunkq.protocol.digest import Buffer
from chunkq.protocol.packet import ReplyKind
from chunkq.protocol.packing import FAST_LEVEL, pack
from chunkq.protocol.seal import ReplySealer

#: Peers whose links are remembered, and files of which it is known whether packing pays. A worker
#: that serves more learns some anew: a chunk or two each.
MAX_PEERS: Final = 256
MAX_FILES: Final = 1024

_K = TypeVar("_K")
_V = TypeVar("_V")


class Packer:
    """For the replies to one request: packs bodies where that pays. Threads may share it."""

    def __init__(self, transfer: object, pace: Pace, trials: Trials, clock: Clock) -> None:
        self._transfer = transfer
        self._pace = pace
        self._trials = trials
        self._clock = clock

    def pack(self, body: Buffer) -> bytes | None:
        """The frame to seal in the body's place, or None: it goes as it is."""
        size = len(body)
        choice = self._trials.choose() if size >= MIN_PACKED_BYTES else Choice.PASS
        if choice is Choice.TRY and size > TRIAL_BYTES:
            middle = (size - TRIAL_BYTES) // 2
            _, pays = self._frame(memoryview(body)[middle : middle + TRIAL_BYTES])
            choice = Choice.PACK if pays else Choice.PASS
        if choice is Choice.PASS:
            return None
        frame, _ = self._frame(body)
        return frame

    def seal(self, sealer: ReplySealer, kind: ReplyKind, body: Buffer, index: int) -> bytes:
        """A reply, packed if that pays. Raises as `ReplySealer.seal`."""
        began_s = self._clock.monotonic_s()
        frame = self.pack(body)
        if frame is None:
            packet = sealer.seal(kind, body, index)
        else:
            packet = sealer.seal(kind, frame, index, packed=True)
        self._pace.worked(self._clock.monotonic_s() - began_s)
        return packet

    def sent(self, size_bytes: int) -> None:
        """So many bytes of replies have gone to the carrier. On the loop."""
        self._pace.sent(self._transfer, size_bytes, self._clock.monotonic_s())

    def _frame(self, body: Buffer) -> tuple[bytes | None, bool]:
        """The frame if it is small enough to be sent, and whether such a frame pays."""
        began_s = self._clock.monotonic_s()
        frame = pack(body, self._trials.level)
        sample = Sample(len(body), len(frame), self._clock.monotonic_s() - began_s)
        return frame if sample.small_enough else None, self._trials.learn(sample)


class Packing:
    """The packers of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._trials: OrderedDict[tuple[str, object], Trials] = OrderedDict()

    def packer(self, peer: str, what: object, epoch: int) -> Packer:
        """For one request of a peer (its alias). On the loop.

        `what` is alike in itself: a file's root, the small files of a share. `epoch`: the
        requester's start, as in its ids.
        """
        pace = _remembered(self._paces, peer, Pace, MAX_PEERS)
        trials = _remembered(self._trials, (peer, what), lambda: Trials(pace), MAX_FILES)
        return Packer((epoch, what), pace, trials, self._clock)


def pack_once(body: Buffer) -> bytes | None:
    """As `Packer.pack` for what is rare and mostly text (a listing): without rules."""
    if len(body) < MIN_PACKED_BYTES:
        return None
    frame = pack(body, FAST_LEVEL)
    return frame if Sample(len(body), len(frame), 0.0).small_enough else None


def _remembered(known: OrderedDict[_K, _V], key: _K, make: Callable[[], _V], most: int) -> _V:
    """What is known of `key`, the least recently used forgotten."""
    found = known.get(key)
    if found is None:
        found = known[key] = make()
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
    return found
