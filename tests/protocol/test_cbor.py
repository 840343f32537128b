"""Strict CBOR: one encoding for one body, and everything else refused with `Malformed`."""

from __future__ import annotations

import random
import re

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import Malformed
from chunkq.protocol import cbor
from chunkq.protocol.messages import Body, Entry, Listing, Open, Receipt, Refusal, RefusalReason

OPEN = Open(instance="i1", share="s", path="a/b", largest_chunk=4096)
#: {"path": "a/b", "share": "s", "instance": "i1", "largest_chunk": 4096}
OPEN_HEX = (
    "a4 64 70617468 63 612f62 65 7368617265 61 73 68 696e7374616e6365 62 6931"
    " 6d 6c6172676573745f6368756e6b 19 1000"
)
OPEN_BYTES = bytes.fromhex(OPEN_HEX)


class Anything(Body):
    """Takes any value, so that only the CBOR rules can refuse it."""

    x: object


def test_encoding_is_frozen() -> None:
    """The bytes of a fixed body never change; keys are ordered, numbers are shortest."""
    assert OPEN_BYTES == cbor.encode(OPEN)
    assert OPEN == cbor.decode(Open, OPEN_BYTES)


def test_any_buffer_decodes() -> None:
    """Bytes, bytearrays and views are read alike."""
    assert OPEN == cbor.decode(Open, bytearray(OPEN_BYTES))
    assert OPEN == cbor.decode(Open, memoryview(OPEN_BYTES))


def test_defaults_are_left_out_and_come_back() -> None:
    """A field at its default costs no bytes."""
    body = Refusal(reason=RefusalReason.BUSY)
    data = cbor.encode(body)
    assert {"reason": "busy"} == cbor2.loads(data)
    assert body == cbor.decode(Refusal, data)


@pytest.mark.parametrize(
    ("says", "value"),
    [
        pytest.param("1 bytes follow", "a161780018", id="bytes-follow"),
        pytest.param("1 bytes follow", "a1617800a0", id="two-items"),
        pytest.param("inside an item", "a16178", id="ends-in-a-map"),
        pytest.param("inside an item", "a1617819ff", id="ends-in-a-number"),
        pytest.param("passes the body's end", "a161784201", id="ends-in-a-string"),
        pytest.param("inside an item", "", id="empty"),
        pytest.param("twice or out of order", "a16178a2617900617901", id="duplicate-key"),
        pytest.param("twice or out of order", "a16178a2617a00617900", id="keys-out-of-order"),
        pytest.param("twice or out of order", "a16178a262616100617a00", id="longer-key-first"),
        pytest.param("is no text", "a10000", id="number-as-key"),
        pytest.param("is no text", "a1417800", id="bytes-as-key"),
        pytest.param("indefinite", "bf617800ff", id="indefinite-map"),
        pytest.param("indefinite", "a161789f00ff", id="indefinite-array"),
        pytest.param("indefinite", "a161787f6161ff", id="indefinite-text"),
        pytest.param("indefinite", "a161785f4161ff", id="indefinite-bytes"),
        pytest.param("indefinite", "a16178ff", id="break-alone"),
        pytest.param("reserved", "a161781c", id="reserved-length"),
        pytest.param("shortest", "a161781817", id="number-not-shortest-u8"),
        pytest.param("shortest", "a161781900ff", id="number-not-shortest-u16"),
        pytest.param("shortest", "a161781a0000ffff", id="number-not-shortest-u32"),
        pytest.param("shortest", "a161781b00000000ffffffff", id="number-not-shortest-u64"),
        pytest.param("shortest", "a16178380a", id="negative-not-shortest"),
        pytest.param("shortest", "a16178580161", id="length-not-shortest"),
        pytest.param("shortest", "b801617800", id="map-count-not-shortest"),
        pytest.param("tag 0", "a16178c000", id="tag-date"),
        pytest.param("tag 2", "a16178c24101", id="tag-bignum"),
        pytest.param("tag 28", "a16178d81c80", id="tag-shareable"),
        pytest.param("tag 29", "a16178d81d00", id="tag-shared-reference"),
        pytest.param("tag 258", "a16178d9010280", id="tag-set"),
        pytest.param("float", "a16178f93c00", id="float16"),
        pytest.param("float", "a16178fa3f800000", id="float32"),
        pytest.param("float", "a16178fb3ff0000000000000", id="float64"),
        pytest.param("float", "a16178f97e00", id="nan"),
        pytest.param("unknown simple", "a16178f7", id="undefined"),
        pytest.param("unknown simple", "a16178e0", id="unassigned-simple"),
        pytest.param("unknown simple", "a16178f8ff", id="simple-of-one-byte"),
        pytest.param("is not CBOR", "a161786180", id="text-not-utf-8"),
        pytest.param("is not CBOR", "a1617863eda080", id="text-with-a-surrogate"),
        pytest.param("pass the body's end", "a161789b7fffffffffffffff", id="2^63-items"),
        pytest.param("pass the body's end", "a16178bb7fffffffffffffff", id="2^63-pairs"),
        pytest.param("passes the body's end", "a161785b7fffffffffffffff", id="2^63-bytes"),
        pytest.param("passes the body's end", "a161787bffffffffffffffff", id="2^64-characters"),
        pytest.param("deeper than 8", "a16178" + "81" * 8 + "00", id="nine-deep"),
        pytest.param("deeper than 8", "a16178" + "81" * 50_000 + "00", id="50000-deep"),
        pytest.param("Anything: ", "80", id="no-map"),
        pytest.param("Anything: ", "00", id="a-number"),
        pytest.param("Anything.x: ", "a0", id="field-missing"),
        pytest.param("Anything.y: ", "a2617800617900", id="field-unknown"),
    ],
)
def test_what_is_not_strict_is_malformed(says: str, value: str) -> None:
    """Each thing that CBOR allows and a body does not is refused for what it is."""
    data = bytes.fromhex(value)
    with pytest.raises(Malformed, match=re.escape(says)):
        cbor.decode(Anything, data)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-(2**64), "3bffffffffffffffff"),
        (True, "f5"),
        (None, "f6"),
        (b"", "40"),
        ("", "60"),
        ({}, "a0"),
        ([[[[[[[]]]]]]], "81" * 6 + "80"),
    ],
)
def test_what_is_strict_is_read(expected: object, value: str) -> None:
    """The largest and smallest of each allowed kind are read."""
    assert expected == cbor.decode(Anything, bytes.fromhex("a16178" + value)).x


def test_oversized_body_is_refused_before_decoding() -> None:
    """A body over the cap is refused by its size alone, on both sides."""
    data = b"\xa1\x61x\x5a" + bytes(cbor.MAX_CONTROL_BODY_SIZE_BYTES)
    with pytest.raises(Malformed, match="the most is"):
        cbor.decode(Anything, data)
    entries = [Entry(name=f"{i:04}" + "x" * 2000, type="file") for i in range(1000)]
    with pytest.raises(Malformed, match="the most is"):
        cbor.encode(Listing(entries=entries))


def test_name_that_is_no_unicode_cannot_be_encoded() -> None:
    """A file name with undecodable bytes (a surrogate in Python) is malformed, not a crash."""
    with pytest.raises(Malformed, match="cannot be encoded"):
        cbor.encode(Anything(x="\udc80"))


def test_message_names_the_field() -> None:
    """What is wrong is said with the model and the field, without repeating the peer's value."""
    data = cbor2.dumps(
        {"share": "s", "path": "", "root": b"short", "instance": "i"}, canonical=True
    )
    with pytest.raises(Malformed, match=r"Receipt\.root: ") as caught:
        cbor.decode(Receipt, data)
    assert "short'" not in caught.value.message


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
        max_leaves=20,
    )
)
def test_canonical_encoding_of_anything_shallow_is_accepted(value: object) -> None:
    """What cbor2 writes canonically is read back equal, unless it is too deep."""
    data = cbor2.dumps({"x": value}, canonical=True)
    if _depth(value) <= cbor.MAX_NESTING_DEPTH - 1:
        assert value == cbor.decode(Anything, data).x
    else:
        with pytest.raises(Malformed):
            cbor.decode(Anything, data)


@given(st.binary(max_size=200))
def test_accepted_bytes_are_the_only_encoding(data: bytes) -> None:
    """Whatever random bytes are accepted, cbor2 writes the same bytes again."""
    try:
        body = cbor.decode(Anything, b"\xa1\x61x" + data)
    except Malformed:
        return
    assert data == cbor2.dumps(body.x, canonical=True)


def test_mutated_bodies_are_read_or_malformed() -> None:
    """20,000 mutations of a real body raise `Malformed` or give a body that encodes as it came."""
    chance = random.Random(20_000)
    accepted = 0
    for _ in range(20_000):
        data = bytearray(OPEN_BYTES)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            body = cbor.decode(Open, data)
        except Malformed:
            continue
        accepted += 1
        assert data == cbor.encode(body)
    assert accepted


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(inner) for inner in value), default=0)
    return 0
