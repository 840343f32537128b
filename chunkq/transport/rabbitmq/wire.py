"""pika's protocol engine on a native asyncio transport.

pika's own adapters read 4 KiB at a time and copy their buffer for every frame. This one reads into
a 1 MiB buffer (`frames.py`) and joins a message's outgoing frames once. It implements the
`_adapter_*` methods, which is what pika's own adapters do, and nothing else of pika is changed.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any, Final, Protocol

import pika
from pika import exceptions, frame, spec
from pika.connection import Connection

from chunkq.ports import Buffer
from chunkq.transport.rabbitmq.frames import FrameReader, body_frames
from chunkq.transport.rabbitmq.heartbeat import Heartbeat

#: RabbitMQ ends a connection to which it could write nothing for 15 to 30 s (its send timeout), and
#: a redelivery counts against a request. So one buffer is read now and then even while paused.
SIP_INTERVAL_S: Final = 4.0


class DeliverySink(Protocol):
    """What a consuming channel is told beside the answers to its calls."""

    def delivered(self, tag: int, redelivered: bool, body: bytes) -> None: ...

    def oversized(self, tag: int) -> None: ...


class ConfirmSink(Protocol):
    """What a publishing channel is told beside the answers to its calls."""

    def returned(self, message_id: str, text: str) -> None: ...

    def confirmed(self, tag: int, multiple: bool, taken: bool) -> None: ...


class Wire(Connection, asyncio.BufferedProtocol):  # type: ignore[misc]
    """One connection to the broker, from the open socket to its end. Not made again: see session.

    `ready` holds None once the connection is open, or the error. `ended` holds the reason once it
    is over. `blocked` and `writable` say whether publishing makes sense now; `on_change` is called
    when one of them changes.
    """

    def __init__(self, parameters: pika.ConnectionParameters, *, body_max: int) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Exception] = loop.create_future()
        self.blocked: str | None = None
        self.writable = True
        self.on_change: Callable[[], None] = _nothing
        # Not pika's own counters, which are 0 again once the connection has ended.
        self.emitted_bytes = self.taken_bytes = 0
        self.refused: exceptions.ConnectionClosedByBroker | None = None
        self._lost: exceptions.StreamLostError | None = None
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(self, body_max=body_max)
        self._consumers: dict[int, DeliverySink] = {}
        self._publishers: dict[int, ConfirmSink] = {}
        self._reading = True
        self._sip: asyncio.TimerHandle | None = None
        super().__init__(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            internal_connection_workflow=False,
        )
        self.add_on_connection_blocked_callback(self._on_blocked)
        self.add_on_connection_unblocked_callback(self._on_unblocked)

    # ------------------------------------------------------------ used by the session's channels

    def attach_consumer(self, channel: int, sink: DeliverySink) -> None:
        self._consumers[channel] = sink

    def attach_publisher(self, channel: int, sink: ConfirmSink) -> None:
        self._publishers[channel] = sink

    def detach(self, channel: int) -> None:
        """From now on nobody is told about the channel; what still comes for it is dropped."""
        self._consumers.pop(channel, None)
        self._publishers.pop(channel, None)

    def publish(
        self,
        channel: int,
        method: spec.Basic.Publish,
        properties: spec.BasicProperties,
        body: Buffer,
    ) -> None:
        """Send one message; its bytes are copied (once) before this returns."""
        view = memoryview(body).cast("B")
        pieces: list[bytes | memoryview] = [
            frame.Method(channel, method).marshal(),
            frame.Header(channel, view.nbytes, properties).marshal(),
        ]
        pieces += body_frames(channel, view, self._body_max_length)
        # As a view, so that a part that the kernel does not take at once is not copied to cut it.
        self._adapter_emit_data(memoryview(b"".join(pieces)))

    def pause_receiving(self) -> None:
        """Leave what comes in the kernel, and so, in the end, at the broker; but for a sip."""
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            if self._heartbeat_checker is not None:
                self._heartbeat_checker.pause()
            self._stop_reading()

    def resume_receiving(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            if self._heartbeat_checker is not None:
                self._heartbeat_checker.resume()
            self._start_reading()

    def _stop_reading(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._sip = self._loop.call_later(SIP_INTERVAL_S, self._start_reading)

    def _start_reading(self) -> None:
        assert self._transport is not None
        if self._sip is not None:
            self._sip.cancel()
            self._sip = None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self, reason: str) -> None:
        """End it now, without a word to the broker."""
        if not self.ended.done():
            self._terminate_stream(exceptions.StreamLostError(reason))

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._on_stream_connected()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        self.taken_bytes += nbytes
        if self._heartbeat_checker is not None:
            self._heartbeat_checker.heard()
        try:
            self._reader.feed(nbytes)
        except Exception as error:
            # Whatever a callback raises ends the connection, and through its end every future
            # that waits on it; asyncio would only log it. Where it was raised has the buffer.
            traceback.clear_frames(error.__traceback__)
            self._terminate_stream(error)
        if not self._reading and self._sip is None:
            self._stop_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader.release()
        if self._sip is not None:
            self._sip.cancel()
        if self._error is None:
            # In pika's terms: whoever waits for an answer would take the socket's for a fault.
            what = "the broker closed the connection" if exc is None else repr(exc)
            self._lost = exceptions.StreamLostError(what)
            self._lost.__cause__ = exc
        self._on_stream_terminated(self._lost)

    def pause_writing(self) -> None:
        self.writable = False
        self.on_change()

    def resume_writing(self) -> None:
        self.writable = True
        self.on_change()

    # ------------------------------------------------------------ FrameHandler

    def frame_received(self, value: frame.Frame) -> None:
        self._process_frame(value)

    def delivered(self, channel: int, tag: int, redelivered: bool, body: bytes) -> None:
        if (sink := self._consumers.get(channel)) is not None:
            sink.delivered(tag, redelivered, body)

    def oversized(self, channel: int, tag: int) -> None:
        if (sink := self._consumers.get(channel)) is not None:
            sink.oversized(tag)

    def returned(self, channel: int, message_id: str, text: str) -> None:
        if (sink := self._publishers.get(channel)) is not None:
            sink.returned(message_id, text)

    def confirmed(self, channel: int, tag: int, multiple: bool, taken: bool) -> None:
        if (sink := self._publishers.get(channel)) is not None:
            sink.confirmed(tag, multiple, taken)

    # ------------------------------------------------------------ pika's side

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: asyncio.TimerHandle) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise exceptions.ConnectionWrongStateError("the session opens the stream")

    def _adapter_disconnect_stream(self) -> None:
        self._reader.stop()
        assert self._transport is not None
        if isinstance(self._error, exceptions.ConnectionClosedByClient):
            self._transport.close()
        else:
            self._transport.abort()

    def _adapter_emit_data(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        self.emitted_bytes += len(data)
        self._transport.write(data)

    def _create_heartbeat_checker(self) -> Heartbeat | None:
        self._reader.frame_max = self.params.frame_max
        if not self.params.heartbeat:
            return None
        return Heartbeat(
            self.params.heartbeat,
            send=lambda: self._send_frame(frame.Heartbeat()),
            expired=lambda: self._terminate_stream(
                exceptions.AMQPHeartbeatTimeout(
                    f"no sign of life from the broker for {2 * self.params.heartbeat} s"
                )
            ),
        )

    def _on_connection_close_from_broker(self, method_frame: frame.Method) -> None:
        # pika turns a refusal during the opening into a guess without its code and text.
        self.refused = exceptions.ConnectionClosedByBroker(
            method_frame.method.reply_code, method_frame.method.reply_text
        )
        super()._on_connection_close_from_broker(method_frame)

    def _on_open(self, _connection: Connection) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_end(self, _connection: Connection, error: Exception) -> None:
        # Of a loss while it is being opened pika makes a guess: another protocol, a wrong password.
        # But a forwarder whose broker is away accepts, and closes without a word.
        reason = self.refused or self._lost or error
        if not self.ready.done():
            self.ready.set_exception(reason)
        if not self.ended.done():
            self.ended.set_result(reason)
        self.on_change()

    def _on_blocked(self, _connection: Connection, method_frame: frame.Method) -> None:
        self.blocked = method_frame.method.reason or "no reason given"
        self.on_change()

    def _on_unblocked(self, _connection: Connection, _method_frame: frame.Method) -> None:
        self.blocked = None
        self.on_change()


def _nothing() -> None:
    """Nobody listens yet."""
