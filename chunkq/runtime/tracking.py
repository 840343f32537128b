"""One transfer as a reporter follows it: its rate, when something came, what was told of it."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, Protocol

from chunkq.protocol.condition import State
from chunkq.protocol.report import (
    MAX_DETAIL_CHARS,
    MAX_TEXT_CHARS,
    OriginShare,
    TransferReport,
)
from chunkq.runtime.judging import Judgement, judge
from chunkq.runtime.progress import Observation

#: The rate is that of so long: over less it jumps with each bundle and commit.
RATE_S: Final = 5.0
#: The most origins that a report tells of.
_MAX_ORIGINS: Final = 16
#: A transfer that stalls and goes on again and again is told of once in so long.
TOLD_EVERY_S: Final = 60.0

Change = Literal["stalled", "moving"]


class Watched(Protocol):
    """A transfer."""

    @property
    def waits(self) -> bool:
        """It waits for its turn: nothing is known of it, and to look costs nothing."""
        ...

    def observe(self) -> Observation: ...


class Track:
    """Fed with observations; times in seconds of the monotonic clock, `_ms` of the wall's."""

    def __init__(self, now_s: float) -> None:
        self.seen: Observation | None = None
        self.judgement: Judgement = (State.QUEUED, None, "")
        self.progress_ms = 0
        self._mark: tuple[int, ...] = ()
        self._moved_s = now_s
        self._rates: deque[tuple[float, int]] = deque()
        self._told: Change = "moving"
        self._told_s: float | None = None

    @property
    def stalled(self) -> bool:
        return self.judgement[0] is State.STALLED

    def quiet_s(self, now_s: float) -> float:
        """For how long nothing has come."""
        return now_s - self._moved_s

    def see(self, seen: Observation, now_s: float, wall_ms: int) -> None:
        """Take note of it as it is now."""
        progress = seen.progress
        mark = (
            progress.new_bytes,
            progress.chunks_present,
            progress.files_done,
            seen.read_back_bytes,
        )
        if mark != self._mark:
            if self.seen is not None and progress.new_bytes > self.seen.progress.new_bytes:
                self.progress_ms = wall_ms
            self._mark, self._moved_s = mark, now_s
        self.seen = seen
        self._rates.append((now_s, progress.new_bytes))
        while len(self._rates) > 2 and self._rates[1][0] <= now_s - RATE_S:
            self._rates.popleft()
        self.judgement = judge(seen, self.quiet_s(now_s))

    @property
    def rate_bytes_per_s(self) -> int:
        if len(self._rates) < 2:
            return 0
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return max(0, int((last - first) / max(last_s - first_s, 1e-3)))

    def change(self, now_s: float) -> Change | None:
        """What the journal is to hear of now, if anything."""
        state = self.judgement[0]
        now: Change = "stalled" if state is State.STALLED else "moving"
        if now == self._told or state.ended:
            return None
        if self._told_s is not None and now_s < self._told_s + TOLD_EVERY_S:
            return None
        self._told, self._told_s = now, now_s
        return now

    def report(self) -> TransferReport:
        """What is said of it. To be called after `see`."""
        assert self.seen is not None
        seen, progress = self.seen, self.seen.progress
        state, reason, detail = self.judgement
        lanes = {lane.peer: lane for lane in seen.lanes}
        peers = dict.fromkeys((*lanes, *progress.origins, *progress.left))
        shares = []
        for peer in list(peers)[:_MAX_ORIGINS]:
            lane = lanes.get(peer)
            shares.append(
                OriginShare(
                    peer=clean(peer, 255),
                    new_bytes=progress.origins.get(peer, 0),
                    window_chunks=lane.window_chunks if lane else 0,
                    in_flight=lane.in_flight if lane else 0,
                    rtt_ms=round(lane.rtt_s * 1000) if lane else 0,
                    left=clean(progress.left.get(peer, ""), MAX_DETAIL_CHARS),
                )
            )
        return TransferReport(
            transfer=clean(seen.id, 64),
            state=state,
            reason=reason,
            detail=clean(detail, MAX_DETAIL_CHARS),
            source=clean(progress.source, MAX_TEXT_CHARS),
            path=clean(progress.path, MAX_TEXT_CHARS),
            size_bytes=progress.bytes_total,
            done_bytes=progress.bytes_present,
            new_bytes=progress.new_bytes,
            chunks_total=progress.chunks_total,
            chunks_present=progress.chunks_present,
            files_total=progress.files_total,
            files_done=progress.files_done,
            rate_bytes_per_s=self.rate_bytes_per_s,
            progress_ms=self.progress_ms,
            origins=shares,
            in_flight=list(seen.runs),
            failed=list(seen.bad),
        )


def clean(text: str, most: int) -> str:
    """The text as a report takes it, whatever a peer or a program has put into it."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text[:most]
