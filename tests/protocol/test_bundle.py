"""Bundles: what the origin signs, and everything that is no bundle that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import BadSignature, Malformed
from chunkq.protocol.bundle import (
    HEAD_DOMAIN,
    OVERHEAD_SIZE_BYTES,
    RECORD_SIZE_BYTES,
    BundleBuilder,
    FileRecord,
    asked_digest,
    check_content,
    open_bundle,
)
from chunkq.protocol.messages import RefusalReason

from .sites import ALICE, BOB, BOB_CARD

GROUPS = [("d", ["a", "b"]), ("d/e", ["c"])]
ASKED = asked_digest("docs", GROUPS)
CONTENTS = [b"first", b"", b"third file"]
HEAD_SIZE_BYTES = OVERHEAD_SIZE_BYTES - 64
LARGEST = 1 << 20


def make(contents: list[bytes] = CONTENTS, asked: bytes = ASKED) -> bytes:
    """Bob's bundle of these files."""
    builder = BundleBuilder(asked, LARGEST)
    for index, content in enumerate(contents):
        builder.add(index, 0o640, -5, content)
    return builder.sign(BOB)


def signed_anew(body: bytes, change: Callable[[bytearray], None], files: int = 3) -> bytes:
    """What Bob would have signed if he lied so."""
    end = HEAD_SIZE_BYTES + files * RECORD_SIZE_BYTES
    head = bytearray(body[:end])
    change(head)
    return bytes(head) + BOB.sign(HEAD_DOMAIN, bytes(head)) + body[end + 64 :]


def put(at: int, data: bytes) -> Callable[[bytearray], None]:
    """Overwrite some bytes of the head."""

    def change(head: bytearray) -> None:
        head[at : at + len(data)] = data

    return change


def in_record(number: int, at: int, data: bytes) -> Callable[[bytearray], None]:
    return put(HEAD_SIZE_BYTES + number * RECORD_SIZE_BYTES + at, data)


def test_what_was_put_in_comes_out() -> None:
    """Files with mode, time, digest and content, and why others are not there."""
    builder = BundleBuilder(ASKED, LARGEST)
    builder.add(0, 0o100755, 2**62, b"hello")
    builder.refuse(2, RefusalReason.TOO_LARGE)

    bundle = open_bundle(BOB_CARD, ASKED, 3, builder.sign(BOB))

    record = FileRecord(0, 0o755, 5, 2**62, blake3(b"hello").digest())
    assert ((record, b"hello"),) == bundle.files
    assert ((2, RefusalReason.TOO_LARGE),) == bundle.refused


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_any_contents(contents: list[bytes]) -> None:
    """Each byte comes back, and each content is the signed one."""
    bundle = open_bundle(BOB_CARD, ASKED, 3, make(contents))

    assert contents == [bytes(content) for _, content in bundle.files]
    assert [None] * len(contents) == [check_content(*each) for each in bundle.files]


def test_a_builder_stays_within_its_size() -> None:
    """`fits` counts content and record; the body is never larger than was said."""
    largest = OVERHEAD_SIZE_BYTES + 2 * RECORD_SIZE_BYTES + 10
    builder = BundleBuilder(ASKED, largest)
    builder.add(0, 0, 0, b"12345")

    assert builder.fits(5)
    assert not builder.fits(6)
    builder.add(1, 0, 0, b"67890")
    assert largest == len(builder.sign(BOB))
    assert not builder.fits(0)


@pytest.mark.parametrize(
    "groups",
    [
        [("d", ["b", "a"]), ("d/e", ["c"])],
        [("d", ["a"]), ("d", ["b"]), ("d/e", ["c"])],
        [("d", ["a", "b", "c"])],
        [("da", ["b"]), ("d/e", ["c"])],
    ],
)
def test_a_request_has_its_own_digest(groups: list[tuple[str, list[str]]]) -> None:
    """Other names, another order, another share: another digest."""
    assert ASKED != asked_digest("docs", groups)
    assert ASKED != asked_digest("doc", GROUPS)
    assert ASKED == asked_digest("docs", [("d", ("a", "b")), ("d/e", ("c",))])


MALFORMED = {
    "empty": (b"", 3),
    "cut in its head": (make()[:HEAD_SIZE_BYTES], 3),
    "cut in its records": (make()[: OVERHEAD_SIZE_BYTES + 20], 3),
    "magic": (b"CKQM" + make()[4:], 3),
    "version": (signed_anew(make(), put(4, b"\2")), 3),
    "hash id": (signed_anew(make(), put(5, b"\2")), 3),
    "reserved": (signed_anew(make(), put(6, b"\0\1")), 3),
    "no files": (signed_anew(make(), put(40, bytes(4))), 3),
    "more files than were asked for": (make(), 2),
    "2^32 - 1 files": (signed_anew(make(), put(40, b"\xff" * 4)), 3),
    "about another request": (make(asked=asked_digest("docs", [("d", ["x"])])), 3),
    "an index twice": (signed_anew(make(), in_record(1, 0, bytes(4))), 3),
    "indices that fall": (signed_anew(make(), in_record(0, 0, b"\0\0\0\2")), 3),
    "an index that was not asked for": (signed_anew(make(), in_record(2, 0, b"\0\0\0\3")), 3),
    "an unknown outcome": (signed_anew(make(), in_record(0, 4, b"\x09")), 3),
    "a refused file with a size": (signed_anew(make(), in_record(0, 4, b"\1")), 3),
    "a reserved byte": (signed_anew(make(), in_record(0, 5, b"\1")), 3),
    "setuid": (signed_anew(make(), in_record(0, 6, b"\x09\xff")), 3),
    "a size that passes the end": (signed_anew(make(), in_record(2, 8, bytes(7) + b"\x0b")), 3),
    "a size larger than small files": (
        signed_anew(make(), in_record(0, 8, (262_145).to_bytes(8, "big"))),
        3,
    ),
    "sizes that leave bytes over": (signed_anew(make(), in_record(2, 8, bytes(7) + b"\x09")), 3),
    "a byte more": (make() + b"x", 3),
    "a byte less": (make()[:-1], 3),
}


@pytest.mark.parametrize(("body", "count"), MALFORMED.values(), ids=MALFORMED)
def test_what_does_not_add_up_is_refused(body: bytes, count: int) -> None:
    """Also under the origin's own signature: it may lie."""
    with pytest.raises(Malformed):
        open_bundle(BOB_CARD, ASKED, count, body)


@pytest.mark.parametrize("at", [8, 40 + 4 + 8, HEAD_SIZE_BYTES + 3 * RECORD_SIZE_BYTES])
def test_a_changed_head_or_signature_is_refused(at: int) -> None:
    """Whoever holds the seal's key but not the origin's signing key makes no bundle."""
    body = bytearray(make())
    body[at] ^= 1

    with pytest.raises(BadSignature):
        open_bundle(BOB_CARD, ASKED, 3, body)


def test_a_bundle_of_another_site_is_refused() -> None:
    """Signed by its requester instead of the origin."""
    builder = BundleBuilder(ASKED, LARGEST)
    builder.add(0, 0, 0, b"x")

    with pytest.raises(BadSignature):
        open_bundle(BOB_CARD, ASKED, 3, builder.sign(ALICE))


def test_a_content_that_is_not_the_signed_one_is_refused() -> None:
    """The others of the bundle stay good."""
    body = bytearray(make())
    body[-1] ^= 1
    bundle = open_bundle(BOB_CARD, ASKED, 3, body)

    assert None is check_content(*bundle.files[0])
    with pytest.raises(Malformed, match="file 2"):
        check_content(*bundle.files[2])
