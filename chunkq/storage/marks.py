"""Where a comparison of received files stands, to be taken up again (`verifying.Marks`).

    verify/<digest of what is compared>.jsonl

One JSON line a file, when it is done and now and then before that; the last line of a path counts.
A last line with `finished` says that all were compared: then only a repair goes on from it. What
is a week old counts no more, since the disk has had the time to lose more.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from blake3 import blake3

from chunkq.errors import Malformed
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.checking import Mark, Verdict
from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.limits import MAX_CHUNK_COUNT
from chunkq.storage.mapping import storage_errors

#: A week: what was right then is worth being read again.
LIFETIME_MS: Final = 7 * 24 * 3600 * 1000
#: Lines wait so long for others, in seconds, at the most so many.
FLUSH_S: Final = 0.5
FLUSH_LINES: Final = 256
_CONTEXT: Final = "chunkq 1 what is verified"
_NAME_BYTES: Final = 16


class MarksFile:
    """The marks of one set of paths. Raises `StorageError`."""

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        paths: Iterable[str],
        *,
        wall_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._directory = os.path.join(os.path.abspath(state_dir), "verify")
        told = "\0".join(sorted(paths)).encode("utf-8", "surrogateescape")
        name = blake3(told, derive_key_context=_CONTEXT).hexdigest(_NAME_BYTES)
        self.path = os.path.join(self._directory, f"{name}.jsonl")
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s
        self._marks: dict[str, Mark] = {}
        self._waiting: list[dict[str, object]] = []
        self._flushed_s = monotonic_s()

    def load(self, *, finished_too: bool) -> int:
        """Take up what an earlier run noted, or begin anew; how many files it had compared.

        `finished_too`: also if that run came to its end.
        """
        self._sweep()
        finished = False
        for fields in self._lines():
            finished = "finished" in fields or (finished and "path" not in fields)
            mark = _mark(fields)
            if mark is not None and self._is_young(fields):
                self._marks[mark.path] = mark
        if finished and not finished_too:
            self.remove()
        return sum(mark.verdict is not None for mark in self._marks.values())

    def get(self, path: str) -> Mark | None:
        return self._marks.get(path)

    def note(self, mark: Mark) -> None:
        """Kept within half a second or so, and by `flush`."""
        self._waiting.append(_fields(mark, self._wall_ms()))
        due = self._monotonic_s() - self._flushed_s >= FLUSH_S
        if due or len(self._waiting) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        lines, self._waiting = self._waiting, []
        self._flushed_s = self._monotonic_s()
        if not lines:
            return
        # A line that an earlier process did not finish is ended first.
        data = b"".join(b"\n" + json.dumps(fields).encode() for fields in lines) + b"\n"
        with storage_errors("write", self.path):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)

    def finish(self) -> None:
        """All was compared; a repair may go on from here."""
        self._waiting.append({"finished": True})
        self.flush()

    def remove(self) -> None:
        """Nothing is left to go on from."""
        self._marks, self._waiting = {}, []
        with storage_errors("unlink", self.path), suppress(FileNotFoundError):
            os.unlink(self.path)

    def _lines(self) -> Iterable[dict[str, object]]:
        with storage_errors("read", self.path):
            try:
                file = open(self.path, encoding="utf-8", errors="replace")  # noqa: SIM115
            except FileNotFoundError:
                return
            with file:
                for line in file:
                    with suppress(ValueError):
                        fields = json.loads(line)
                        if isinstance(fields, dict):
                            yield fields

    def _is_young(self, fields: dict[str, object]) -> bool:
        at = fields.get("at_ms")
        return isinstance(at, int) and 0 <= self._wall_ms() - at < LIFETIME_MS

    def _sweep(self) -> None:
        """Remove what nobody came back to."""
        with suppress(OSError), os.scandir(self._directory) as found:
            for each in found:
                age_ms = self._wall_ms() - each.stat().st_mtime_ns // 1_000_000
                if age_ms > LIFETIME_MS:
                    os.unlink(each.path)


def _fields(mark: Mark, at_ms: int) -> dict[str, object]:
    good = mark.good
    return {
        "path": mark.path,
        "identity": list(asdict(mark.identity).values()),
        "version": mark.version,
        "verdict": mark.verdict,
        "detail": mark.detail,
        "good": None if good is None else [good.count, _packed(good)],
        "next_page": mark.next_page,
        "exact": mark.exact,
        "at_ms": at_ms,
    }


def _packed(bitmap: Bitmap) -> str:
    return base64.b64encode(zlib.compress(bytes(bitmap))).decode()


def _mark(fields: dict[str, object]) -> Mark | None:
    """The mark in a line; None for what is none, whole or not."""
    try:
        verdict, good = fields["verdict"], fields["good"]
        return Mark(
            path=str(fields["path"]),
            identity=_identity(fields["identity"]),
            version=str(fields["version"]),
            verdict=None if verdict is None else Verdict(str(verdict)),
            detail=str(fields["detail"]),
            good=None if good is None else _bitmap(good),
            next_page=int(str(fields["next_page"])),
            exact=bool(fields["exact"]),
        )
    except (KeyError, ValueError, TypeError, Malformed, zlib.error):
        return None


def _identity(numbers: object) -> FileIdentity:
    if not isinstance(numbers, Sequence) or not all(isinstance(each, int) for each in numbers):
        raise TypeError("an identity is five numbers")
    return FileIdentity(*numbers)


def _bitmap(told: object) -> Bitmap:
    if not isinstance(told, list):
        raise TypeError("a bitmap is its count and its bits")
    count, packed = told
    if not isinstance(count, int) or not 0 <= count <= MAX_CHUNK_COUNT:
        raise ValueError("no file has so many chunks")
    unpacker = zlib.decompressobj()
    return Bitmap(count, unpacker.decompress(base64.b64decode(packed), (count + 7) // 8 + 1))
