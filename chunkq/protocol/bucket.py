"""Token buckets fed with time: so many a second, and so many saved up for a burst."""

from __future__ import annotations


class TokenBucket:
    """Refills at `rate` tokens a second up to `burst`."""

    __slots__ = ("_at_s", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at_s: float | None = None

    def take(self, now_s: float, tokens: float = 1.0) -> bool:
        """Take tokens if they are there; time that runs backwards refills nothing."""
        if not self.has(now_s, tokens):
            return False
        self._tokens -= tokens
        return True

    def has(self, now_s: float, tokens: float = 1.0) -> bool:
        """Whether `take` would get them."""
        if self._at_s is not None:
            self._tokens = min(self.burst, self._tokens + max(0.0, now_s - self._at_s) * self.rate)
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)
        return self._tokens >= tokens

    def put_back(self, tokens: float = 1.0) -> None:
        """What was taken was not needed."""
        self._tokens = min(self.burst, self._tokens + tokens)

    def wait_s(self, tokens: float = 1.0) -> float:
        """How long until so many are there, if nobody takes any."""
        return max(0.0, (tokens - self._tokens) / self.rate)


class DebtBucket:
    """Refills at `rate` tokens a second up to `burst`, and may be overdrawn.

    Whoever comes while nothing is owed takes all it needs, and the next waits until that is paid:
    so what is larger than the burst passes, too, and none of the rate is lost to late wakings.
    In any `t` seconds at most `burst + rate * t` pass, and one taking more.
    """

    __slots__ = ("_at_s", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at_s: float | None = None

    def take(self, now_s: float, tokens: float) -> bool:
        """Take them unless something is owed; time that runs backwards pays nothing."""
        if self._at_s is not None:
            self._tokens = min(self.burst, self._tokens + max(0.0, now_s - self._at_s) * self.rate)
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)
        if self._tokens <= -1.0:  # less than one is the rounding of the clock
            return False
        self._tokens -= tokens
        return True

    def wait_s(self) -> float:
        """How long until nothing is owed, as of the last `take`."""
        return max(0.0, -self._tokens / self.rate)
