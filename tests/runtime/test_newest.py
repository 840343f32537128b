"""What is remembered of the last so many."""

from __future__ import annotations

from chunkq.runtime.newest import Newest


def test_the_oldest_makes_way() -> None:
    """Putting a known key again makes it no younger and needs no more room."""
    known: Newest[int, str] = Newest(2)
    for key, value in ((1, "a"), (2, "b"), (1, "c"), (3, "d")):
        known.put(key, value)
    assert [(2, "b"), (3, "d")] == list(known.items())
