"""Targets: what comes from the broker or a peer."""

from __future__ import annotations

from pika import exceptions

from chunkq.errors import ChunkqError
from chunkq.protocol import cbor, messages
from chunkq.protocol.identity import decode_card, encode_card
from chunkq.protocol.manifest import (
    decode_head,
    encode_head,
    sign_head,
    verify_head,
    verify_page,
)
from chunkq.protocol.messages import Body
from chunkq.protocol.packet import ReplyKind, parse_reply, parse_request
from chunkq.transport.rabbitmq.frames import FrameReader
from tests.fuzz.bodies import (
    REPLY_BODIES,
    REQUEST_BODIES,
    head_of_four,
    leaves_of_four,
)
from tests.fuzz.ends import admit, opener, sealer
from tests.fuzz.target import Target
from tests.protocol.sites import ALICE, BOB, BOB_CARD, make_request
from tests.transport.test_rabbitmq_frames import BODY_MAX, Told, delivery


def _sealed_reply() -> bytes:
    return sealer().seal(ReplyKind.CHUNK, b"c" * 300, 7)


def _open_reply(data: bytes) -> object:
    raw = parse_reply(data)
    return opener(raw.header).open(raw)


def _bodies() -> list[type[Body]]:
    """Every body there is, so that none is forgotten."""
    found = {value for value in vars(messages).values() if isinstance(value, type)}
    return sorted(
        (model for model in found if issubclass(model, Body) and model is not Body),
        key=lambda model: model.__name__,
    )


def _decode_body(data: bytes) -> object:
    """The first byte chooses the model; what is taken is the same bytes encoded again."""
    models = _bodies()
    if not data:
        return None
    model = models[data[0] % len(models)]
    body = cbor.decode(model, data[1:])
    assert cbor.decode(model, cbor.encode(body)) == body
    return body


def _body_seeds() -> list[bytes]:
    models = _bodies()
    bodies = [*REQUEST_BODIES, *(body for _, body in REPLY_BODIES)]
    return [bytes((models.index(type(body)),)) + cbor.encode(body) for body in bodies]


def _decode_head(data: bytes) -> object:
    head = decode_head(data)
    assert encode_head(head) == data
    return head


def _verify_head(data: bytes) -> object:
    return verify_head(BOB_CARD, data[:-64], data[-64:])


def _signed_head() -> bytes:
    packed = encode_head(head_of_four())
    return packed + sign_head(BOB, packed)


def _verify_page(data: bytes) -> object:
    return verify_page(head_of_four(), data[0] if data else 0, data[1:])


def _decode_card(data: bytes) -> object:
    return decode_card(data.decode("utf-8", "replace"))


def _read_frames(data: bytes) -> object:
    """The first byte says in how large pieces the stream comes."""
    reader = FrameReader(Told(), body_max=BODY_MAX)
    step = (data[0] if data else 0) + 1
    for at in range(1, len(data), step):
        piece = data[at : at + step]
        room = reader.room()
        assert len(room) >= len(piece)
        room[: len(piece)] = piece
        reader.feed(len(piece))
    return reader


TARGETS = [
    Target("request", parse_request, lambda: [make_request()]),
    Target("gate", admit, lambda: [make_request()]),
    Target("reply", parse_reply, lambda: [_sealed_reply()]),
    Target("sealed-reply", _open_reply, lambda: [_sealed_reply()]),
    Target("body", _decode_body, _body_seeds),
    Target("head", _decode_head, lambda: [encode_head(head_of_four())]),
    Target("signed-head", _verify_head, lambda: [_signed_head()]),
    Target("page", _verify_page, lambda: [b"\0" + leaves_of_four()]),
    Target("card", _decode_card, lambda: [encode_card(ALICE, "alice").encode()]),
    Target(
        "amqp-frames",
        _read_frames,
        lambda: [b"\x40" + b"".join(delivery(1, 9, b"body" * 40))],
        (ChunkqError, exceptions.AMQPError),
    ),
]
