"""How a peer stands after what it says of its keys: what is followed, and what stops everything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from chunkq.errors import StatementInvalid
from chunkq.protocol.identity import SiteKeys, card_of, encode_card
from chunkq.protocol.limits import CONFLICT_MEMORY_MS, MAX_CLOCK_SKEW_MS, MAX_GRACE_MS
from chunkq.protocol.standing import MAX_EARLIER, Standing, Trouble, heed
from chunkq.protocol.succession import Reason, Said, accept, consent, revoke

from .test_succession import EVE, GRACE_MS, NOW_MS, A, B, C, chain_of, keys

D = keys("d")
LATER_MS = NOW_MS + 10 * 3_600_000


def pinned(ring: SiteKeys = A, name: str = "alice") -> Standing:
    return Standing(card=card_of(ring, name), card_line=encode_card(ring, name))


def after(*said: Said, start: Standing | None = None, now_ms: int = LATER_MS) -> Standing:
    standing = start or pinned()
    for each in said:
        standing = heed(standing, each, now_ms)
    return standing


def expect_no_effect(standing: Standing, said: Said, match: str, now_ms: int = LATER_MS) -> None:
    with pytest.raises(StatementInvalid, match=match):
        heed(standing, said, now_ms)


# ---------------------------------------------------------------- following


def test_a_succession_is_followed_to_its_end() -> None:
    """The new card is pinned, the old ones are kept with the time they count."""
    standing = after(chain_of(A, B, C))

    assert (card_of(C, "alice"), encode_card(C, "alice")) == (standing.card, standing.card_line)
    assert [card_of(B, "alice"), card_of(A, "alice")] == [each.card for each in standing.earlier]
    assert [NOW_MS + 3_600_000 + GRACE_MS, NOW_MS + GRACE_MS] == [
        each.until_ms for each in standing.earlier
    ]
    assert standing.trouble is None


def test_a_succession_is_followed_from_wherever_the_peer_was_pinned() -> None:
    """Before that, it is about keys that nobody here knew."""
    standing = after(chain_of(A, B, C), start=pinned(B))

    assert card_of(C, "alice") == standing.card
    assert [card_of(B, "alice")] == [each.card for each in standing.earlier]


@pytest.mark.parametrize("again", [chain_of(A, B), chain_of(B, C), chain_of(A, B, C)])
def test_an_old_succession_again_changes_nothing(again: Said) -> None:
    """A replay leads to no keys that were left."""
    standing = after(chain_of(A, B, C))

    assert standing is heed(standing, again, LATER_MS)


def test_the_time_in_a_statement_bounds_nothing_beyond_our_own_limit() -> None:
    """Old keys count at most as long as this side lets them."""
    far = accept(
        consent(
            A,
            card_of(B, "alice"),
            issued_ms=NOW_MS + MAX_CLOCK_SKEW_MS,
            until_ms=NOW_MS + MAX_CLOCK_SKEW_MS + MAX_GRACE_MS,
        ),
        B,
    )

    assert NOW_MS + MAX_GRACE_MS == after(far, now_ms=NOW_MS).earlier[0].until_ms


def test_the_first_keys_are_kept_however_many_follow() -> None:
    """Staging is named after them."""
    ring = [SiteKeys(bytes([n]) * 32, bytes([n + 100]) * 32) for n in range(1, MAX_EARLIER + 6)]
    standing = after(
        *(
            chain_of(old, new, issued_ms=NOW_MS + n)
            for n, (old, new) in enumerate(itertools.pairwise(ring))
        ),
        start=pinned(ring[0]),
    )

    assert MAX_EARLIER == len(standing.earlier)
    assert ring[0].site_id == standing.earlier[-1].card.site_id
    assert ring[-2].site_id == standing.earlier[0].card.site_id


# ---------------------------------------------------------------- without effect


def test_a_statement_about_others() -> None:
    """Whoever they are."""
    expect_no_effect(pinned(), chain_of(B, C), "no key of this peer")
    said = revoke(B, "alice", issued_ms=NOW_MS, reason=Reason.RETIRED)
    expect_no_effect(pinned(), said, "no key of this peer")


def test_a_succession_under_another_name() -> None:
    """A name is an address; it does not change in passing."""
    expect_no_effect(pinned(), chain_of(A, B, name="bob"), "called bob")


def test_a_succession_from_the_future() -> None:
    """Beyond what clocks may differ."""
    ahead = chain_of(A, B, issued_ms=LATER_MS + MAX_CLOCK_SKEW_MS + 1)

    expect_no_effect(pinned(), ahead, "ahead of this machine's clock")


def test_a_succession_back_to_keys_that_were_left() -> None:
    """By whoever holds the newest."""
    standing = after(chain_of(A, B), chain_of(B, C, issued_ms=NOW_MS + 1))

    expect_no_effect(standing, chain_of(C, A, issued_ms=NOW_MS + 2), "leads back")
    assert card_of(C, "alice") == standing.card


def test_another_exchange_key_under_the_same_signing_key() -> None:
    """Nobody's succession says so of a peer that is pinned otherwise."""
    half = SiteKeys(A.signing_seed, b"x" * 32)

    expect_no_effect(pinned(), chain_of(half, B), "another exchange key")
    expect_no_effect(pinned(), chain_of(EVE, half), "another exchange key")


# ---------------------------------------------------------------- conflict


def test_a_second_succession_of_the_same_keys_stops_everything() -> None:
    """First a thief's, then the owner's, or the other way round: nobody here can tell."""
    for first, second in ((EVE, B), (B, EVE)):
        standing = after(chain_of(A, first), chain_of(A, second))

        assert Trouble.CONFLICT is standing.trouble
        assert card_of(first, "alice") == standing.card
        assert LATER_MS == standing.trouble_ms
        expect_no_effect(standing, chain_of(first, C, issued_ms=NOW_MS + 1), "it is conflict")


def test_a_conflict_hidden_in_a_longer_succession() -> None:
    """Each link is compared with what was followed."""
    standing = after(chain_of(A, B, C))

    assert Trouble.CONFLICT is heed(standing, chain_of(A, EVE, D), LATER_MS).trouble
    assert Trouble.CONFLICT is heed(standing, chain_of(A, B, EVE), LATER_MS).trouble


def test_a_dated_back_succession_is_a_conflict_all_the_same() -> None:
    """A thief writes what time he likes."""
    standing = after(chain_of(A, B))

    assert Trouble.CONFLICT is heed(standing, chain_of(A, EVE, issued_ms=1), LATER_MS).trouble


def test_old_keys_raise_an_alarm_whatever_time_the_succession_left_them() -> None:
    """A thief who succeeds with no grace cannot keep the owner from contradicting."""
    stolen = accept(
        consent(A, card_of(EVE, "alice"), issued_ms=NOW_MS, until_ms=NOW_MS),
        EVE,
    )
    standing = after(stolen)

    assert Trouble.CONFLICT is heed(standing, chain_of(A, B), LATER_MS).trouble


def test_keys_left_long_ago_raise_no_alarm() -> None:
    """An old backup in the wrong hands cannot stop two sites for ever."""
    standing = after(chain_of(A, B))
    late_ms = LATER_MS + CONFLICT_MEMORY_MS

    assert Trouble.CONFLICT is heed(standing, chain_of(A, EVE), late_ms).trouble
    expect_no_effect(standing, chain_of(A, EVE), "long ago", late_ms + 1)


# ---------------------------------------------------------------- revocation


def test_revoked_keys_count_no_more() -> None:
    """And nothing of theirs is believed after that, whatever time it says it was made."""
    said = revoke(A, "alice", issued_ms=NOW_MS, reason=Reason.COMPROMISED)
    standing = after(said)

    assert Trouble.REVOKED is standing.trouble
    assert "compromised" in standing.detail
    expect_no_effect(standing, chain_of(A, B, issued_ms=1), "it is revoked")
    expect_no_effect(standing, said, "it is revoked")


def test_retired_keys_are_revoked_by_naming_what_followed() -> None:
    """Their time ends at once; the peer stays trusted."""
    said = revoke(A, "alice", successor=B.site_id, issued_ms=NOW_MS, reason=Reason.COMPROMISED)
    standing = after(chain_of(A, B), said)

    assert (None, 0) == (standing.trouble, standing.earlier[0].until_ms)
    assert standing is heed(standing, said, LATER_MS)
    assert Trouble.CONFLICT is heed(standing, chain_of(A, EVE), LATER_MS).trouble


@pytest.mark.parametrize("named", [bytes(32), C.site_id])
def test_a_revocation_that_knows_nothing_of_the_successor_is_a_conflict(named: bytes) -> None:
    """The owner revokes; a thief had himself followed before."""
    said = revoke(A, "alice", successor=named, issued_ms=NOW_MS, reason=Reason.COMPROMISED)

    assert Trouble.CONFLICT is after(chain_of(A, EVE), said).trouble


def test_a_revocation_that_names_a_successor_waits_for_the_succession() -> None:
    """Else the peer would be lost, though its owner said where it went."""
    said = revoke(A, "alice", successor=B.site_id, issued_ms=NOW_MS, reason=Reason.RETIRED)

    expect_no_effect(pinned(), said, "succeeded by others")
    assert card_of(B, "alice") == after(chain_of(A, B), said).card


def test_nothing_has_an_effect_on_a_peer_that_the_operator_distrusts() -> None:
    """Nor ends that."""
    distrusted = replace(pinned(), trouble=Trouble.DISTRUSTED)

    expect_no_effect(distrusted, chain_of(A, B), "it is distrusted")
