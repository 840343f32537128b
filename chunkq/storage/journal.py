"""The journal of a site: what happened to transfers and what people did, a line each.

Any process adds lines; one that keeps history reads them from where it was, whatever was rotated
meanwhile. Each file begins with a line of its own, whose hash is what a cursor names it by.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import BinaryIO, Final, Literal, get_args

from pydantic import TypeAdapter

from chunkq.protocol.limits import KIB, MIB
from chunkq.storage.appending import AppendedFile
from chunkq.storage.mapping import storage_errors

#: Some eighty thousand lines, twice: weeks of a busy site, and history has taken them long before.
MAX_SIZE_BYTES: Final = 16 * MIB
#: What a person reads of it; longer texts are cut.
MAX_TEXT_CHARS: Final = 500
#: At most so many events a read: who wants all reads again until nothing comes.
MAX_EVENTS: Final = 5000
#: Longer than any line of ours: what has no end within it is skipped.
_BLOCK_BYTES: Final = 64 * KIB
#: A file that is moved while both are opened is looked at again, so often.
_MAX_LOOKS: Final = 10

#: What was done to the site rather than to a transfer: of interest whoever did it.
Operation = Literal[
    "peer_frozen",
    "peer_thawed",
    "link_frozen",
    "link_thawed",
    "drained",
    "dead_letters_requeued",
    "dead_letters_discarded",
    "login_refused",
    "dashboard_started",
]
OPERATIONS: Final[frozenset[str]] = frozenset(get_args(Operation))
What = Literal[
    "queued",
    "started",
    "paused",
    "resumed",
    "cancelled",
    "retried",
    "priority",
    "stalled",
    "moving",
    "done",
    "failed",
    Operation,
]
#: All that may be said; lines with other words are left out when read.
WORDS: Final[frozenset[str]] = frozenset(get_args(What))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line. `by`: who did it, `user@host`; empty: chunkq itself. `subject`: peer, link, ...

    `transfer`: the id of its job; empty for what is about no transfer.
    """

    at_ms: int
    what: str
    transfer: str = ""
    by: str = ""
    reason: str = ""
    detail: str = ""
    subject: str = ""


@cache
def _parser() -> TypeAdapter[Event]:
    return TypeAdapter(Event)


class _File(AppendedFile):
    def __init__(
        self, path: str, max_size_bytes: int, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__(path, max_size_bytes)
        self._entropy = entropy

    def first_line(self) -> bytes:
        return json.dumps({"journal": self._entropy(16).hex()}).encode() + b"\n"


class Journal:
    """The journal in a state directory. Blocks; raises `StorageError`."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        path = os.path.join(os.path.abspath(state_dir), "journal.jsonl")
        self._file = _File(path, MAX_SIZE_BYTES)

    @property
    def path(self) -> str:
        return self._file.path

    def add(self, *events: Event, durable: bool = True) -> None:
        """Append them, in one write; `durable`: they survive a power cut."""
        self._file.append(map(_line, events), durable=durable)

    def read(self, cursor: str = "") -> tuple[list[Event], str]:
        """Events after the cursor, the oldest first, and the cursor for the next read.

        None: nothing is left. An empty cursor, or one of a file that is gone, reads all there is.
        """
        known, _, number = cursor.partition(":")
        events: list[Event] = []
        with ExitStack() as stack, storage_errors("read", self.path):
            files = [(_id_of(file), file) for file in self._open(stack)]
            names = [name for name, _ in files]
            first = names.index(known) if known in names else 0
            offset = int(number) if known in names and number.isdecimal() else 0
            for name, file in files[first:]:
                if not name:
                    continue
                file.seek(offset)
                for line in _whole_lines(file):
                    event = _event(line)
                    offset += len(line)
                    if event is not None:
                        events.append(event)
                        if len(events) >= MAX_EVENTS:
                            return events, f"{name}:{offset}"
                cursor, offset = f"{name}:{offset}", 0
        return events, cursor

    def _open(self, stack: ExitStack) -> list[BinaryIO]:
        """Both files as of one moment, the older one first."""
        older, newer = self._file.paths
        for _ in range(_MAX_LOOKS):
            files = [_opened(stack, path) for path in (newer, older, newer)]
            if _identity(files[0]) == _identity(files[2]):  # none was moved in between
                return [file for file in (files[1], files[0]) if file is not None]
        return []


def _opened(stack: ExitStack, path: str) -> BinaryIO | None:
    try:
        return stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        return None


def _identity(file: BinaryIO | None) -> tuple[int, int] | None:
    if file is None:
        return None
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _id_of(file: BinaryIO) -> str:
    """What cursors call a file; empty if its first line is not whole yet."""
    file.seek(0)
    line = file.readline(_BLOCK_BYTES)
    whole = line.endswith(b"\n") or len(line) == _BLOCK_BYTES
    return blake2b(line, digest_size=8).hexdigest() if whole else ""


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends, from where the file stands; pieces of lines that are too long."""
    while True:
        line = file.readline(_BLOCK_BYTES)
        if not line.endswith(b"\n") and len(line) < _BLOCK_BYTES:
            return
        yield line


def _line(event: Event) -> bytes:
    fields: dict[str, object] = {"at_ms": event.at_ms}
    for name in Event.__slots__:
        value = getattr(event, name)
        if isinstance(value, str) and value:
            # a name on disk may be no text at all
            fields[name] = value[:MAX_TEXT_CHARS].encode(errors="replace").decode()
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _event(line: bytes) -> Event | None:
    """What is in a line; torn lines and words of later versions count as absent."""
    try:
        event = _parser().validate_json(line, strict=True)
    except ValueError:
        return None
    return event if event.what in WORDS else None
