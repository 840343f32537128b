"""Manifests: what a head pins, what a page must be, and how one is made."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import BadSignature, Malformed
from chunkq.protocol.digest import digest, domain_digest, zero_digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import (
    GIB,
    KIB,
    LEAVES_PER_PAGE,
    MAX_CHUNK_COUNT,
    MAX_CHUNK_SIZE_BYTES,
    MAX_FILE_SIZE_BYTES,
    MAX_HEAD_SIZE_BYTES,
    MIB,
)
from chunkq.protocol.manifest import (
    Head,
    ManifestBuilder,
    decode_head,
    encode_head,
    is_zero_page,
    page_digest,
    sign_head,
    verify_head,
    verify_page,
    zero_leaf,
    zero_page_digest,
)
from tests.protocol.sites import ALICE, ALICE_CARD, BOB_CARD

CHUNK = 4 * KIB
#: The file sizes at which something changes: chunk edges and page edges.
EDGES = [
    pytest.param(0, id="0-bytes"),
    pytest.param(1, id="1-byte"),
    pytest.param(CHUNK - 1, id="chunk-less-a-byte"),
    pytest.param(CHUNK, id="exactly-1-chunk"),
    pytest.param(CHUNK + 1, id="1-chunk-and-a-byte"),
    pytest.param(LEAVES_PER_PAGE * CHUNK, id="exactly-1-page"),
    pytest.param(LEAVES_PER_PAGE * CHUNK + 1, id="1-page-and-a-byte"),
    pytest.param(2 * LEAVES_PER_PAGE * CHUNK - 1, id="2-pages-less-a-byte"),
]


def content_of(size: int) -> bytes:
    """`size` bytes that differ from place to place."""
    return blake3(b"content").digest(length=size)


def built(content: bytes, chunk: int = CHUNK) -> tuple[Head, bytes]:
    """The manifest of `content`, made a chunk at a time."""
    builder = ManifestBuilder(Geometry(len(content), chunk))
    for at in range(0, len(content), chunk):
        builder.add(memoryview(content)[at : at + chunk])
    return builder.finish()


def page_of(leaves: bytes, page: int) -> bytes:
    size = LEAVES_PER_PAGE * 32
    return leaves[page * size : (page + 1) * size]


# ---------------------------------------------------------------- digests


def test_digest_is_plain_blake3() -> None:
    """The empty input has the digest that BLAKE3's authors publish (and `b3sum` prints)."""
    expected = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert expected == digest(b"").hex()


@pytest.mark.parametrize("length", [0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB + 7])
def test_zero_digest_is_the_digest_of_zeros(length: int) -> None:
    """Digests of zeros, made piecewise, equal those of the zeros themselves."""
    assert digest(bytes(length)) == zero_digest(length)


def test_domains_are_apart() -> None:
    """The same bytes have another digest in each domain, and none is the plain one."""
    digests = {digest(b"x"), domain_digest("one", b"x"), domain_digest("two", b"x")}
    assert len(digests) == 3


# ---------------------------------------------------------------- building


@pytest.mark.parametrize("size", EDGES)
def test_manifest_at_the_edges(size: int) -> None:
    """Leaves are the chunks' BLAKE3, and the content digest is that of the whole file."""
    content = content_of(size)
    head, leaves = built(content)
    assert blake3(content).digest() == head.content_digest
    assert leaves == b"".join(
        blake3(content[at : at + CHUNK]).digest() for at in range(0, size, CHUNK)
    )
    assert 32 * head.geometry.page_count == len(head.page_digests)
    for page in range(head.geometry.page_count):
        verify_page(head, page, page_of(leaves, page))
    assert head == decode_head(encode_head(head))


def test_known_answer() -> None:
    """The manifest of a fixed file is frozen: these values hold for every later version."""
    head, _ = built(content_of(3 * CHUNK + 5))
    assert head.content_digest.hex() == (
        "1525e860050f8362f3000ec19d8e9b235095162ca32a9e19a92afcb1b53a655b"
    )
    assert head.root.hex() == ("431fff3638cdf6a6283fe25922836978d7b84ce5a0a74d0e4411196c20f6f2c7")
    assert encode_head(head).hex() == (
        "434b514d01010000000000000000300500001000"
        "1525e860050f8362f3000ec19d8e9b235095162ca32a9e19a92afcb1b53a655b"
        "ef80b0be03c603f4196cb6b58928abb4b8e57a45fd6690dc185b7101f50b22a7"
    )


def test_empty_file_has_a_root_for_each_chunk_size() -> None:
    """A file of 0 bytes has a manifest like any other, with no pages and no leaves."""
    head, leaves = built(b"")
    assert (b"", b"") == (head.page_digests, leaves)
    assert head.root != built(b"", 2 * CHUNK)[0].root


@given(st.lists(st.booleans(), max_size=12), st.integers(1, CHUNK))
def test_holes_hash_like_the_zeros_they_are(holes: list[bool], last: int) -> None:
    """Chunks added as holes give the same manifest as chunks of zeros that were read."""
    size = max(0, (len(holes) - 1) * CHUNK + last) if holes else 0
    geometry = Geometry(size, CHUNK)
    content = bytearray(content_of(size))
    builder = ManifestBuilder(geometry)
    for index, hole in enumerate(holes):
        start = geometry.offset(index)
        end = start + geometry.length(index)
        if hole:
            content[start:end] = bytes(end - start)
            builder.add_hole(1)
        else:
            builder.add(content[start:end])
    assert built(bytes(content)) == builder.finish()


def test_hole_of_many_chunks_with_a_short_last() -> None:
    """One hole over the whole file equals the file of zeros."""
    size = (LEAVES_PER_PAGE + 3) * CHUNK + 9
    builder = ManifestBuilder(Geometry(size, CHUNK))
    builder.add_hole(0)
    builder.add_hole(LEAVES_PER_PAGE + 4)
    assert built(bytes(size)) == builder.finish()


def test_hole_takes_no_memory() -> None:
    """A hole of 512 MiB is hashed from a small buffer."""
    builder = ManifestBuilder(Geometry(512 * MIB, MAX_CHUNK_SIZE_BYTES))
    tracemalloc.start()
    builder.add_hole(512 * MIB // MAX_CHUNK_SIZE_BYTES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 * MIB


@pytest.mark.parametrize("chunk", [b"", b"x" * (CHUNK - 1), b"x" * (CHUNK + 1)])
def test_chunk_of_wrong_length_is_refused(chunk: bytes) -> None:
    """A file that was cut while it was read does not get a manifest."""
    builder = ManifestBuilder(Geometry(2 * CHUNK, CHUNK))
    with pytest.raises(Malformed, match="are not chunk 0"):
        builder.add(chunk)
    assert builder.chunks_done == 0


def test_last_chunk_of_wrong_length_is_refused() -> None:
    """The last chunk must have exactly what is left, and nothing may follow it."""
    builder = ManifestBuilder(Geometry(CHUNK + 5, CHUNK))
    builder.add(bytes(CHUNK))
    with pytest.raises(Malformed):
        builder.add(bytes(CHUNK))
    builder.add(b"12345")
    with pytest.raises(Malformed):
        builder.add(b"")


@pytest.mark.parametrize("count", [-1, 3])
def test_hole_outside_the_file_is_refused(count: int) -> None:
    """A hole cannot be longer than the file."""
    with pytest.raises(Malformed):
        ManifestBuilder(Geometry(2 * CHUNK, CHUNK)).add_hole(count)


def test_unfinished_manifest_is_refused() -> None:
    """A manifest of half a file is none."""
    builder = ManifestBuilder(Geometry(2 * CHUNK, CHUNK))
    builder.add(bytes(CHUNK))
    with pytest.raises(Malformed, match="1 chunks were added"):
        builder.finish()


# ---------------------------------------------------------------- root


def test_root_is_what_design_5_says() -> None:
    """The root is BLAKE3 in its own domain over size, chunk size, hash id and page digests."""
    head, _ = built(content_of(CHUNK + 1))
    material = struct.pack(">QIB", CHUNK + 1, CHUNK, 1) + head.page_digests
    expected = blake3(material, derive_key_context="chunkq 1 manifest root").digest()
    assert expected == head.root


def test_root_pins_size_chunk_size_and_pages() -> None:
    """Changing any of them changes the root."""
    pages = b"p" * 32
    heads = [
        Head(Geometry(2 * CHUNK, CHUNK), pages, bytes(32)),
        Head(Geometry(2 * CHUNK - 1, CHUNK), pages, bytes(32)),
        Head(Geometry(2 * CHUNK, 2 * CHUNK), pages, bytes(32)),
        Head(Geometry(2 * CHUNK, CHUNK), b"q" * 32, bytes(32)),
    ]
    assert len(heads) == len({head.root for head in heads})


# ---------------------------------------------------------------- pages


def test_leaf_presented_as_a_page() -> None:
    """A chunk of 32 bytes is no page though its leaf stands where a page's digest should."""
    chunk = b"c" * 32
    head = Head(Geometry(32, CHUNK), digest(chunk), digest(chunk))
    with pytest.raises(Malformed, match="does not match"):
        verify_page(head, 0, chunk)
    assert digest(chunk) != page_digest(chunk)


def test_page_that_fails_its_proof() -> None:
    """A page with any one leaf changed, or in another's place, does not match the head."""
    head, leaves = built(content_of(2 * LEAVES_PER_PAGE * CHUNK))
    first, second = page_of(leaves, 0), page_of(leaves, 1)
    changed = bytearray(first)
    changed[-1] ^= 1
    swapped = first[32:64] + first[:32] + first[64:]
    for page, presented in ((0, changed), (0, swapped), (0, second), (1, first)):
        with pytest.raises(Malformed, match="does not match"):
            verify_page(head, page, presented)


@pytest.mark.parametrize("size", [0, 31, 32, 63, 65, 96, LEAVES_PER_PAGE * 32])
def test_page_of_wrong_length(size: int) -> None:
    """A page must have exactly the leaves of its chunks, also the last, shorter one."""
    head, _ = built(content_of(2 * CHUNK))
    with pytest.raises(Malformed, match="has 64 bytes of leaves"):
        verify_page(head, 0, bytes(size))


@pytest.mark.parametrize("page", [-1, 1, 2**40])
def test_page_that_does_not_exist(page: int) -> None:
    """A page past the file is refused, a negative one as well."""
    head, leaves = built(content_of(2 * CHUNK))
    with pytest.raises(Malformed):
        verify_page(head, page, leaves)


def test_zero_pages_are_known_from_the_head() -> None:
    """Which pages are nothing but holes is told without their leaves, the last one too."""
    page = LEAVES_PER_PAGE * CHUNK
    content = bytes(page) + content_of(page) + bytes(page) + bytes(3 * CHUNK + 1)
    head, leaves = built(content)
    assert [True, False, True, True] == [is_zero_page(head, at) for at in range(4)]
    for at in (0, 2, 3):
        assert page_digest(page_of(leaves, at)) == zero_page_digest(head.geometry, at)


def test_page_of_all_zeros_but_one_byte_is_no_zero_page() -> None:
    """A single byte in the last, short chunk makes it content."""
    head, _ = built(bytes(3 * CHUNK) + b"\1")
    assert not is_zero_page(head, 0)


def test_zero_leaf_of_the_short_last_chunk() -> None:
    """The leaf of a hole depends on the chunk's length."""
    geometry = Geometry(CHUNK + 5, CHUNK)
    assert digest(bytes(CHUNK)) == zero_leaf(geometry, 0)
    assert digest(bytes(5)) == zero_leaf(geometry, 1)
    with pytest.raises(IndexError):
        zero_leaf(geometry, 2)


# ---------------------------------------------------------------- heads


def head_bytes(size: int, chunk: int, pages: int) -> bytes:
    """A head as a liar would write it."""
    return struct.pack(">4sBBHQI32s", b"CKQM", 1, 1, 0, size, chunk, bytes(32)) + bytes(32 * pages)


def test_signed_head_round_trip() -> None:
    """What is signed is verified and read in one step."""
    head, _ = built(content_of(5 * CHUNK))
    data = encode_head(head)
    assert head == verify_head(ALICE_CARD, memoryview(data), sign_head(ALICE, data))


def test_head_of_another_signer_or_changed_is_refused() -> None:
    """A head by somebody else, with any bit flipped, or under a request's signature fails."""
    data = encode_head(built(content_of(CHUNK))[0])
    signature = sign_head(ALICE, data)
    with pytest.raises(BadSignature):
        verify_head(BOB_CARD, data, signature)
    with pytest.raises(BadSignature):
        verify_head(ALICE_CARD, data, ALICE.sign(b"chunkq 1 request", data))
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(BadSignature):
            verify_head(ALICE_CARD, flipped, signature)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(head_bytes(0, CHUNK, 0)[:-1], id="cut"),
        pytest.param(head_bytes(2**63, MAX_CHUNK_SIZE_BYTES, 0), id="claims-2^63-bytes"),
        pytest.param(head_bytes(2**64 - 1, MAX_CHUNK_SIZE_BYTES, 0), id="claims-2^64-bytes"),
        pytest.param(head_bytes(2**32 * CHUNK, CHUNK, 0), id="claims-2^32-chunks"),
        pytest.param(head_bytes(MAX_CHUNK_COUNT * CHUNK + 1, CHUNK, 8193), id="a-chunk-too-many"),
        pytest.param(head_bytes(CHUNK, 0, 1), id="chunk-size-0"),
        pytest.param(head_bytes(CHUNK, 1, 1), id="chunk-size-1"),
        pytest.param(head_bytes(CHUNK, 3 * CHUNK, 1), id="chunk-size-no-power-of-two"),
        pytest.param(head_bytes(0, CHUNK, 1), id="pages-of-an-empty-file"),
        pytest.param(head_bytes(CHUNK, CHUNK, 0), id="no-page"),
        pytest.param(head_bytes(CHUNK, CHUNK, 2), id="a-page-too-many"),
        pytest.param(head_bytes(CHUNK, CHUNK, 1) + b"x", id="a-byte-too-many"),
        pytest.param(head_bytes(CHUNK, CHUNK, 1)[:-1], id="a-byte-too-few"),
        pytest.param(head_bytes(MAX_FILE_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES, 1), id="one-of-8192"),
        pytest.param(b"CKQX" + head_bytes(0, CHUNK, 0)[4:], id="magic"),
        pytest.param(b"CKQM\2" + head_bytes(0, CHUNK, 0)[5:], id="version"),
        pytest.param(b"CKQM\1\2" + head_bytes(0, CHUNK, 0)[6:], id="hash-id"),
        pytest.param(b"CKQM\1\1\0\1" + head_bytes(0, CHUNK, 0)[8:], id="reserved"),
        pytest.param(bytes(MAX_HEAD_SIZE_BYTES + 1), id="over-1-MiB"),
    ],
)
def test_hostile_head_is_malformed(data: bytes) -> None:
    """A head that claims what cannot be is refused, though its owner signed it."""
    with pytest.raises(Malformed):
        verify_head(ALICE_CARD, data, sign_head(ALICE, data))


def test_hostile_head_allocates_nothing() -> None:
    """Claims of 2^63 bytes and 2^32 chunks are refused before any memory is taken for them."""
    claims = [head_bytes(2**63, CHUNK, 0), head_bytes(2**32 * CHUNK, CHUNK, 0)]
    tracemalloc.start()
    for data in claims:
        with pytest.raises(Malformed):
            decode_head(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * KIB


def test_largest_head_fits_its_limits() -> None:
    """16 TiB in 2^22 chunks: a head of 256 KiB; 100 GiB at 256 KiB: one of 25 KiB."""
    largest = head_bytes(MAX_FILE_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES, 8192)
    assert decode_head(largest).geometry.chunk_count == MAX_CHUNK_COUNT
    assert len(largest) < MAX_HEAD_SIZE_BYTES
    usual = decode_head(head_bytes(100 * GIB, 256 * KIB, 800))
    assert usual.geometry.page_count == 800


@pytest.mark.parametrize(("pages", "content"), [(b"", bytes(32)), (bytes(32), b"short")])
def test_head_with_wrong_lengths_cannot_be_made(pages: bytes, content: bytes) -> None:
    """A head in memory has the same rules as one on the wire."""
    with pytest.raises(Malformed):
        Head(Geometry(CHUNK, CHUNK), pages, content)
