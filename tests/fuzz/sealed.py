"""Targets behind a signature, a seal or a checksum: the bytes are put under a valid one first.

Mutation alone never gets past 64 bytes of signature, so here the hostile peer is one that holds its
own keys: what it signs and seals is anything at all.
"""

from __future__ import annotations

from collections.abc import Callable

from chunkq.errors import BadSignature
from chunkq.protocol import cbor, messages
from chunkq.protocol.bundle import (
    HEAD_DOMAIN,
    BundleBuilder,
    asked_digest,
    check_content,
    open_bundle,
)
from chunkq.protocol.control import Command
from chunkq.protocol.digest import domain_digest
from chunkq.protocol.identity import SiteCard, exchange_public
from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    KIB,
    MAX_REPLY_BODY_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)
from chunkq.protocol.manifest import is_zero_page, sign_head, verify_head, verify_page
from chunkq.protocol.messages import Body, RefusalReason
from chunkq.protocol.origin import BODIES
from chunkq.protocol.packet import ReplyKind, RequestKind, parse_reply
from chunkq.protocol.packing import pack, unpack
from chunkq.protocol.report import Report
from chunkq.protocol.succession import (
    ACCEPTED_DOMAIN,
    CARD_DOMAIN,
    REVOCATION_DOMAIN,
    SUCCESSION_DOMAIN,
    Link,
    Revocation,
    Succession,
    decode_statement,
)
from chunkq.runtime.resuming import read_manifest
from tests.fuzz.bodies import COMMANDS, REPLY_BODIES, REPORTS, REQUEST_BODIES, head_of_four
from tests.fuzz.ends import admit, admit_own, opener, sealer
from tests.fuzz.target import Target
from tests.protocol.sites import ALICE, ALICE_CARD, BOB, BOB_CARD, make_request

ASKED = asked_digest("s", [("a", ["x", "y", "z"])])
ASKED_COUNT = 3
#: What unpacking may give at most in these targets: a chunk of this size was asked for.
CHUNK_BYTES = 64 * KIB
_KINDS = list(BODIES)
_REPLY_KINDS = list(ReplyKind)
_SEALER = sealer()


def _request(data: bytes) -> object:
    """The first byte is the kind, the rest the body, signed and sealed by a pinned peer."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else RequestKind.OPEN
    body = admit(make_request(data[1:][: 32 * KIB], kind=kind))
    assert isinstance(body, BODIES[kind])
    return body


def _request_seeds() -> list[bytes]:
    kinds = {model: kind for kind, model in BODIES.items()}
    return [
        bytes((_KINDS.index(kinds[type(body)]),)) + cbor.encode(body) for body in REQUEST_BODIES
    ]


#: What a requester makes of each kind of reply once it is open.
_READ: dict[ReplyKind, type[Body]] = {
    ReplyKind.LISTING: messages.Listing,
    ReplyKind.REFUSAL: messages.Refusal,
    ReplyKind.STANDING: messages.StandingReply,
}


def _reply(data: bytes) -> object:
    """Kind, whether it is packed, index; the rest is sealed by the real origin, and read."""
    head, body = data[:3].ljust(3, b"\0"), data[3:]
    kind, index = _REPLY_KINDS[head[0] % len(_REPLY_KINDS)], head[2]
    raw = parse_reply(_SEALER.seal(kind, body, index, packed=bool(head[1] & 1)))
    most = CHUNK_BYTES if kind is ReplyKind.CHUNK else None
    opened = opener(raw.header).open(raw, most)
    assert len(opened) <= max(len(body), MAX_REPLY_BODY_SIZE_BYTES)
    if kind is ReplyKind.MANIFEST:
        manifest = cbor.decode(messages.ManifestReply, opened)
        return verify_head(BOB_CARD, manifest.head, manifest.signature)
    if kind is ReplyKind.PAGE:
        return verify_page(head_of_four(), index, opened)
    if kind is ReplyKind.BUNDLE:
        return open_bundle(BOB_CARD, ASKED, ASKED_COUNT, opened)
    return cbor.decode(_READ[kind], opened) if kind in _READ else opened


def _reply_seeds() -> list[bytes]:
    plain = [
        bytes((_REPLY_KINDS.index(kind), 0, 0)) + cbor.encode(body) for kind, body in REPLY_BODIES
    ]
    packed = [
        bytes((_REPLY_KINDS.index(kind), 1, 0)) + pack(cbor.encode(body) or b"\0")
        for kind, body in REPLY_BODIES
    ]
    chunk = bytes((_REPLY_KINDS.index(ReplyKind.CHUNK), 1, 7)) + pack(bytes(CHUNK_BYTES))
    bundle = bytes((_REPLY_KINDS.index(ReplyKind.BUNDLE), 0, 0)) + _bundle()
    return [*plain, *packed, chunk, bundle]


def _frame(data: bytes) -> object:
    """Both ways in which a requester unpacks: to a length that is known, and to the largest."""
    most = int.from_bytes(data[:3].ljust(3, b"\0"), "big") or 1
    content = unpack(data[3:], most, exact=bool(most & 1))
    assert len(content) <= most
    return content


def _frame_seeds() -> list[bytes]:
    contents = [b"a" * 4097, bytes(CHUNK_BYTES), bytes(range(256)) * 16]
    exact = [(len(content) | 0).to_bytes(3, "big") + pack(content) for content in contents]
    return [*exact, (1 << 20).to_bytes(3, "big") + pack(b"listing" * 999, 3)]


def _bundle() -> bytes:
    builder = BundleBuilder(ASKED, 64 * KIB)
    builder.add(0, 0o644, 5, b"first")
    builder.refuse(1, RefusalReason.NOT_FOUND)
    builder.add(2, 0o600, -1, b"")
    return builder.sign(BOB)


def _signed_bundle(data: bytes) -> object:
    """Where the head ends (two bytes), head and contents: the head is signed as it is."""
    end = 2 + int.from_bytes(data[:2].ljust(2, b"\0"), "big")
    head = data[2:end]
    body = head + BOB.sign(HEAD_DOMAIN, head) + data[end:]
    bundle = open_bundle(BOB_CARD, ASKED, ASKED_COUNT, body)
    assert len(bundle.files) + len(bundle.refused) <= ASKED_COUNT
    assert sum(len(content) for _, content in bundle.files) <= len(body)
    for record, content in bundle.files:
        check_content(record, content)
    return bundle


def _signed_bundle_seed() -> bytes:
    body = _bundle()
    records = (len(body) - len(b"first") - SIGNATURE_SIZE_BYTES).to_bytes(2, "big")
    end = int.from_bytes(records, "big")
    return records + body[:end] + body[end + SIGNATURE_SIZE_BYTES :]


def _signed_head(data: bytes) -> object:
    """Any head that the origin chooses to sign, and what is told from it alone."""
    head = verify_head(BOB_CARD, data, sign_head(BOB, data))
    geometry = head.geometry
    if geometry.page_count:
        is_zero_page(head, 0)
        is_zero_page(head, geometry.page_count - 1)
    return head.root


def _kept_manifest(data: bytes) -> object:
    """What staging keeps, behind its checksum: the signature is by either of two origins."""
    return read_manifest(data, [[ALICE_CARD], [BOB_CARD]])


def _kept_manifest_seed() -> bytes:
    return cbor.encode(next(body for _, body in REPLY_BODIES if hasattr(body, "head")))


_SITES = (ALICE, BOB)


def _succession(data: bytes) -> object:
    """Fields from the data, in links of 17 bytes; each is signed by the keys that it names."""
    name, links = "alice", []
    old = SiteCard(name, _SITES[0].verify_key, _SITES[0].exchange_key)
    keys = _SITES[0]
    for at in range(0, len(data) - 16, 17):
        number, times = data[at], data[at + 1 : at + 17]
        new_keys = _SITES[number % 2]
        exchange_key = new_keys.exchange_key if number < 250 else bytes(32)
        new = SiteCard(name, new_keys.verify_key, exchange_key)
        issued, until = int.from_bytes(times[:8], "big"), int.from_bytes(times[8:], "big")
        link = Link(old=old, new=new, issued_ms=issued, until_ms=until)
        card = new_keys.sign(CARD_DOMAIN, new.verify_key + new.exchange_key + name.encode())
        links.append(
            Link(
                old=old,
                new=new,
                issued_ms=issued,
                until_ms=until,
                card=card,
                accepted=new_keys.sign(ACCEPTED_DOMAIN, link.said),
                signature=keys.sign(SUCCESSION_DOMAIN, link.said),
            )
        )
        old, keys = new, new_keys
    return decode_statement(Succession(tuple(links)).line) if links else None


def _succession_seed() -> bytes:
    return b"\x01" + (1000).to_bytes(8, "big") + (2000).to_bytes(8, "big")


class _AnyReason(int):
    """A number where a `Reason` belongs, which packs as one."""


def _revocation(data: bytes) -> object:
    """Successor, time and reason from the data, signed by the keys that it ends."""
    fields = data[:42].ljust(42, b"\0")
    reason = _AnyReason(int.from_bytes(fields[40:42], "big"))
    said = Revocation(
        card=ALICE_CARD,
        successor=fields[:32],
        issued_ms=int.from_bytes(fields[32:40], "big"),
        reason=reason,  # type: ignore[arg-type]
    )
    signed = Revocation(
        card=said.card,
        successor=said.successor,
        issued_ms=said.issued_ms,
        reason=said.reason,
        signature=ALICE.sign(REVOCATION_DOMAIN, said.said),
    )
    return decode_statement(signed.line)


def _foreign_key(data: bytes) -> object:
    """Any 32 bytes as the other side's exchange key: refused, or a key that nobody else has."""
    public = data[:32].ljust(32, b"\0")
    card = SiteCard("bob", BOB.verify_key, public)
    raw = parse_reply(_SEALER.seal(ReplyKind.CHUNK, b"c"))
    return opener(raw.header, card).open(raw)


def _page_of(data: bytes) -> object:
    """Leaves under a head that was made for them: only the right number of them holds."""
    head = head_of_four()
    if domain_digest("fuzz", data) == head.root:  # never: it keeps `data` in the comparison
        raise BadSignature("no")
    return verify_page(head, 0, data[: 4 * DIGEST_SIZE_BYTES])


def _own(kind: RequestKind, model: type[Body]) -> Callable[[bytes], object]:
    """Any body that is signed and sealed by a process of one's own site, of another version."""

    def heard(data: bytes) -> object:
        return admit_own(kind, model, data[: 32 * KIB])

    return heard


TARGETS = [
    Target(
        "report", _own(RequestKind.REPORT, Report), lambda: [cbor.encode(each) for each in REPORTS]
    ),
    Target(
        "control",
        _own(RequestKind.CONTROL, Command),
        lambda: [cbor.encode(each) for each in COMMANDS],
    ),
    Target("signed-request", _request, _request_seeds),
    Target("sealed-body", _reply, _reply_seeds),
    Target("zstd-frame", _frame, _frame_seeds),
    Target("bundle", lambda data: open_bundle(BOB_CARD, ASKED, 3, data), lambda: [_bundle()]),
    Target("signed-bundle", _signed_bundle, lambda: [_signed_bundle_seed()]),
    Target("any-signed-head", _signed_head, lambda: [_head_bytes()]),
    Target("kept-manifest", _kept_manifest, lambda: [_kept_manifest_seed()]),
    Target("signed-succession", _succession, lambda: [_succession_seed()]),
    Target("signed-revocation", _revocation, lambda: [bytes(42), b"s" * 40 + b"\0\2"]),
    Target("exchange-key", _foreign_key, lambda: [exchange_public(b"B" * 32)]),
]


def _head_bytes() -> bytes:
    from chunkq.protocol.manifest import encode_head

    return encode_head(head_of_four())
