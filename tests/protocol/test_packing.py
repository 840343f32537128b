"""One plain zstd frame of the expected length, and `BadFrame` for whatever else an origin sends."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import BadFrame
from chunkq.protocol.limits import MAX_REPLY_BODY_SIZE_BYTES, MIB
from chunkq.protocol.packing import CAREFUL_LEVEL, FAST_LEVEL, pack, unpack

TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(2000))


def changed(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


def made(data: bytes = TEXT, **options: object) -> bytes:
    """A frame as somebody else would make it."""
    parameters = zstandard.ZstdCompressionParameters(**options)  # type: ignore[arg-type]
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def with_dictionary() -> bytes:
    words = zstandard.train_dictionary(1024, [b"bottles of beer %d" % n * 9 for n in range(999)])
    return zstandard.ZstdCompressor(dict_data=words).compress(TEXT)


# ---------------------------------------------------------------- what comes back


@given(st.binary(min_size=1, max_size=70_000), st.sampled_from([FAST_LEVEL, CAREFUL_LEVEL]))
def test_round_trip(data: bytes, level: int) -> None:
    """Any content at both levels, with its length known or only bounded."""
    frame = pack(data, level)
    assert data == unpack(frame, len(data))
    assert data == unpack(memoryview(frame), len(data) + 1, exact=False)


@pytest.mark.parametrize("size", [1, 4096, 256 * 1024, 4 * MIB, MAX_REPLY_BODY_SIZE_BYTES - 16])
def test_every_size_of_chunk(size: int) -> None:
    """From one byte to the largest body, content that packs well and content that does not."""
    for data in ((TEXT * (size // len(TEXT) + 1))[:size], random.Random(size).randbytes(size)):
        for level in (FAST_LEVEL, CAREFUL_LEVEL):
            assert data == unpack(pack(memoryview(data), level), size)


def test_text_shrinks_and_random_bytes_hardly_grow() -> None:
    """The reason for all of this; and the bound that a packed body needs no room above a chunk."""
    assert len(pack(TEXT)) < 0.2 * len(TEXT)
    assert len(pack(os.urandom(256 * 1024))) < 256 * 1024 + 64


def test_threads_share_no_context() -> None:
    """Many threads at once, each gets its own content back."""

    def there_and_back(number: int) -> bool:
        data = random.Random(number).randbytes(500) * (1 + number % 300)
        return data == unpack(pack(data, FAST_LEVEL if number % 2 else CAREFUL_LEVEL), len(data))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(600)))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda: b"", id="nothing"),
        pytest.param(lambda: pack(TEXT)[:4], id="magic-alone"),
        pytest.param(lambda: pack(TEXT)[:9], id="header-alone"),
        pytest.param(lambda: pack(TEXT)[:-1], id="cut"),
        pytest.param(lambda: TEXT, id="not-packed"),
        pytest.param(lambda: os.urandom(1000), id="garbage"),
        pytest.param(lambda: pack(TEXT)[:4] + os.urandom(1000), id="garbage-behind-the-magic"),
        pytest.param(lambda: pack(TEXT) + b"x", id="a-byte-follows"),
        pytest.param(lambda: pack(TEXT) + pack(TEXT), id="two-frames"),
        pytest.param(lambda: pack(TEXT[:500]) + pack(TEXT[500:]), id="two-frames-that-add-up"),
        pytest.param(lambda: pack(TEXT) + b"\x50\x2a\x4d\x18\0\0\0\0", id="skippable-behind"),
        pytest.param(lambda: b"\x50\x2a\x4d\x18\0\0\0\0" + pack(TEXT), id="skippable-before"),
        pytest.param(
            lambda: b"\x50\x2a\x4d\x18" + len(TEXT).to_bytes(4, "little") + TEXT,
            id="skippable-alone",
        ),
        pytest.param(lambda: pack(TEXT[:-1]), id="one-byte-short"),
        pytest.param(lambda: pack(TEXT + b"x"), id="one-byte-long"),
        pytest.param(lambda: made(write_content_size=False), id="length-unsaid"),
        pytest.param(lambda: made(write_checksum=True), id="checksum"),
        pytest.param(with_dictionary, id="dictionary"),
        pytest.param(lambda: b"\x27\xb5\x2f\xfd" + pack(TEXT)[4:], id="format-of-0.7"),
    ],
)
def test_whatever_is_not_one_plain_frame_of_that_length(frame: Callable[[], bytes]) -> None:
    """Refused, by its own error, however well the rest would unpack."""
    with pytest.raises(BadFrame):
        unpack(frame(), len(TEXT))


def test_each_byte_of_the_header_says_what_it_must() -> None:
    """A header that lies about the length is refused, whichever way it lies."""
    frame = pack(TEXT)
    for size in (len(TEXT) - 1, len(TEXT) + 1, 2**16 - 1):
        lie = changed(frame, 5, (size - 256).to_bytes(2, "little"))
        assert size == zstandard.get_frame_parameters(lie).content_size
        with pytest.raises(BadFrame):
            unpack(lie, size)


def test_a_window_larger_than_any_body_is_refused() -> None:
    """8 MiB to look back into, of which the content needs nothing."""
    frame = made(window_log=23, write_content_size=True, write_checksum=False)
    single = zstandard.get_frame_parameters(frame).window_size
    windowed = b"\x28\xb5\x2f\xfd" + bytes((frame[4] & ~0x20, (23 - 10) << 3)) + frame[5:]
    header = zstandard.get_frame_parameters(windowed)
    assert (len(TEXT), len(TEXT), 8 * MIB) == (single, header.content_size, header.window_size)
    with pytest.raises(BadFrame, match="window"):
        unpack(windowed, len(TEXT))


@pytest.mark.parametrize("exact", [True, False])
def test_a_bomb_allocates_nothing(exact: bool) -> None:
    """8 KiB that would become 256 MiB are refused by what their header says."""
    bomb = pack(bytes(256 * MIB), CAREFUL_LEVEL)
    assert len(bomb) < 32 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            unpack(bomb, MIB, exact=exact)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_a_bomb_that_lies_fills_no_more_than_it_said() -> None:
    """256 MiB behind a header that says 1 MiB: unpacking ends where the content may end."""
    bomb = pack(bytes(256 * MIB), CAREFUL_LEVEL)
    assert bytes.fromhex("28b52ffd a0") == bomb[:4] + bytes((bomb[4] | 0x20,))
    lie = bomb[:4] + bytes((bomb[4],)) + bomb[5:6] + MIB.to_bytes(4, "little") + bomb[10:]
    assert MIB == zstandard.get_frame_parameters(lie).content_size
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            unpack(lie, MIB)
        assert tracemalloc.get_traced_memory()[1] < MIB + 64 * 1024
    finally:
        tracemalloc.stop()


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_mutated_frames_raise_nothing_else(seed: int, changes: int) -> None:
    """Whatever was changed: the right length comes out, or `BadFrame`."""
    chance = random.Random(seed)
    frame = bytearray(pack(TEXT))
    for _ in range(changes):
        frame[chance.randrange(len(frame))] = chance.randrange(256)
    try:
        assert len(TEXT) == len(unpack(bytes(frame), len(TEXT)))
    except BadFrame:
        assert bytes(frame) != pack(TEXT)
