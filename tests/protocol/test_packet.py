"""Packets cut into parts: exact layouts, and nothing but `Malformed` for anything else."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import ChunkqError, Malformed
from chunkq.protocol.limits import MAX_REPLY_BODY_SIZE_BYTES, MAX_REQUEST_SIZE_BYTES
from chunkq.protocol.packet import (
    REPLY_HEADER_SIZE_BYTES,
    REQUEST_HEADER_SIZE_BYTES,
    ReplyHeader,
    ReplyKind,
    RequestHeader,
    RequestId,
    RequestKind,
    Suite,
    parse_reply,
    parse_request,
)

U64 = st.integers(0, 2**64 - 1)
KEY = st.binary(min_size=32, max_size=32)
REQUEST = RequestHeader(
    kind=RequestKind.CHUNKS,
    suite=Suite.AES256GCM,
    sender=b"s" * 32,
    recipient=b"r" * 32,
    request_id=RequestId(0x0102, 0x0304),
    issued_ms=0x05,
    expires_ms=0x06,
    ephemeral=b"e" * 32,
)
REPLY = ReplyHeader(
    kind=ReplyKind.CHUNK,
    suite=Suite.XCHACHA20POLY1305,
    request_id=RequestId(0x0102, 0x0304),
    ephemeral=b"e" * 32,
    seq=5,
    index=6,
)


def request_packet(header: RequestHeader = REQUEST, body: bytes = b"b" * 20) -> bytes:
    return header.encode(len(body)) + body + b"S" * 64


def reply_packet(header: ReplyHeader = REPLY, body: bytes = b"b" * 20) -> bytes:
    return header.encode(len(body)) + body


def changed(packet: bytes, at: int, new: bytes) -> bytes:
    return packet[:at] + new + packet[at + len(new) :]


# ---------------------------------------------------------------- layouts


def test_request_layout_is_frozen() -> None:
    """Every field of a request is where DESIGN 6 puts it, big-endian."""
    expected = b"".join(
        (
            b"CKQ1" + b"\x03" + b"\x01" + b"\0\0",
            b"s" * 32 + b"r" * 32,
            struct.pack(">QQ", 0x0102, 0x0304) + struct.pack(">QQ", 5, 6),
            b"e" * 32 + struct.pack(">I", 20),
            b"b" * 20 + b"S" * 64,
        )
    )
    assert expected == request_packet()
    assert REQUEST_HEADER_SIZE_BYTES == 140


def test_reply_layout_is_frozen() -> None:
    """Every field of a reply is where DESIGN 6 puts it, big-endian."""
    expected = b"".join(
        (
            b"CKQR" + b"\x03" + b"\x02" + b"\0\0",
            struct.pack(">QQ", 0x0102, 0x0304),
            b"e" * 32 + struct.pack(">QQI", 5, 6, 20),
            b"b" * 20,
        )
    )
    assert expected == reply_packet()
    assert REPLY_HEADER_SIZE_BYTES == 76


@given(
    st.sampled_from(RequestKind),
    st.sampled_from(Suite),
    st.tuples(KEY, KEY, KEY),
    st.tuples(U64, U64, U64, U64),
    st.binary(min_size=16, max_size=99),
)
def test_request_round_trip(
    kind: RequestKind,
    suite: Suite,
    keys: tuple[bytes, bytes, bytes],
    numbers: tuple[int, int, int, int],
    body: bytes,
) -> None:
    """Every header comes back equal, and the parts are the packet's own bytes."""
    sender, recipient, ephemeral = keys
    epoch, counter, issued, expires = numbers
    request_id = RequestId(epoch, counter)
    header = RequestHeader(kind, suite, sender, recipient, request_id, issued, expires, ephemeral)
    packet = request_packet(header, body)
    raw = parse_request(packet)
    assert header == raw.header
    assert (packet[:140], body, b"S" * 64, packet[:-64]) == (
        raw.header_bytes,
        raw.sealed_body,
        raw.signature,
        raw.signed_part,
    )


@given(
    st.tuples(st.sampled_from(ReplyKind), st.sampled_from(Suite)), KEY,
    st.tuples(U64, U64, U64, U64), st.booleans(), st.binary(min_size=16, max_size=99),
)  # fmt: skip
def test_reply_round_trip(
    chosen: tuple[ReplyKind, Suite],
    ephemeral: bytes,
    numbers: tuple[int, ...],
    packed: bool,
    body: bytes,
) -> None:
    """Every header comes back equal, and the parts are the packet's own bytes."""
    epoch, counter, seq, index = numbers
    header = ReplyHeader(*chosen, RequestId(epoch, counter), ephemeral, seq, index, packed)
    packet = reply_packet(header, body)
    raw = parse_reply(packet)
    assert header == raw.header
    assert (packet[:76], body) == (raw.header_bytes, raw.sealed_body)


def test_packed_is_the_lowest_flag() -> None:
    """One bit on the wire, the others are as they were."""
    plain, packed = reply_packet(), reply_packet(replace(REPLY, packed=True))
    assert changed(plain, 6, b"\0\1") == packed


def test_reply_body_is_a_view_not_a_copy() -> None:
    """A change of the buffer shows in the parsed body: no byte of it was copied."""
    buffer = bytearray(reply_packet())
    raw = parse_reply(buffer)
    buffer[-1] ^= 1
    assert b"b" * 19 + b"c" == raw.sealed_body


@given(U64, U64)
def test_request_id_round_trip(epoch: int, counter: int) -> None:
    """A request id is 16 bytes and back."""
    request_id = RequestId(epoch, counter)
    assert request_id == RequestId.from_bytes(request_id.to_bytes())


@pytest.mark.parametrize("size", [0, 15, 17])
def test_request_id_of_another_size_is_malformed(size: int) -> None:
    """Only 16 bytes are a request id."""
    with pytest.raises(Malformed):
        RequestId.from_bytes(bytes(size))


@pytest.mark.parametrize(("epoch", "counter"), [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_request_id_outside_64_bits_is_malformed(epoch: int, counter: int) -> None:
    """Numbers that do not fit the wire are refused when they are made."""
    with pytest.raises(Malformed):
        RequestId(epoch, counter)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(request_packet()[:-1], id="one-byte-short"),
        pytest.param(request_packet() + b"x", id="one-byte-long"),
        pytest.param(request_packet(body=b"b" * 15), id="body-smaller-than-its-seal"),
        pytest.param(request_packet(body=bytes(MAX_REQUEST_SIZE_BYTES)), id="over-the-cap"),
        pytest.param(changed(request_packet(), 0, b"CKQ2"), id="magic"),
        pytest.param(changed(request_packet(), 0, b"CKQR"), id="magic-of-a-reply"),
        pytest.param(changed(request_packet(), 4, b"\0"), id="kind-0"),
        pytest.param(changed(request_packet(), 4, b"\x0b"), id="kind-11"),
        pytest.param(changed(request_packet(), 5, b"\0"), id="suite-0"),
        pytest.param(changed(request_packet(), 5, b"\x03"), id="suite-3"),
        pytest.param(changed(request_packet(), 6, b"\0\1"), id="flags"),
        pytest.param(changed(request_packet(), 136, b"\xff" * 4), id="body-of-4-GiB"),
        pytest.param(changed(request_packet(), 136, bytes(4)), id="body-of-0"),
        pytest.param(reply_packet(body=b"b" * 300), id="a-reply"),
    ],
)
def test_malformed_request(packet: bytes) -> None:
    """Each wrong field or length of a request is refused."""
    with pytest.raises(Malformed):
        parse_request(packet)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(reply_packet()[:-1], id="one-byte-short"),
        pytest.param(reply_packet() + b"x", id="one-byte-long"),
        pytest.param(reply_packet(body=b"b" * 15), id="body-smaller-than-its-seal"),
        pytest.param(reply_packet(body=bytes(MAX_REPLY_BODY_SIZE_BYTES + 1)), id="over-the-cap"),
        pytest.param(changed(reply_packet(), 0, b"CKQ1"), id="magic-of-a-request"),
        pytest.param(changed(reply_packet(), 4, b"\0"), id="kind-0"),
        pytest.param(changed(reply_packet(), 4, b"\x09"), id="kind-9"),
        pytest.param(changed(reply_packet(), 5, b"\x03"), id="suite-3"),
        pytest.param(changed(reply_packet(), 6, b"\1\0"), id="flags"),
        pytest.param(changed(reply_packet(), 6, b"\0\2"), id="flag-1"),
        pytest.param(changed(reply_packet(), 6, b"\0\3"), id="flag-1-beside-packed"),
        pytest.param(changed(reply_packet(), 72, b"\xff" * 4), id="body-of-4-GiB"),
        pytest.param(request_packet(), id="a-request"),
    ],
)
def test_malformed_reply(packet: bytes) -> None:
    """Each wrong field or length of a reply is refused."""
    with pytest.raises(Malformed):
        parse_reply(packet)


def test_largest_packets_are_accepted() -> None:
    """The caps themselves are inside."""
    body = bytes(MAX_REQUEST_SIZE_BYTES - 140 - 64)
    assert len(body) == len(parse_request(request_packet(body=body)).sealed_body)
    body = bytes(MAX_REPLY_BODY_SIZE_BYTES)
    assert len(body) == len(parse_reply(reply_packet(body=body)).sealed_body)


@pytest.mark.parametrize("issued", [-1, 2**64])
def test_lifetime_outside_64_bits_is_malformed(issued: int) -> None:
    """A clock that is far off cannot make struct fail with an error of its own."""
    header = RequestHeader(
        RequestKind.OPEN, Suite.AES256GCM, b"s" * 32, b"r" * 32, RequestId(0, 0), issued, 1,
        b"e" * 32,
    )  # fmt: skip
    with pytest.raises(Malformed):
        header.encode(16)


def test_random_and_mutated_packets_are_parsed_or_malformed() -> None:
    """20,000 random, cut, stretched and flipped packets raise errors of our tree only."""
    chance = random.Random(20_000)
    outcomes = {"parsed": 0, "refused": 0}
    for turn in range(20_000):
        packet = _random_packet(chance)
        try:
            (parse_request if turn % 2 else parse_reply)(packet)
        except ChunkqError:
            outcomes["refused"] += 1
        else:
            outcomes["parsed"] += 1
    assert all(outcomes.values())


def _random_packet(chance: random.Random) -> bytes:
    packet = bytearray(chance.choice((request_packet(), reply_packet())))
    match chance.randrange(4):
        case 0:
            return chance.randbytes(chance.randrange(400))
        case 1:
            return bytes(packet[: chance.randrange(len(packet))])
        case 2:
            return bytes(packet) + chance.randbytes(chance.randrange(1, 50))
        case _:
            for _ in range(chance.randint(1, 3)):
                packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
            return bytes(packet)
