"""What was received: one line a published file, so that it can be checked later.

Lines are appended whole and synced, under a lock, so several processes may write; the last line of
a path counts. A line with `forgotten` says that the path is expected no more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.checking import Received
from chunkq.protocol.limits import MIB
from chunkq.storage.locks import MAX_ATTEMPTS
from chunkq.storage.mapping import storage_errors

#: A hundred thousand files and more; then the older half of history is let go.
MAX_SIZE_BYTES: Final = 64 * MIB
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class ReceivedLog:
    """The log in a state directory. Raises `StorageError`."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "received.jsonl")

    def add(self, *received: Received) -> None:
        """Append them, in one write, durably."""
        self._append(map(_line, received))

    def forget(self, paths: Iterable[str]) -> None:
        """These are expected no more."""
        self._append(_json({"path": path, "forgotten": True}) for path in paths)

    def find(self, path: str) -> Received | None:
        """The latest entry for an absolute path, the files of an older log included."""
        return self.look(path).get(os.path.abspath(path))

    def look(self, path: str) -> dict[str, Received]:
        """The entries of a path and of all below it, the latest of each, by path."""
        whole = os.path.abspath(path)
        below = whole.rstrip(os.sep) + os.sep
        marks = tuple(json.dumps(each)[1:-1] for each in {whole, below})
        found: dict[str, Received] = {}
        for line in self._lines():
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

    def _lines(self) -> Iterator[str]:
        for name in (f"{self.path}.1", self.path):
            with storage_errors("read", name):
                try:
                    file = open(name, encoding="utf-8", errors="replace")  # noqa: SIM115
                except FileNotFoundError:
                    continue
                with file:
                    yield from file

    def _append(self, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if not data:
            return
        with storage_errors("write", self.path):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            fd = self._locked()
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    data = b"\n" + data  # whoever wrote last did not get to the end of its line
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def _locked(self) -> int:
        """The log, open and locked; a full one has made way. Raises `OSError`, `StorageError`."""
        for _ in range(MAX_ATTEMPTS):
            fd = os.open(self.path, _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                status = os.fstat(fd)
                # Another process may have moved it while this one waited for the lock.
                current = os.path.samestat(status, os.stat(self.path))
                if current and status.st_size < MAX_SIZE_BYTES:
                    return fd
                if current:
                    os.replace(self.path, f"{self.path}.1")
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise StorageError(f"{self.path} was moved away again and again")


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
