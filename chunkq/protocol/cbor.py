"""Bodies of control packets as deterministic CBOR (RFC 8949, section 4.2): one text, one meaning.

A scan of the raw bytes refuses whatever has no place in a body before cbor2 builds anything: tags,
floats, `undefined`, indefinite lengths, lengths longer than need be or past the end, keys that are
no text, are out of order or come twice, deep nesting, bytes that follow.
"""

from __future__ import annotations

from typing import Final, TypeVar

import cbor2
from pydantic import ValidationError

from chunkq.errors import Malformed
from chunkq.protocol.digest import Buffer
from chunkq.protocol.limits import KIB, MAX_HEAD_SIZE_BYTES
from chunkq.protocol.messages import Body

#: The largest control body: a manifest's head and what stands beside it.
MAX_CONTROL_BODY_SIZE_BYTES: Final = MAX_HEAD_SIZE_BYTES + 64 * KIB
#: A listing is three deep (body, entries, entry), runs as well.
MAX_NESTING_DEPTH: Final = 8

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
#: Below it, the low five bits of a head are the number itself; 24..27: 1, 2, 4, 8 bytes follow.
_INLINE_LIMIT: Final = 24
_LARGEST_ADDITIONAL: Final = 27
#: false, true, null.
_SIMPLE_VALUES: Final = frozenset({20, 21, 22})

_B = TypeVar("_B", bound=Body)


def encode(obj: Body) -> bytes:
    """The one encoding of `obj`; fields at their defaults are left out. Raises `Malformed`."""
    try:
        data = cbor2.dumps(obj.model_dump(exclude_defaults=True), canonical=True)
    except (cbor2.CBOREncodeError, ValueError) as error:
        raise Malformed(f"{type(obj).__name__} cannot be encoded: {error}") from error
    if len(data) > MAX_CONTROL_BODY_SIZE_BYTES:
        raise Malformed(_too_large(type(obj).__name__, len(data)))
    return data


def decode(model: type[_B], data: Buffer) -> _B:
    """The `model` that `data` encodes. Raises `Malformed`, and nothing else, if there is none."""
    name = model.__name__
    if len(data) > MAX_CONTROL_BODY_SIZE_BYTES:
        raise Malformed(_too_large(name, len(data)))
    raw = bytes(data)
    end = _scan(raw, 0, 0)
    if end != len(raw):
        raise Malformed(f"{len(raw) - end} bytes follow the body of a {name}")
    try:
        return model.model_validate(cbor2.loads(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise Malformed(f"{where}: {first['msg']}") from error
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise Malformed(f"{name} is not CBOR: {error}") from error


def _too_large(name: str, size: int) -> str:
    return f"the body of a {name} has {size} bytes; the most is {MAX_CONTROL_BODY_SIZE_BYTES}"


def _scan(data: bytes, at: int, depth: int) -> int:
    """Check the item that begins at `at`; returns where it ends. Raises `Malformed`."""
    if at >= len(data):
        raise Malformed(f"the body ends at byte {at}, inside an item")
    major, number, at = _head(data, at)
    if major <= _NEGATIVE:
        return at
    if major <= _TEXT:
        if number > len(data) - at:
            raise Malformed(f"a string of {number} bytes at byte {at} passes the body's end")
        return at + number
    if major == _SIMPLE:
        if number not in _SIMPLE_VALUES:
            raise Malformed(f"a float or unknown simple value before byte {at}")
        return at
    if major == _TAG:
        raise Malformed(f"tag {number} before byte {at}; bodies have none")
    if depth >= MAX_NESTING_DEPTH:
        raise Malformed(f"nested deeper than {MAX_NESTING_DEPTH} at byte {at}")
    if number > len(data) - at:
        raise Malformed(f"{number} items at byte {at} pass the body's end")
    if major == _MAP:
        return _scan_map(data, at, depth + 1, number)
    for _ in range(number):
        at = _scan(data, at, depth + 1)
    return at


def _scan_map(data: bytes, at: int, depth: int, count: int) -> int:
    """Keys are text and rise in their encoded form, so that none comes twice."""
    last = b""
    for _ in range(count):
        start = at
        if at < len(data) and data[at] >> 5 != _TEXT:
            raise Malformed(f"the key at byte {at} is no text")
        at = _scan(data, at, depth)
        key = data[start:at]
        if key <= last:
            raise Malformed(f"the key at byte {start} comes twice or out of order")
        last = key
        at = _scan(data, at, depth)
    return at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """An item's major type, its number in the shortest form, and where the head ends."""
    major, number = data[at] >> 5, data[at] & 0x1F
    if number < _INLINE_LIMIT:
        return major, number, at + 1
    if number > _LARGEST_ADDITIONAL:
        raise Malformed(f"an indefinite or reserved length at byte {at}")
    if major == _SIMPLE:
        raise Malformed(f"a float or unknown simple value at byte {at}")
    size = 1 << (number - _INLINE_LIMIT)
    end = at + 1 + size
    if end > len(data):
        raise Malformed(f"the body ends at byte {len(data)}, inside an item")
    number = int.from_bytes(data[at + 1 : end], "big")
    if number < (_INLINE_LIMIT if size == 1 else 1 << (4 * size)):
        raise Malformed(f"the number at byte {at} is not in its shortest form")
    return major, number, end
