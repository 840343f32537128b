"""Successions and revocations as lines: each forgery, and each way to damage one."""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkq.errors import StatementInvalid
from chunkq.protocol.identity import SiteCard, SiteKeys, card_of, card_signature, decode_card
from chunkq.protocol.limits import MAX_GRACE_MS, MAX_SUCCESSION_LINKS
from chunkq.protocol.succession import (
    ACCEPTED_DOMAIN,
    MAX_STATEMENT_LENGTH,
    SUCCESSION_DOMAIN,
    Link,
    Reason,
    Revocation,
    Said,
    Succession,
    accept,
    consent,
    decode_consent,
    decode_statement,
    revoke,
)

NOW_MS = 1_700_000_000_000
GRACE_MS = 1_000_000


def keys(letter: str) -> SiteKeys:
    return SiteKeys(letter.encode() * 32, letter.upper().encode() * 32)


A, B, C, EVE = keys("a"), keys("b"), keys("c"), keys("e")


def chain_of(*ring: SiteKeys, name: str = "alice", issued_ms: int = NOW_MS) -> Succession:
    """From the first keys to the last, an hour between the changes."""
    chain: Succession | None = None
    for number, (old, new) in enumerate(itertools.pairwise(ring)):
        at_ms = issued_ms + number * 3_600_000
        consented = consent(
            old,
            card_of(new, name),
            earlier=chain,
            issued_ms=at_ms,
            until_ms=at_ms + GRACE_MS,
        )
        chain = accept(consented, new)
    assert chain is not None
    return chain


def signed(link: Link, old: SiteKeys, new: SiteKeys) -> Link:
    """A link with all three signatures, by whoever is given."""
    return replace(
        link,
        card=card_signature(new, link.new.name) if new.site_id == link.new.site_id else link.card,
        accepted=new.sign(ACCEPTED_DOMAIN, link.said),
        signature=old.sign(SUCCESSION_DOMAIN, link.said),
    )


def check_refused(chain: Succession, match: str) -> None:
    with pytest.raises(StatementInvalid, match=match):
        decode_statement(chain.line)


# ---------------------------------------------------------------- what holds


def test_a_succession_comes_back_from_its_line() -> None:
    """With white space anywhere in it, as mail programs leave it."""
    chain = chain_of(A, B, C)
    wrapped = "\n ".join(chain.line[at : at + 60] for at in range(0, len(chain.line), 60))

    assert chain == decode_statement(chain.line)
    assert chain == decode_statement(wrapped)
    assert card_of(C, "alice") == chain.newest
    assert {A.site_id, B.site_id, C.site_id} == chain.site_ids


def test_the_newest_card_is_one_that_can_be_pinned() -> None:
    """Its own signature goes along with the succession."""
    assert card_of(C, "alice") == decode_card(chain_of(A, B, C).newest_line)


def test_the_longest_succession_is_a_line_of_a_known_length() -> None:
    """And a change more drops the oldest."""
    ring = [SiteKeys(bytes([n]) * 32, bytes([n + 100]) * 32) for n in range(1, 20)]
    longest = chain_of(*ring[: MAX_SUCCESSION_LINKS + 1], name="a" * 63)
    longer = chain_of(*ring[: MAX_SUCCESSION_LINKS + 2])

    assert MAX_SUCCESSION_LINKS == len(longest.links)
    assert len(longest.line) <= MAX_STATEMENT_LENGTH
    assert longest == decode_statement(longest.line)
    assert ring[1].site_id == longer.links[0].old.site_id
    assert longer == decode_statement(longer.line)


def test_a_revocation_comes_back_from_its_line() -> None:
    """With its reason and the successor it names."""
    said = revoke(A, "alice", successor=B.site_id, issued_ms=NOW_MS, reason=Reason.COMPROMISED)

    assert said == decode_statement(said.line)


def test_a_consent_is_completed_by_the_keys_it_is_to() -> None:
    """And by no others; and is no succession before."""
    consented = consent(A, card_of(B, "alice"), issued_ms=NOW_MS, until_ms=NOW_MS)

    assert consented == decode_consent(consented.consent_line)
    assert chain_of(A, B).newest == accept(consented, B).newest
    with pytest.raises(StatementInvalid, match="another site"):
        accept(consented, EVE)
    check_refused(consented, "signature")
    with pytest.raises(StatementInvalid, match="begins with"):
        decode_statement(consented.consent_line)


# ---------------------------------------------------------------- what is forged


def test_a_succession_that_the_old_keys_did_not_sign() -> None:
    """Eve names herself, or somebody else, the successor."""
    link = chain_of(A, EVE).links[0]

    check_refused(Succession((signed(link, EVE, EVE),)), "signature")


def test_a_succession_that_the_new_keys_did_not_accept() -> None:
    """Eve names Bob's keys as her successor, to be given what she was granted, or to hide."""
    link = chain_of(EVE, B).links[0]

    check_refused(Succession((replace(signed(link, EVE, EVE), card=link.card),)), "signature")


def test_signatures_of_one_role_are_nothing_in_the_other() -> None:
    """The domains differ."""
    link = chain_of(A, B).links[0]
    swapped = replace(link, accepted=B.sign(SUCCESSION_DOMAIN, link.said))

    check_refused(Succession((swapped,)), "signature")


def test_a_card_that_the_new_keys_did_not_sign() -> None:
    """What would be pinned has to hold by itself."""
    link = chain_of(A, B).links[0]

    check_refused(Succession((replace(link, card=card_signature(B, "other")),)), "signature")


def test_links_in_another_order() -> None:
    """A link's old keys are those that the one before names."""
    first, second = chain_of(A, B, C).links

    check_refused(Succession((second, first)), "order|signature|comes back")


def test_links_that_go_back_in_time() -> None:
    """Both hold by themselves."""
    first = chain_of(A, B).links[0]
    second = chain_of(B, C, issued_ms=NOW_MS - 1).links[0]

    check_refused(Succession((first, second)), "order of their times")


def test_a_succession_that_comes_back_to_its_beginning() -> None:
    """Whoever holds all the keys can sign a circle."""
    there = chain_of(A, B).links[0]
    back = chain_of(B, A, issued_ms=NOW_MS + 1).links[0]

    check_refused(Succession((there, back)), "comes back")


def test_a_succession_of_too_many_links() -> None:
    """Before any signature is looked at."""
    link = chain_of(A, B).links[0]

    check_refused(
        Succession((link,) * (MAX_SUCCESSION_LINKS + 1)), f"more than {MAX_SUCCESSION_LINKS}"
    )


def test_a_new_exchange_key_of_low_order() -> None:
    """Nothing could be sealed to it."""
    bad = SiteCard("alice", B.verify_key, bytes(32))
    link = replace(chain_of(A, B).links[0], new=bad)

    check_refused(Succession((signed(link, A, B),)), "low order")


@pytest.mark.parametrize("grace_ms", [-1, MAX_GRACE_MS + 1])
def test_old_keys_that_would_count_too_long(grace_ms: int) -> None:
    """Or end before they began to."""
    link = replace(chain_of(A, B).links[0], until_ms=NOW_MS + grace_ms)

    check_refused(Succession((signed(link, A, B),)), "would count")


def test_another_name_is_another_statement() -> None:
    """The name is signed as well: a line cannot be given to another site's name."""
    forged = chain_of(A, B).line.replace(":alice:", ":bob:")

    with pytest.raises(StatementInvalid, match="signature"):
        decode_statement(forged)


def test_a_revocation_by_somebody_else() -> None:
    """Only the key itself can say so."""
    said = revoke(A, "alice", issued_ms=NOW_MS, reason=Reason.UNSPECIFIED)
    forged = replace(said, signature=revoke(EVE, "alice", issued_ms=NOW_MS, reason=0).signature)

    with pytest.raises(StatementInvalid, match="signature"):
        decode_statement(forged.line)


@pytest.mark.parametrize(
    "statement",
    [chain_of(A, B), revoke(A, "alice", issued_ms=NOW_MS, reason=Reason.RETIRED)],
    ids=["succession", "revocation"],
)
def test_every_flipped_bit_and_every_cut_is_refused(statement: Said) -> None:
    """All of the payload is signed, or is a signature. (A chain's beginning is a chain, too.)"""
    head, _, text = statement.line.rpartition(":")
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    flips = [
        payload[:at] + bytes([payload[at] ^ 1 << at % 8]) + payload[at + 1 :]
        for at in range(len(payload))
    ]
    cuts = [payload[:size] for size in range(len(payload))] + [payload + b"\0"]

    for damaged in flips + cuts:
        encoded = base64.urlsafe_b64encode(damaged).decode().rstrip("=")
        with pytest.raises(StatementInvalid):
            decode_statement(f"{head}:{encoded}")


@settings(max_examples=300)
@given(st.text(max_size=200) | st.from_regex(r"chunkq-(succession|revocation):1:a:[\w-]{0,400}"))
def test_any_text_is_a_statement_or_is_refused(text: str) -> None:
    """By one error, whatever it is."""
    try:
        said: Said | None = decode_statement(text)
    except StatementInvalid:
        said = None

    assert said is None or isinstance(said, Succession | Revocation)


def test_a_line_says_what_is_wrong_with_it() -> None:
    """Version, length, characters: each is told."""
    line = chain_of(A, B).line
    wrong = {
        line.replace(":1:", ":2:"): "version '2'",
        line.rpartition(":")[0]: "cut short",
        line + "*": "mistyped",
        line + line: "two were pasted|cut short",
        "chunkq-card:1:alice:AAAA": "begins with",
    }

    for text, match in wrong.items():
        with pytest.raises(StatementInvalid, match=match):
            decode_statement(text)
