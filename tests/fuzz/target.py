"""What is fuzzed: one parser, its typed errors, and valid inputs to start from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chunkq.errors import ChunkqError


@dataclass(frozen=True)
class Target:
    """`run` parses any bytes; it lets nothing out but `allowed`, which `check` swallows.

    `seeds` are valid inputs: mutations of them reach what random bytes never would.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...] = (ChunkqError,)

    def check(self, data: bytes) -> bool:
        """Whether the parser took `data`. Raises whatever is no typed error."""
        try:
            self.run(data)
        except self.allowed:
            return False
        return True


@contextmanager
def as_file(data: bytes) -> Iterator[int]:
    """An open file in memory with this content."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
