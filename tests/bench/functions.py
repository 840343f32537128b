"""Which functions hold the interpreter: what `py-spy record -f raw` writes, by our own code.

A line is a stack, outermost first, and its count: `run (asyncio/runners.py);get (chunkq/api.py) 3`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

#: Whose functions answer for what they call: `asyncio` or `struct` called by them is theirs.
ANSWERABLE = re.compile(r"\((chunkq|pika)/")
_FRAME = re.compile(r"^(?P<function>.+) \((?P<file>[^()]+)\)$")


def shares(lines: Iterable[str]) -> dict[str, float]:
    """Of the samples, by the innermost answerable function; all shares add up to 1."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        if stack:
            counts[_who(stack.split(";"))] += int(count)
    return {name: count / counts.total() for name, count in counts.most_common()}


def _who(stack: list[str]) -> str:
    """`runtime/fetch.py FileFetch._feed`; the innermost of all if none is answerable."""
    frame = next((each for each in reversed(stack) if ANSWERABLE.search(each)), stack[-1])
    if (match := _FRAME.match(frame)) is None:
        return frame
    return f"{match['file'].removeprefix('chunkq/')} {match['function']}"
