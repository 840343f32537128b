"""Seals: opened by whom they are for, made only by whom they claim, and bound to every byte."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from chunkq.errors import (
    BadFrame,
    BadSeal,
    BadSignature,
    Malformed,
    Misaddressed,
    OverBudget,
    PacketError,
)
from chunkq.protocol import cbor, seal
from chunkq.protocol.identity import SiteKeys, card_of, exchange_public
from chunkq.protocol.limits import MAX_REPLY_BODY_SIZE_BYTES, MAX_REQUEST_SIZE_BYTES
from chunkq.protocol.messages import Open
from chunkq.protocol.packet import (
    PACKED_FLAG,
    RawRequest,
    ReplyKind,
    RequestId,
    RequestKind,
    Suite,
    parse_reply,
    parse_request,
)
from chunkq.protocol.packing import pack
from chunkq.protocol.seal import (
    ReplyOpener,
    ReplySealer,
    has_aes,
    open_request,
    verify_request,
)
from tests.protocol.sites import (
    ALICE,
    ALICE_CARD,
    BOB,
    BOB_CARD,
    OPEN_BODY,
    ORIGIN_EPHEMERAL,
    REQUESTER_EPHEMERAL,
    make_request,
)

#: What this machine can seal with.
SUITES = [suite for suite in Suite if suite is not Suite.AES256GCM or has_aes()]
STRANGER = SiteKeys(signing_seed=b"m" * 32, exchange_secret=b"M" * 32)
#: Sizes of bodies with something to them: empty, one byte, and around a cipher's blocks.
SIZES = [0, 1, 2, 15, 16, 17, 63, 64, 65, 4096, 256 * 1024 + 1]


def accept(packet: bytes) -> bytes:
    """What Bob does with a packet: all steps from its bytes to its body."""
    raw = parse_request(packet)
    verify_request(raw, ALICE_CARD)
    return open_request(raw, BOB)


def sealer_for(packet: bytes, *, keys: SiteKeys = BOB) -> ReplySealer:
    return ReplySealer(raw=parse_request(packet), keys=keys, ephemeral_secret=ORIGIN_EPHEMERAL)


def open_reply(
    packet: bytes, *, secret: bytes = REQUESTER_EPHEMERAL, size: int | None = None
) -> bytes:
    """What Alice does with a reply from Bob."""
    raw = parse_reply(packet)
    opener = ReplyOpener(
        header=raw.header, sender=ALICE.site_id, recipient=BOB_CARD, ephemeral_secret=secret
    )
    return opener.open(raw, size)


def dh(secret: bytes, public: bytes) -> bytes:
    """X25519 by another library than the one under test."""
    return X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


# ---------------------------------------------------------------- requests


def test_request_bytes_are_frozen() -> None:
    """A fixed request never changes on the wire; every later version must read this one."""
    packet = make_request()
    assert blake3(packet).hexdigest() == (
        "6094822cb2fc1b46c2afd08207093c0dbbab51b7f8631ce7009e92336fd65362"
    )
    assert accept(packet) == OPEN_BODY


def test_request_is_what_design_6_says() -> None:
    """Other libraries verify and open a request from the written layout alone."""
    packet = make_request()
    signed, signature = packet[:-64], packet[-64:]
    message = b"chunkq 1 request" + b"\0" + bytes([RequestKind.OPEN]) + signed
    Ed25519PublicKey.from_public_bytes(ALICE.verify_key).verify(signature, message)

    header, sealed = packet[:140], packet[140:-64]
    shared = dh(BOB.exchange_secret, header[104:136])
    key = blake2b(shared + header[72:88], digest_size=32, person=b"chunkq1 request").digest()
    body = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, bytes(24), key)
    assert Open(instance="i1", share="s", path="a/b", largest_chunk=4096) == cbor.decode(Open, body)


@given(st.binary(max_size=2000), st.sampled_from(RequestKind), st.sampled_from(Suite))
def test_request_round_trip(body: bytes, kind: RequestKind, suite: Suite) -> None:
    """Any body of any kind arrives as it was, with either suite offered."""
    packet = make_request(body, kind=kind, suite=suite)
    assert body == accept(packet)
    assert (kind, suite) == (parse_request(packet).header.kind, parse_request(packet).header.suite)


def test_all_single_bit_flips_of_a_valid_request_are_refused() -> None:
    """No bit of a request can change without its being refused, whichever of the steps sees it."""
    packet = make_request()
    assert len(packet) * 8 >= 2080
    for bit in range(len(packet) * 8):
        flipped = bytearray(packet)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(PacketError):
            accept(bytes(flipped))


def test_signature_covers_every_bit_by_itself() -> None:
    """Of the flips that still parse, the signature refuses each, before anything is opened."""
    packet = make_request()
    parsed = 0
    for bit in range(len(packet) * 8):
        flipped = bytearray(packet)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        try:
            raw = parse_request(flipped)
        except Malformed:
            continue
        parsed += 1
        with pytest.raises(BadSignature):
            verify_request(raw, ALICE_CARD)
    assert parsed > 1900


def test_random_and_mutated_packets_raise_packet_errors_only() -> None:
    """20,000 packets, random, cut, stretched and mutated: none gets in or raises another error."""
    chance = random.Random(20_000)
    packet = make_request()
    for _ in range(20_000):
        with pytest.raises(PacketError):
            accept(_mutated(chance, packet))


def _mutated(chance: random.Random, packet: bytes) -> bytes:
    at = chance.randrange(len(packet))
    match chance.randrange(4):
        case 0:
            return chance.randbytes(chance.randrange(600))
        case 1:
            return packet[:at]
        case 2:
            return packet[:at] + chance.randbytes(chance.randrange(1, 9)) + packet[at:]
        case _:
            return packet[:at] + bytes((packet[at] ^ chance.randint(1, 255),)) + packet[at + 1 :]


def test_request_signed_by_a_stranger() -> None:
    """A request in Alice's name under another key is refused, and so is an honest stranger's."""
    raw = parse_request(make_request(keys=STRANGER))
    with pytest.raises(BadSignature):
        verify_request(raw, ALICE_CARD)
    forged = bytearray(make_request(keys=STRANGER))
    forged[8:40] = ALICE.site_id
    with pytest.raises(BadSignature):
        verify_request(parse_request(forged), ALICE_CARD)


def test_request_in_the_name_of_another_peer() -> None:
    """A peer that signs rightly, but writes another's id as sender, is refused."""
    packet = bytearray(make_request())
    packet[8:40] = STRANGER.site_id
    packet[-64:] = ALICE.sign(b"chunkq 1 request", bytes((packet[4],)) + packet[:-64])
    with pytest.raises(BadSignature, match="another sender"):
        verify_request(parse_request(packet), ALICE_CARD)


def test_request_for_another_recipient() -> None:
    """A request to somebody else is misaddressed; renamed to us, it does not open."""
    raw = parse_request(make_request(recipient=card_of(STRANGER, "mallory")))
    with pytest.raises(Misaddressed):
        open_request(raw, BOB)
    renamed = replace(raw, header=replace(raw.header, recipient=BOB.site_id))
    with pytest.raises(BadSeal):
        open_request(renamed, BOB)


def test_signature_of_another_kind_does_not_hold() -> None:
    """A signature is bound to the kind apart from the header's byte of it."""
    raw = parse_request(make_request(kind=RequestKind.OPEN))
    other = replace(raw, header=replace(raw.header, kind=RequestKind.RECEIPT))
    with pytest.raises(BadSignature):
        verify_request(other, ALICE_CARD)


def test_seal_covers_the_header_by_itself() -> None:
    """Even were the signature not looked at, a body does not open under a changed header."""
    packet = bytearray(make_request())
    packet[95] ^= 1  # the lowest bit of issued_ms
    with pytest.raises(BadSeal):
        open_request(parse_request(packet), BOB)


def test_request_keys_differ_by_request_id() -> None:
    """Equal bodies in two requests of one transfer do not look equal."""
    first = parse_request(make_request()).sealed_body
    second = parse_request(make_request(request_id=RequestId(7, 43))).sealed_body
    assert bytes(first[:-16]) != bytes(second[:-16])


def test_request_body_at_the_limit() -> None:
    """The largest body makes the largest packet; one byte more is refused by the sender."""
    most = MAX_REQUEST_SIZE_BYTES - 140 - 16 - 64
    assert MAX_REQUEST_SIZE_BYTES == len(make_request(bytes(most)))
    with pytest.raises(Malformed, match="the most is"):
        make_request(bytes(most + 1))


def test_low_order_ephemeral_is_refused() -> None:
    """A request whose ephemeral key is zero would have a key that everybody knows."""
    packet = bytearray(make_request())
    packet[104:136] = bytes(32)
    raw = parse_request(packet)
    with pytest.raises(BadSeal, match="low order"):
        open_request(raw, BOB)
    with pytest.raises(BadSeal, match="low order"):
        ReplySealer(raw=raw, keys=BOB, ephemeral_secret=ORIGIN_EPHEMERAL)


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", SIZES)
def test_reply_round_trip(suite: Suite, size: int) -> None:
    """A body of any size arrives as it was, from any buffer, with index and sequence number."""
    body = random.Random(size).randbytes(size)
    sealer = sealer_for(make_request(suite=suite))
    packets = [
        sealer.seal(ReplyKind.CHUNK, buffer, index=9)
        for buffer in (body, bytearray(body), memoryview(body))
    ]
    assert [body] * 3 == [open_reply(packet) for packet in packets]
    headers = [parse_reply(packet).header for packet in packets]
    assert [(suite, seq, 9) for seq in range(3)] == [(h.suite, h.seq, h.index) for h in headers]
    assert 76 + size + 16 == len(packets[0])


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", SIZES)
def test_a_reply_is_opened_into_given_memory(suite: Suite, size: int) -> None:
    """Into exactly its place: nothing before or behind it changes; of another size it is refused,
    and so is a spoilt one."""
    body = random.Random(size).randbytes(size)
    packet = sealer_for(make_request(suite=suite)).seal(ReplyKind.CHUNK, body)
    raw, spoilt = parse_reply(packet), parse_reply(packet[:-1] + bytes((packet[-1] ^ 1,)))
    opener = ReplyOpener(
        header=raw.header,
        sender=ALICE.site_id,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
    )
    room = bytearray(b"<" + bytes(size) + b">")

    assert size == raw.body_size
    opener.open_into(raw, memoryview(room)[1 : 1 + size])

    assert b"<" + body + b">" == room
    for length in (size + 1, size + 2):
        with pytest.raises(BadSeal):
            opener.open_into(raw, memoryview(room)[:length])
    with pytest.raises(BadSeal):
        opener.open_into(spoilt, memoryview(room)[1 : 1 + size])


def test_small_bodies_do_not_share_their_bytes() -> None:
    """Bodies are written into new objects: opening one changes no other, nor a shared constant."""
    sealer = sealer_for(make_request())
    packets = [sealer.seal(ReplyKind.CHUNK, bytes((value,))) for value in range(256)]
    bodies = [open_reply(packet) for packet in packets]
    assert [bytes((value,)) for value in range(256)] == bodies
    assert bytes.fromhex("00") == bytes(1)
    assert open_reply(sealer.seal(ReplyKind.CHUNK, b"")) == b""


def test_reply_bytes_are_frozen() -> None:
    """A fixed reply never changes on the wire."""
    packet = sealer_for(make_request(suite=Suite.XCHACHA20POLY1305)).seal(
        ReplyKind.CHUNK, b"x" * 1000, index=3
    )
    assert blake3(packet).hexdigest() == (
        "a65b85ff094beb632b945b1999c8cca1868e354cac7aabf9c474093d5a0f3547"
    )


@pytest.mark.parametrize("suite", SUITES)
def test_reply_is_what_design_6_says(suite: Suite) -> None:
    """Other libraries open a reply from the written key schedule alone."""
    sealer = sealer_for(make_request(suite=suite))
    sealer.seal(ReplyKind.CHUNK, b"first")
    packet = sealer.seal(ReplyKind.CHUNK, b"second", index=3)
    header, sealed = packet[:76], packet[76:]
    material = (
        dh(REQUESTER_EPHEMERAL, header[24:56])
        + dh(REQUESTER_EPHEMERAL, BOB.exchange_key)
        + header[8:24]
        + ALICE.site_id
        + BOB.site_id
        + header[5:6]
    )
    key = blake2b(material, digest_size=32, person=b"chunkq1 reply").digest()
    if suite is Suite.AES256GCM:
        body = AESGCM(key).decrypt((1).to_bytes(12, "big"), sealed, header)
    else:
        nonce = (1).to_bytes(24, "big")
        body = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, nonce, key)
    assert body == b"second"


@pytest.mark.parametrize("suite", SUITES)
def test_all_single_bit_flips_of_a_reply_are_refused(suite: Suite) -> None:
    """No bit of a reply's header or body can change, the suite's among them."""
    packet = sealer_for(make_request(suite=suite)).seal(ReplyKind.CHUNK, b"body", index=3)
    for bit in range(len(packet) * 8):
        flipped = bytearray(packet)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(PacketError):
            open_reply(bytes(flipped))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [1, 4096, 256 * 1024])
def test_packed_reply_opens_as_what_was_packed(suite: Suite, size: int) -> None:
    """With its length said and without; the packet is smaller than the body."""
    body = (b"what is packed " * (size // 15 + 1))[:size]
    packet = sealer_for(make_request(suite=suite)).seal(
        ReplyKind.CHUNK, pack(body), index=3, packed=True
    )
    assert (body, body) == (open_reply(packet), open_reply(packet, size=size))
    assert size < 4096 or len(packet) < size // 10


@pytest.mark.parametrize("suite", SUITES)
def test_packed_is_sealed_too(suite: Suite) -> None:
    """Nobody on the way makes a packed reply a plain one, or a plain one packed."""
    for packed in (False, True):
        packet = bytearray(
            sealer_for(make_request(suite=suite)).seal(ReplyKind.CHUNK, pack(b"b"), packed=packed)
        )
        packet[7] ^= PACKED_FLAG
        with pytest.raises(BadSeal):
            open_reply(bytes(packet))


@pytest.mark.parametrize("size", [9_999, 10_001])
def test_packed_reply_of_another_length_is_a_bad_frame(size: int) -> None:
    """The seal holds and the origin is to blame."""
    packet = sealer_for(make_request()).seal(ReplyKind.CHUNK, pack(bytes(10_000)), packed=True)
    with pytest.raises(BadFrame):
        open_reply(packet, size=size)


def test_packed_reply_is_bounded_where_its_length_is_not_known() -> None:
    """A control body unpacks to the largest body at most."""
    sealer = sealer_for(make_request())
    most = MAX_REPLY_BODY_SIZE_BYTES - 16
    fits = sealer.seal(ReplyKind.LISTING, pack(bytes(most)), packed=True)
    bomb = sealer.seal(ReplyKind.LISTING, pack(bytes(most + 1)), packed=True)
    assert most == len(open_reply(fits))
    with pytest.raises(BadFrame):
        open_reply(bomb)


def test_only_the_real_origin_can_reply() -> None:
    """A reply made without the origin's static secret does not open."""
    packet = sealer_for(make_request(), keys=STRANGER).seal(ReplyKind.CHUNK, b"forged")
    with pytest.raises(BadSeal):
        open_reply(packet)


def test_reply_opens_only_with_the_ephemeral_of_its_request() -> None:
    """Another transfer's secret does not open it: what is deleted when done protects the past."""
    packet = sealer_for(make_request()).seal(ReplyKind.CHUNK, b"body")
    with pytest.raises(BadSeal):
        open_reply(packet, secret=b"z" * 32)


@pytest.mark.parametrize("field", ["sender", "recipient"])
def test_reply_key_is_bound_to_both_sites(field: str) -> None:
    """With another requester or origin in the derivation the key is another one."""
    raw = parse_reply(sealer_for(make_request()).seal(ReplyKind.CHUNK, b"body"))
    other = replace(BOB_CARD, verify_key=STRANGER.verify_key)
    opener = ReplyOpener(
        header=raw.header,
        sender=STRANGER.site_id if field == "sender" else ALICE.site_id,
        recipient=other if field == "recipient" else BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
    )
    with pytest.raises(BadSeal):
        opener.open(raw)


def test_opener_takes_replies_of_its_request_and_worker_only() -> None:
    """A reply to another request, or of another worker, needs an opener of its own."""
    mine = parse_reply(sealer_for(make_request()).seal(ReplyKind.CHUNK, b"body"))
    opener = ReplyOpener(
        header=mine.header,
        sender=ALICE.site_id,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
    )
    other_request = make_request(request_id=RequestId(7, 43))
    other_worker = ReplySealer(
        raw=parse_request(make_request()), keys=BOB, ephemeral_secret=b"w" * 32
    )
    for packet in (
        sealer_for(other_request).seal(ReplyKind.CHUNK, b"body"),
        other_worker.seal(ReplyKind.CHUNK, b"body"),
    ):
        raw = parse_reply(packet)
        assert not opener.fits(raw.header)
        with pytest.raises(BadSeal, match="another request"):
            opener.open(raw)
    assert opener.fits(mine.header)
    assert opener.open(mine) == b"body"


def test_two_workers_never_share_a_key() -> None:
    """Two workers that answer one request (it was delivered twice) seal under different keys."""
    raw = parse_request(make_request())
    packets = [
        ReplySealer(raw=raw, keys=BOB, ephemeral_secret=secret * 32).seal(ReplyKind.CHUNK, b"body")
        for secret in (b"1", b"2")
    ]
    sealed = [bytes(parse_reply(packet).sealed_body) for packet in packets]
    assert sealed[0] != sealed[1]
    assert [b"body"] * 2 == [open_reply(packet) for packet in packets]


def test_threads_never_share_a_nonce() -> None:
    """Replies sealed on many threads at once all have their own sequence number."""
    sealer = sealer_for(make_request())
    with ThreadPoolExecutor(8) as pool:
        packets = list(pool.map(lambda _: sealer.seal(ReplyKind.CHUNK, b"x" * 999), range(2000)))
    assert list(range(2000)) == sorted(parse_reply(packet).header.seq for packet in packets)


def test_no_more_replies_than_nonces() -> None:
    """When the numbers run out, sealing stops instead of using one again."""
    sealer = sealer_for(make_request())
    sealer._seqs = iter((seal.MAX_REPLIES_PER_REQUEST - 1, seal.MAX_REPLIES_PER_REQUEST))
    assert open_reply(sealer.seal(ReplyKind.CHUNK, b"last")) == b"last"
    with pytest.raises(OverBudget):
        sealer.seal(ReplyKind.CHUNK, b"one too many")


def test_reply_body_at_the_limit() -> None:
    """The largest body is accepted by parsing; one byte more is refused by the origin itself."""
    sealer = sealer_for(make_request())
    most = MAX_REPLY_BODY_SIZE_BYTES - 16
    assert most == len(open_reply(sealer.seal(ReplyKind.CHUNK, bytes(most))))
    with pytest.raises(Malformed, match="the most is"):
        sealer.seal(ReplyKind.CHUNK, bytes(most + 1))


# ---------------------------------------------------------------- suites


def test_origin_uses_aes_only_where_offered() -> None:
    """XChaCha20 is answered to whoever offers it; AES to whom offers AES, if it is there."""
    best = Suite.AES256GCM if has_aes() else Suite.XCHACHA20POLY1305
    assert best is sealer_for(make_request(suite=Suite.AES256GCM)).suite
    offered = make_request(suite=Suite.XCHACHA20POLY1305)
    assert sealer_for(offered).suite is Suite.XCHACHA20POLY1305


def test_origin_without_aes_answers_with_xchacha(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the instructions answers an offer of AES with what it has."""
    monkeypatch.setattr(seal, "has_aes", lambda: False)
    sealer = sealer_for(make_request(suite=Suite.AES256GCM))
    assert sealer.suite is Suite.XCHACHA20POLY1305
    assert open_reply(sealer.seal(ReplyKind.CHUNK, b"body")) == b"body"


def test_requester_without_aes_refuses_aes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply in a suite that was not offered is refused, and the instruction not executed."""
    monkeypatch.setattr(seal, "has_aes", lambda: False)
    raw = parse_reply(sealer_for(make_request()).seal(ReplyKind.CHUNK, b"body"))
    header = replace(raw.header, suite=Suite.AES256GCM)
    with pytest.raises(BadSeal, match="not offered"):
        ReplyOpener(
            header=header,
            sender=ALICE.site_id,
            recipient=BOB_CARD,
            ephemeral_secret=REQUESTER_EPHEMERAL,
        )


def test_request_header_carries_the_public_ephemeral() -> None:
    """The secret itself never leaves: the header has its public half."""
    raw: RawRequest = parse_request(make_request())
    assert exchange_public(REQUESTER_EPHEMERAL) == raw.header.ephemeral
    assert REQUESTER_EPHEMERAL not in make_request()
