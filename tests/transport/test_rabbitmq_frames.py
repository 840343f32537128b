"""Cutting frames, without a broker: any cut of the stream, any lie in it."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec
from pika.exceptions import BodyTooLongError, InvalidFrameError, ProtocolSyntaxError

from chunkq.transport.rabbitmq import RabbitMQOptions
from chunkq.transport.rabbitmq.frames import (
    BUFFER_BYTES,
    HEAD,
    UNTUNED_FRAME_MAX,
    FrameReader,
    body_frames,
)
from chunkq.transport.rabbitmq.session import Backoff

BODY_MAX = 4 << 20


@dataclass
class Told:
    """Everything a reader hands on, in order."""

    events: list[tuple[object, ...]] = field(default_factory=list)

    def frame_received(self, value: frame.Frame) -> None:
        self.events.append(("frame", value.channel_number, value.method.NAME))

    def delivered(self, channel: int, tag: int, redelivered: bool, body: bytes) -> None:
        assert type(body) is bytes
        self.events.append(("delivered", channel, tag, redelivered, body))

    def oversized(self, channel: int, tag: int) -> None:
        self.events.append(("oversized", channel, tag))

    def returned(self, channel: int, message_id: str, text: str) -> None:
        self.events.append(("returned", channel, message_id, text))

    def confirmed(self, channel: int, tag: int, multiple: bool, taken: bool) -> None:
        self.events.append(("confirmed", channel, tag, multiple, taken))


def delivery(channel: int, tag: int, body: bytes, *, redelivered: bool = False) -> list[bytes]:
    """The frames of one delivery, by pika's own encoder."""
    method = spec.Basic.Deliver(
        consumer_tag="ctag",
        delivery_tag=tag,
        redelivered=redelivered,
        exchange="e",
        routing_key="r",
    )
    return content(channel, method, spec.BasicProperties(), body)


def content(
    channel: int, method: object, properties: spec.BasicProperties, body: bytes
) -> list[bytes]:
    most = UNTUNED_FRAME_MAX - 8
    return [
        frame.Method(channel, method).marshal(),
        frame.Header(channel, len(body), properties).marshal(),
        *(
            frame.Body(channel, body[offset : offset + most]).marshal()
            for offset in range(0, len(body), most)
        ),
    ]


def read(stream: bytes, cuts: list[int], *, body_max: int = BODY_MAX) -> list[tuple[object, ...]]:
    """Feed the stream in pieces of the lengths in `cuts`, again and again."""
    told = Told()
    reader = FrameReader(told, body_max=body_max)
    position = turn = 0
    while position < len(stream):
        room = reader.room()
        assert len(room) > 0
        count = min(len(room), max(1, cuts[turn % len(cuts)]), len(stream) - position)
        room[:count] = stream[position : position + count]
        reader.feed(count)
        position, turn = position + count, turn + 1
    return told.events


def everything() -> tuple[bytes, list[tuple[object, ...]]]:
    """A stream with one of each, two channels interleaved, and what must come out of it."""
    noise = random.Random(7)
    large, small = noise.randbytes(300_000), noise.randbytes(1000)
    first, second = delivery(1, 1, large), delivery(2, 9, small, redelivered=True)
    returned = content(
        3,
        spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="e", routing_key="r"),
        spec.BasicProperties(message_id="17", delivery_mode=2),
        b"returned body",
    )
    frames = [
        frame.Method(0, spec.Connection.OpenOk()).marshal(),
        first[0],
        second[0],
        first[1],
        frame.Heartbeat().marshal(),
        first[2],
        *second[1:],
        *first[3:],
        frame.Method(3, spec.Basic.Ack(delivery_tag=16, multiple=True)).marshal(),
        *returned,
        frame.Method(3, spec.Basic.Nack(delivery_tag=17)).marshal(),
        *delivery(1, 2, b""),
    ]
    expected: list[tuple[object, ...]] = [
        ("frame", 0, "Connection.OpenOk"),
        ("delivered", 2, 9, True, small),
        ("delivered", 1, 1, False, large),
        ("confirmed", 3, 16, True, True),
        ("returned", 3, "17", "NO_ROUTE"),
        ("confirmed", 3, 17, False, False),
        ("delivered", 1, 2, False, b""),
    ]
    return b"".join(frames), expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=20))
def test_any_cut_of_the_stream_gives_the_same(cuts: list[int]) -> None:
    """Whatever the pieces in which the bytes arrive, the same comes out."""
    stream, expected = everything()
    assert expected == read(stream, cuts)


def test_stream_longer_than_the_buffer() -> None:
    """Messages that wrap around the buffer, and one larger than it, come out whole."""
    noise = random.Random(3)
    bodies = [noise.randbytes(size) for size in (262_144, 1, 4 << 20, 700_000, 0, 262_144) * 3]
    stream = b"".join(b"".join(delivery(1, tag, body)) for tag, body in enumerate(bodies, start=1))
    assert len(stream) > 4 * BUFFER_BYTES
    for cuts in ([1 << 20], [65536], [131_071, 7, 300_001]):
        assert bodies == [event[4] for event in read(stream, cuts)]


def test_body_over_the_limit_is_skipped() -> None:
    """It is told of by its tag, and what follows is read."""
    stream = b"".join([*delivery(1, 1, bytes(1001)), *delivery(1, 2, bytes(1000))])
    assert [("oversized", 1, 1), ("delivered", 1, 2, False, bytes(1000))] == read(
        stream, [100], body_max=1000
    )


def test_body_that_claims_2_to_the_63_bytes_is_not_stored() -> None:
    """The claim alone allocates nothing, and its bytes go nowhere."""
    told = Told()
    reader = FrameReader(told, body_max=BODY_MAX)
    method = frame.Method(1, spec.Basic.Deliver("c", 1, False, "e", "r")).marshal()
    claim = frame.Header(1, 1 << 63, spec.BasicProperties()).marshal()
    part = frame.Body(1, bytes(100_000)).marshal()
    for piece in [method, claim, *[part] * 50]:
        reader.room()[: len(piece)] = piece
        reader.feed(len(piece))
    assert [] == told.events
    (kept,) = reader._contents.values()
    assert [] == kept.fragments


@pytest.mark.parametrize(
    "lie",
    [
        HEAD.pack(3, 1, UNTUNED_FRAME_MAX - 7) + bytes(8),
        HEAD.pack(3, 1, 0xFFFFFFFF) + bytes(8),
        HEAD.pack(9, 0, 4) + bytes(5),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        HEAD.pack(1, 0, 2) + b"\x00\x0a\xce",
        HEAD.pack(1, 1, 4) + b"\xff\xff\xff\xff\xce",
        HEAD.pack(1, 1, 8) + b"\x00\x3c\x00\x3c\xff\x00\x00\x00\xce",
        HEAD.pack(1, 1, 6) + b"\x00\x3c\x00\x50\x00\x00\xce",
        HEAD.pack(8, 0, 0) + b"\x00",
    ],
)
def test_frames_that_lie(lie: bytes) -> None:
    """Too long, of no kind, without an end mark, cut short, unknown: an error, never a crash."""
    with pytest.raises(InvalidFrameError):
        read(lie, [len(lie)])


def test_content_that_lies() -> None:
    """Bodies without a delivery, longer than announced, or announced twice are errors."""
    method, header, body = delivery(1, 1, b"four")
    for stream in (body, header, method + body, method + header + header):
        with pytest.raises(ProtocolSyntaxError):
            read(stream, [len(stream)])
    longer = frame.Body(1, b"fives").marshal()
    with pytest.raises(BodyTooLongError):
        read(method + header + longer, [1000])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 2000))
def test_random_bytes_never_crash(noise: bytes, at: int) -> None:
    """Noise anywhere in a stream is read, or ends in pika's own family of errors."""
    stream, _ = everything()
    events: list[tuple[object, ...]] = []
    with contextlib.suppress(ProtocolSyntaxError):
        events = read(stream[:at] + noise + stream[at : at + 1000], [500])
    assert len(events) <= len(stream)


def test_nothing_is_handed_on_after_stop() -> None:
    """Once a frame has ended the connection, the rest of the buffer is dropped."""
    told = Told()
    reader = FrameReader(told, body_max=BODY_MAX)

    def stop_then_note(value: frame.Frame) -> None:
        told.events.append(("frame", value.channel_number, value.method.NAME))
        reader.stop()

    told.frame_received = stop_then_note  # type: ignore[method-assign]
    stream = frame.Method(0, spec.Connection.OpenOk()).marshal() * 3
    reader.room()[: len(stream)] = stream
    reader.feed(len(stream))
    assert [("frame", 0, "Connection.OpenOk")] == told.events


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1000])
def test_body_frames_cut_and_join(size: int) -> None:
    """A body becomes frames of at most the payload, which pika's decoder reads back."""
    body = random.Random(size).randbytes(size)
    stream = b"".join(body_frames(5, memoryview(body), 100))
    fragments = []
    while stream:
        consumed, value = frame.decode_frame(stream)
        assert 5 == value.channel_number
        fragments.append(value.fragment)
        stream = stream[consumed:]
    assert body == b"".join(fragments)
    assert all(100 == len(fragment) for fragment in fragments[:-1])


def test_backoff_is_full_jitter_up_to_the_cap() -> None:
    """The bound doubles to the cap, the delay is a random part of it, and a long life resets it."""
    parts = iter([1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0])
    backoff = Backoff(0.5, 3.0, lambda: next(parts))
    assert [0.5, 1.0, 1.0, 3.0, 3.0, 0.0] == [backoff.next_delay_s() for _ in range(6)]
    backoff.lasted(2.9)
    backoff.lasted(3.1)
    assert 0.5 == backoff.next_delay_s()


def test_backoff_of_a_link_that_comes_and_goes() -> None:
    """What held for longer than the next delay might be makes the delays short again."""
    backoff = Backoff(0.5, 30.0, lambda: 1.0)
    assert [0.5, 1.0, 2.0] == [backoff.next_delay_s() for _ in range(3)]
    backoff.lasted(3.9)
    assert 4.0 == backoff.next_delay_s()
    backoff.lasted(8.1)
    assert 0.5 == backoff.next_delay_s()


def test_bindings_are_renewed_with_each_heartbeat() -> None:
    """Unless something else is said."""
    options = RabbitMQOptions(url="amqp://host?heartbeat=7", site="bob")
    assert 7.0 == options.rebind_interval_s
    assert 30.0 == replace(options, url="amqp://host").rebind_interval_s
    assert 0.1 == replace(options, rebind_s=0.1).rebind_interval_s


def test_backoff_never_overflows() -> None:
    """A thousand failures still give the cap."""
    backoff = Backoff(0.5, 30.0, lambda: 1.0)
    assert 30.0 == [backoff.next_delay_s() for _ in range(1000)][-1]
