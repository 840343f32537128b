"""What was received: one line a published file, so that it can be checked later.

The last line of a path counts. A line with `forgotten` says that the path is expected no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Final

from chunkq.protocol.checking import Received
from chunkq.protocol.limits import MIB
from chunkq.storage.appending import AppendedFile

#: A hundred thousand files and more; then the older half of history is let go.
MAX_SIZE_BYTES: Final = 64 * MIB


class ReceivedLog:
    """The log in a state directory. Raises `StorageError`."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        path = os.path.join(os.path.abspath(state_dir), "received.jsonl")
        self._file = AppendedFile(path, MAX_SIZE_BYTES)

    @property
    def path(self) -> str:
        return self._file.path

    def add(self, *received: Received) -> None:
        """Append them, in one write, durably."""
        self._file.append(map(_line, received))

    def forget(self, paths: Iterable[str]) -> None:
        """These are expected no more."""
        self._file.append(_json({"path": path, "forgotten": True}) for path in paths)

    def find(self, path: str) -> Received | None:
        """The latest entry for an absolute path, the files of an older log included."""
        return self.look(path).get(os.path.abspath(path))

    def look(self, path: str) -> dict[str, Received]:
        """The entries of a path and of all below it, the latest of each, by path."""
        whole = os.path.abspath(path)
        below = whole.rstrip(os.sep) + os.sep
        marks = tuple(json.dumps(each)[1:-1] for each in {whole, below})
        found: dict[str, Received] = {}
        for line in self._file.lines():
            # To parse takes a hundred times as long as to see that a line is about other paths.
            if not any(mark in line for mark in marks):
                continue
            fields = _fields(line)
            at = fields.get("path")
            if not isinstance(at, str) or not (at == whole or at.startswith(below)):
                continue
            entry = _entry(fields)
            if entry is not None:
                found[at] = entry
            elif fields.get("forgotten"):
                found.pop(at, None)
        return found


def _json(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _line(received: Received) -> bytes:
    return _json({slot: getattr(received, slot) for slot in Received.__slots__})


def _fields(line: str) -> dict[str, object]:
    """What is in a line; torn lines count as absent."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _entry(fields: dict[str, object]) -> Received | None:
    try:
        return Received(**fields)  # type: ignore[arg-type]
    except TypeError:
        return None
