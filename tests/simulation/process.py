"""A process of the simulation: what runs in it, and what ends with it.

All of them live in one real process and one thread. Which one is at work is told by a context
variable, so that tasks and callbacks of the loop inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class Killed(BaseException):
    """This process is dead: whatever its code still tries comes to nothing."""


@dataclass(eq=False, slots=True)
class Process:
    """`host`: whose disk and whose wall clock it has. Compared by identity."""

    name: str
    host: str
    alive: bool = True


_CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


def current() -> Process | None:
    """The process whose code runs now; None for the world around them."""
    return _CURRENT.get()


@contextmanager
def running(process: Process | None) -> Iterator[None]:
    """Within it, and in every task and callback made in it, `process` is the current one."""
    token = _CURRENT.set(process)
    try:
        yield
    finally:
        _CURRENT.reset(token)
