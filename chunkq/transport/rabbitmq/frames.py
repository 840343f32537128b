"""Cutting AMQP frames out of a stream and putting message bodies together, without a socket.

The receiver writes into `room()` and calls `feed(count)`. Four kinds of traffic are hot and are
read here by hand: deliveries, returned messages, and the two confirms. Every other frame is decoded
by pika. Body frames stay views of the buffer until their message is whole, so a body is copied
once; only what is still incomplete when the buffer is used again is copied a second time.

The sender of these bytes is not trusted: frames over the negotiated size end the connection, and a
body over the limit is skipped as it streams in, never stored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, Protocol

from pika import frame, spec
from pika.exceptions import BodyTooLongError, InvalidFrameError, UnexpectedFrameError

#: Room for two of the largest frames and then some; 1 MiB measured best on loopback.
BUFFER_BYTES: Final = 1 << 20
#: What a frame may have before the connection is tuned: RabbitMQ's own default.
UNTUNED_FRAME_MAX: Final = 131072

HEAD: Final = struct.Struct(">BHI")
END: Final = bytes([spec.FRAME_END])
#: Type, channel and length before the payload, the end mark behind it.
FRAME_OVERHEAD: Final = HEAD.size + len(END)

_METHOD_ID: Final = struct.Struct(">I")
_DELIVER_TAIL: Final = struct.Struct(">QB")
_CONFIRM: Final = struct.Struct(">QB")
_CONTENT_HEAD: Final = struct.Struct(">HHQ")
_DELIVER: Final = spec.Basic.Deliver.INDEX
_RETURN: Final = spec.Basic.Return.INDEX
_ACK: Final = spec.Basic.Ack.INDEX
_NACK: Final = spec.Basic.Nack.INDEX


class FrameHandler(Protocol):
    """Where the pieces go, in the order in which they came."""

    def frame_received(self, value: frame.Frame) -> None: ...

    def delivered(self, channel: int, tag: int, redelivered: bool, body: bytes) -> None: ...

    def oversized(self, channel: int, tag: int) -> None:
        """A delivery whose body was over the limit; its bytes were skipped."""
        ...

    def returned(self, channel: int, message_id: str, text: str) -> None:
        """A mandatory message that no queue takes; its confirm follows."""
        ...

    def confirmed(self, channel: int, tag: int, multiple: bool, taken: bool) -> None: ...


@dataclass(slots=True)
class _Content:
    """A message of which not everything is here."""

    tag: int = 0
    redelivered: bool = False
    returned: spec.Basic.Return | None = None
    message_id: str = ""
    size: int = -1
    seen: int = 0
    fragments: list[memoryview | bytes] = field(default_factory=list)


class FrameReader:
    """A stream of frames. Raises pika's `ProtocolSyntaxError` family for what is not AMQP."""

    def __init__(self, handler: FrameHandler, *, body_max: int) -> None:
        self._handler = handler
        self._body_max = body_max
        self.frame_max = UNTUNED_FRAME_MAX
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._room = self._view
        self._start = 0
        self._end = 0
        self._stopped = False
        self._contents: dict[int, _Content] = {}

    def room(self) -> memoryview:
        """Where to write next; never empty, and always enough to complete a frame."""
        if BUFFER_BYTES - self._end < self.frame_max or self._start == self._end:
            self._recycle()
        self._room = self._view[self._end :]
        return self._room

    def feed(self, count: int) -> None:
        """`count` bytes were written into `room()`: hand on what is complete."""
        self._end += count
        buffer = self._buffer
        while self._end - self._start >= FRAME_OVERHEAD and not self._stopped:
            kind, channel, size = HEAD.unpack_from(buffer, self._start)
            if size > self.frame_max - FRAME_OVERHEAD or kind not in _KINDS:
                raise InvalidFrameError(f"frame of type {kind} and {size} bytes")
            first = self._start + HEAD.size
            last = first + size
            if last >= self._end:
                break
            if buffer[last] != spec.FRAME_END:
                raise InvalidFrameError("no end mark behind the frame")
            if kind == spec.FRAME_BODY:
                self._body(channel, first, last)
            elif kind == spec.FRAME_METHOD:
                self._method(channel, first, last)
            elif kind == spec.FRAME_HEADER:
                self._header(channel, first, last)
            # A heartbeat has no content: that bytes came is all it says.
            self._start = last + 1

    def stop(self) -> None:
        """Hand on nothing more: the connection has ended, maybe by a frame just handed on."""
        self._stopped = True
        self._contents.clear()

    def release(self) -> None:
        """Let go of the buffer: nothing will be received any more.

        pika's connection and what listens to it refer to each other, so that a dead one lies about
        until the garbage collector comes by, which is seldom: it counts objects, not bytes. The
        error that ended it has a traceback, and so whoever was reading into `room()` then.
        """
        self.stop()
        self._room.release()
        self._buffer = bytearray()
        self._view = self._room = memoryview(self._buffer)
        self._start = self._end = 0

    def _recycle(self) -> None:
        """Begin at the front of the buffer again, saving what still points into it."""
        for content in self._contents.values():
            content.fragments = [bytes(fragment) for fragment in content.fragments]
        left = self._end - self._start
        if left:
            self._view[:left] = self._view[self._start : self._end]
        self._start, self._end = 0, left

    def _method(self, channel: int, first: int, last: int) -> None:
        if last - first < _METHOD_ID.size:
            raise InvalidFrameError("method frame without a method")
        (method_id,) = _METHOD_ID.unpack_from(self._buffer, first)
        argument = first + _METHOD_ID.size
        if method_id == _DELIVER:
            tag_at = argument + 1 + self._buffer[argument]
            if tag_at + _DELIVER_TAIL.size > last:
                raise InvalidFrameError("truncated delivery")
            tag, bits = _DELIVER_TAIL.unpack_from(self._buffer, tag_at)
            self._contents[channel] = _Content(tag=tag, redelivered=bool(bits & 1))
        elif method_id in {_ACK, _NACK}:
            if argument + _CONFIRM.size > last:
                raise InvalidFrameError("truncated confirm")
            tag, bits = _CONFIRM.unpack_from(self._buffer, argument)
            self._handler.confirmed(channel, tag, bool(bits & 1), method_id == _ACK)
        else:
            value = self._decode(first, last)
            if method_id == _RETURN:
                self._contents[channel] = _Content(returned=value.method)
            else:
                self._handler.frame_received(value)

    def _header(self, channel: int, first: int, last: int) -> None:
        content = self._contents.get(channel)
        if content is None or content.size >= 0 or last - first < _CONTENT_HEAD.size:
            raise UnexpectedFrameError(f"content header on channel {channel}")
        _, _, content.size = _CONTENT_HEAD.unpack_from(self._buffer, first)
        if content.returned is not None:
            content.message_id = self._decode(first, last).properties.message_id or ""
        if content.size == 0:
            self._finish(channel, content)

    def _body(self, channel: int, first: int, last: int) -> None:
        content = self._contents.get(channel)
        if content is None or content.size < 0:
            raise UnexpectedFrameError(f"body frame on channel {channel}")
        content.seen += last - first
        if content.seen > content.size:
            raise BodyTooLongError(content.seen, content.size)
        if content.size <= self._body_max and content.returned is None:
            content.fragments.append(self._view[first:last])
        if content.seen == content.size:
            self._finish(channel, content)

    def _finish(self, channel: int, content: _Content) -> None:
        del self._contents[channel]
        if content.returned is not None:
            self._handler.returned(channel, content.message_id, content.returned.reply_text)
        elif content.size > self._body_max:
            self._handler.oversized(channel, content.tag)
        else:
            body = b"".join(content.fragments)
            self._handler.delivered(channel, content.tag, content.redelivered, body)

    def _decode(self, first: int, last: int) -> frame.Method | frame.Header:
        """pika's decoder reads whole frames; malformed content surfaces as many errors there."""
        raw = bytes(self._view[first - HEAD.size : last + 1])
        try:
            _, value = frame.decode_frame(raw)
        except InvalidFrameError:
            raise
        except Exception as error:
            raise InvalidFrameError(f"undecodable frame: {error!r}") from error
        return value


_KINDS: Final = frozenset(
    {spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT}
)


def body_frames(channel: int, body: memoryview, payload_max: int) -> list[bytes | memoryview]:
    """The body as frames of at most `payload_max` bytes each, as pieces to be written in order."""
    pieces: list[bytes | memoryview] = []
    for offset in range(0, body.nbytes, payload_max):
        part = body[offset : offset + payload_max]
        pieces += (HEAD.pack(spec.FRAME_BODY, channel, part.nbytes), part, END)
    return pieces
