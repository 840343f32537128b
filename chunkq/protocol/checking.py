"""What a received file is found to be when it is compared with its manifest.

A page is judged at once: if the digests of what is in the file make the page that the signed head
names, all its chunks are right and the leaves are not even looked at. Otherwise the leaves say
which chunks are wrong; where those are lost, the whole page is in doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.geometry import Geometry, to_ranges
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import Head, page_digest, verify_page

#: In place of the digest of a chunk that could not be read: no content hashes to it.
NO_DIGEST: Final = bytes(DIGEST_SIZE_BYTES)


class Verdict(StrEnum):
    """What a file is now.

    `DAMAGED`: other bytes under the size and time it was received with, so nobody wrote to it.
    `CHANGED`: somebody did, or put something else there. `UNREADABLE`: it could not be looked at.
    `UNKNOWN`: it is there, and was not received.
    """

    OK = "ok"
    DAMAGED = "damaged"
    CHANGED = "changed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A published file. `path` is absolute; `blake3` is the content digest in hexadecimal.

    `mtime_ns`: the time it had then, None if that was not noted. `root`: the version's name in
    hexadecimal where its manifest is kept, else empty.
    """

    path: str
    source: str
    size_bytes: int
    blake3: str
    at_ms: int
    mtime_ns: int | None = None
    root: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the comparison of one file is. `verdict` is None while it is under way.

    `version`: what it is compared with. `next_page`: all before it are in `good`, if right.
    """

    path: str
    identity: FileIdentity
    version: str
    verdict: Verdict | None = None
    detail: str = ""
    good: Bitmap | None = None
    next_page: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Instead:
    """Why a file cannot be read: what its path is, and a sentence."""

    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One file that was compared. `blake3`: what was received, in hexadecimal; empty if unknown.

    `good`: which chunks match, None where only the file as a whole could be compared. `detail` is
    a sentence for people, empty if all is well. `exact`: False where leaves are lost, so that all
    of a page counts as wrong. `size_bytes`: of what was received. `identity`: the file
    that was compared, None if there was none to read.
    """

    path: str
    verdict: Verdict
    source: str = ""
    blake3: str = ""
    detail: str = ""
    good: Bitmap | None = None
    geometry: Geometry | None = None
    exact: bool = True
    size_bytes: int = 0
    identity: FileIdentity | None = None

    @property
    def bad_chunks(self) -> list[tuple[int, int]]:
        """Runs `(first, count)` of chunks that do not match."""
        return [] if self.good is None else to_ranges(self.good.missing())

    @property
    def bad_bytes(self) -> list[tuple[int, int]]:
        """The same as `(offset, length)` in bytes."""
        if self.geometry is None:
            return []
        size, at = self.geometry.size_bytes, self.geometry.offset
        return [
            (at(first), min(at(first + count), size) - at(first))
            for first, count in self.bad_chunks
        ]


def judge_page(head: Head, page: int, found: bytes, leaves: bytes | None, good: Bitmap) -> None:
    """Mark in `good` the chunks of a page that are right; none without its leaves.

    `found`: the digests of what is in the file, packed. `leaves`: as kept, None if they are lost.
    Raises `Malformed` if the leaves are not those of the head.
    """
    chunks = head.geometry.page_chunks(page)
    if page_digest(found) == head.page_digest(page):
        good.fill(chunks.start, len(chunks))
        return
    if leaves is None:
        return
    verify_page(head, page, leaves)
    size = DIGEST_SIZE_BYTES
    for number, index in enumerate(chunks):
        at = number * size
        if found[at : at + size] == leaves[at : at + size]:
            good.add(index)
