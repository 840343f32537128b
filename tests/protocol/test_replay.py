"""The replay window against a plain set of counters."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from chunkq.errors import Malformed
from chunkq.protocol.limits import REPLAY_WINDOW_COUNTERS as WINDOW
from chunkq.protocol.replay import REPLAY_WINDOW_SIZE_BYTES, ReplayWindow

#: Steps that matter: within a byte, across bytes, around the window's size, and far beyond it.
STEPS = (
    st.integers(-20, 20)
    | st.integers(-300, 300)
    | st.integers(WINDOW - 20, WINDOW + 20)
    | st.integers(-WINDOW - 20, -WINDOW + 20)
    | st.integers(-WINDOW, WINDOW)
    | st.integers(2 * WINDOW - 9, 3 * WINDOW + 9)
    | st.just(2**40)
)


class WindowAgainstSet(RuleBasedStateMachine):
    """However the counters come, the window and a set agree about which were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = bytearray(REPLAY_WINDOW_SIZE_BYTES)
        self.window = ReplayWindow(self.bits, 0)
        self.recorded: set[int] = set()
        self.top = 0

    def expected(self, counter: int) -> bool:
        return counter <= self.top - WINDOW or counter < 0 or counter in self.recorded

    @rule(step=STEPS)
    def record(self, step: int) -> None:
        counter = max(0, self.top + step)
        new = not self.expected(counter)
        assert new == self.window.record(counter)
        self.recorded.add(counter)
        self.top = max(self.top, counter)
        assert self.top == self.window.top
        assert self.window.seen(counter)

    @rule(step=STEPS)
    def look(self, step: int) -> None:
        counter = self.top + step
        assert self.expected(counter) == self.window.seen(counter)

    @rule()
    def look_everywhere(self) -> None:
        low = max(0, self.top - WINDOW + 1)
        seen = {counter for counter in range(low, self.top + 1) if self.window.seen(counter)}
        assert {counter for counter in self.recorded if counter >= low} == seen

    @rule()
    def restart(self) -> None:
        self.bits = bytearray(self.bits)
        self.window = ReplayWindow(self.bits, self.window.top)


WindowAgainstSet.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestWindowAgainstSet = WindowAgainstSet.TestCase


def fresh() -> ReplayWindow:
    return ReplayWindow(bytearray(REPLAY_WINDOW_SIZE_BYTES), 0)


def test_same_request_again() -> None:
    """A counter is new once, the first one, 0, too; afterwards it was seen."""
    window = fresh()
    assert [True, True, False, False] == [window.record(counter) for counter in (0, 5, 5, 0)]


def test_counters_in_any_order() -> None:
    """A broker reorders: late counters inside the window are new, and remembered."""
    window = fresh()
    assert all(window.record(counter) for counter in (9, 3, 7, 1))
    assert [1, 3, 7, 9] == [counter for counter in range(10) if window.seen(counter)]


def test_same_request_after_a_restart() -> None:
    """The buffer and the top are all there is to keep."""
    bits = bytearray(REPLAY_WINDOW_SIZE_BYTES)
    before = ReplayWindow(bits, 0)
    before.record(123)
    after = ReplayWindow(bytearray(bytes(bits)), before.top)
    assert not after.record(123)
    assert after.record(122)


def test_same_request_a_week_later() -> None:
    """A counter that the window has left behind counts as seen: it cannot be told."""
    window = fresh()
    window.record(0)
    window.record(WINDOW)
    assert window.seen(0)
    assert not window.record(0)
    assert not window.seen(1)


@pytest.mark.parametrize("jump", [WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 2**63])
def test_sliding_far_forgets_what_was_there(jump: int) -> None:
    """After any jump only the counters really recorded inside the window are seen."""
    window = fresh()
    for counter in range(0, 2000, 3):
        window.record(counter)
    window.record(1998 + jump)
    low = max(0, window.top - WINDOW + 1)
    kept = [counter for counter in range(0, 2000, 3) if counter >= low]
    assert [*kept, window.top] == [c for c in range(low, window.top + 1) if window.seen(c)]


def test_window_over_a_mapped_file() -> None:
    """The buffer may be a mapping: it is changed in place and never replaced."""
    mapped = mmap.mmap(-1, REPLAY_WINDOW_SIZE_BYTES)
    view = memoryview(mapped)
    ReplayWindow(view, 0).record(9)
    assert mapped[:3] == b"\x00\x02\x00"
    assert ReplayWindow(view, 9).seen(9)
    view.release()
    mapped.close()


@pytest.mark.parametrize("size", [0, REPLAY_WINDOW_SIZE_BYTES - 1, REPLAY_WINDOW_SIZE_BYTES + 1])
def test_buffer_of_another_size_is_refused(size: int) -> None:
    """A record that was cut is not taken for a window."""
    with pytest.raises(Malformed):
        ReplayWindow(bytearray(size), 0)


def test_negative_counters_are_never_new() -> None:
    """No packet can have one; nothing is written for it."""
    window = fresh()
    assert not window.record(-1)
    with pytest.raises(Malformed):
        ReplayWindow(bytearray(REPLAY_WINDOW_SIZE_BYTES), -1)
