"""A reply's body as one zstd frame: made small, and opened without believing what it says.

A frame is packed before it is sealed, so whoever opens it knows that the origin made it; an origin
is trusted for its own content only, not with this site's memory. So of all that zstd knows, one
form is taken: a single frame that says how long its content is, without dictionary or checksum
(the leaf says more), and nothing after it. Its header is looked at before anything is allocated,
and what is allocated is the content: exactly the length that the manifest says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chunkq.errors import BadFrame
from chunkq.protocol.digest import Buffer
from chunkq.protocol.limits import MAX_REPLY_BODY_SIZE_BYTES

if TYPE_CHECKING:
    from zstandard import ZstdCompressor, ZstdDecompressor

#: 256 KiB of source text take 0.7 ms at level 1 and become 30 %; random bytes take 36 µs.
FAST_LEVEL: Final = 1
#: 1.0 ms and 28 %; beyond it each further percent costs twice the time.
CAREFUL_LEVEL: Final = 3
#: The largest body; a larger window has nothing to look back at.
MAX_WINDOW_BYTES: Final = MAX_REPLY_BODY_SIZE_BYTES
#: What each frame of ours begins with (RFC 8878, 3.1.1); skippable frames begin otherwise.
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
#: Contexts kept for later: as many as a process has threads that pack at once.
_KEPT: Final = 4


class _Contexts:
    """zstd's contexts serve one thread at a time and take long to make: kept in between.

    A list's `append` and `pop` are single steps under the interpreter's lock. Nothing is imported
    or made before it is needed, so that a process which packs nothing does not pay for it.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[ZstdCompressor]] = {FAST_LEVEL: [], CAREFUL_LEVEL: []}
        self._free_unpacking: list[ZstdDecompressor] = []

    def pack(self, data: Buffer, level: int) -> bytes:
        free = self._free[level]
        try:
            context = free.pop()
        except IndexError:
            from zstandard import ZstdCompressor

            context = ZstdCompressor(level=level, write_checksum=False)
        frame = context.compress(data)
        if len(free) < _KEPT:
            free.append(context)
        return frame

    def unpack(self, frame: Buffer, size: int) -> bytes:
        """Raises what zstandard raises."""
        try:
            context = self._free_unpacking.pop()
        except IndexError:
            from zstandard import ZstdDecompressor

            context = ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        content = context.decompress(frame, max_output_size=size, allow_extra_data=False)
        if len(self._free_unpacking) < _KEPT:
            self._free_unpacking.append(context)
        return content


_CONTEXTS: Final = _Contexts()


def pack(data: Buffer, level: int = FAST_LEVEL) -> bytes:
    """`data` (not empty) as one frame; without the interpreter's lock, from any thread."""
    return _CONTEXTS.pack(data, level)


def unpack(frame: Buffer, size: int, *, exact: bool = True) -> bytes:
    """The content of a frame that must have `size` bytes, or at most so many unless `exact`.

    Raises `BadFrame`; more than the content is never allocated.
    """
    from zstandard import ZstdError, get_frame_parameters

    if bytes(frame[: len(_MAGIC)]) != _MAGIC:
        raise BadFrame("a packed body does not begin as a zstd frame does")
    try:
        header = get_frame_parameters(frame)
        _check(header, size, exact=exact)
        return _CONTEXTS.unpack(frame, header.content_size)
    except ZstdError as error:
        raise BadFrame(f"a packed body of {len(frame)} bytes is no frame: {error}") from error


def _check(header: Any, size: int, *, exact: bool) -> None:
    content = header.content_size
    if not 0 < content <= size or (exact and content != size):
        most = "" if exact else "at most "
        raise BadFrame(f"a packed body says it has {content} bytes, not {most}{size}")
    if header.window_size > MAX_WINDOW_BYTES:
        raise BadFrame(f"a frame with a window of {header.window_size}; {MAX_WINDOW_BYTES} is most")
    if header.dict_id or header.has_checksum:
        raise BadFrame("a frame with a dictionary or a checksum; a plain one was expected")
