"""What was received: one line a published file, so that it can be checked later.

Lines are appended whole (O_APPEND), so several processes may write; the last line of a path counts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from chunkq.protocol.limits import MIB
from chunkq.storage.mapping import storage_errors

#: A hundred thousand files and more; then the older half of history is let go.
MAX_SIZE_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A published file. `path` is absolute; `blake3` is the content digest in hexadecimal."""

    path: str
    source: str
    size_bytes: int
    blake3: str
    at_ms: int


class ReceivedLog:
    """The log in a state directory. Raises `StorageError`."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "received.jsonl")

    def add(self, *received: Received) -> None:
        """Append them, in one write."""
        lines = b"".join(map(_line, received))
        with storage_errors("write", self.path):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._rotate()
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(fd, lines)
            finally:
                os.close(fd)

    def find(self, path: str) -> Received | None:
        """The latest entry for an absolute path, the files of an older log included."""
        wanted = os.path.abspath(path)
        for name in (self.path, f"{self.path}.1"):
            found: Received | None = None
            with storage_errors("read", name):
                try:
                    file = open(name, encoding="utf-8", errors="replace")  # noqa: SIM115
                except FileNotFoundError:
                    continue
                with file:
                    for line in file:
                        found = _parse(line, wanted) or found
            if found is not None:
                return found
        return None

    def _rotate(self) -> None:
        try:
            if os.stat(self.path).st_size < MAX_SIZE_BYTES:
                return
        except FileNotFoundError:
            return
        os.replace(self.path, f"{self.path}.1")


def _line(received: Received) -> bytes:
    fields = {slot: getattr(received, slot) for slot in Received.__slots__}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _parse(line: str, wanted: str) -> Received | None:
    """The entry in a line if it is for that path; torn lines count as absent."""
    try:
        fields = json.loads(line)
        return Received(**fields) if fields.get("path") == wanted else None
    except (ValueError, TypeError, AttributeError):
        return None
