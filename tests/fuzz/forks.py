"""A process that has all targets loaded, and runs them in forks of itself (see `child`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

#: Files of targets that need some are made in memory, where there is such a place.
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Told:
    """How one ended, and what it said."""

    code: int
    text: str


class Forks:
    """`with Forks(plain=False) as forks: forks.run(target, options)`, one at a time."""

    def __init__(self, *, plain: bool) -> None:
        # libFuzzer ends its process without a word: what that has made is removed here
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        self._scratch = tempfile.TemporaryDirectory(prefix="chunkq-fuzz-", dir=memory)
        self._told = Path(self._scratch.name) / "told"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", *["--plain"] * plain],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TMPDIR": self._scratch.name},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._scratch.cleanup()

    def run(self, name: str, options: list[str]) -> Told:
        """Run one target to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(self._told), name, *options]), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Told(code, self._told.read_text("utf-8", "replace"))
