"""A site's own keys over time: what counts when, what may be signed, and the file of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from chunkq.errors import IdentityError, StatementInvalid
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.signers import TELL_AGAIN_S, TURN_S, Signers
from chunkq.protocol.standing import Trouble, heed
from chunkq.protocol.succession import Reason

from .test_standing import pinned
from .test_succession import EVE, NOW_MS, A, B

GRACE_MS = 1000
#: Later than all that happens here, within what clocks may differ.
END_MS = NOW_MS + 500_000


def entropy_of(seed: int) -> Callable[[int], bytes]:
    numbers = itertools.count(seed)
    return lambda size: bytes([next(numbers) % 256]) * size


def rotated(times: int = 1, grace_ms: int = GRACE_MS) -> KeyRing:
    ring = KeyRing(keys=A)
    for number in range(times):
        ring = ring.rotate("alice", entropy_of(1 + 2 * number), NOW_MS + number, grace_ms)
    return ring


def test_rotated_keys_are_followed_by_who_pinned_the_first() -> None:
    """The ring's succession is what `heed` takes."""
    ring = rotated(3)
    assert ring.succession is not None

    assert card_of(ring.keys, "alice") == heed(pinned(A), ring.succession, END_MS).card


def test_old_keys_count_until_their_time() -> None:
    """And are erased after it."""
    ring = rotated()

    assert A == ring.holder(A.site_id, NOW_MS + GRACE_MS - 1)
    assert None is ring.holder(A.site_id, NOW_MS + GRACE_MS)
    assert ring is ring.pruned(NOW_MS + GRACE_MS - 1)
    assert () == ring.pruned(NOW_MS + GRACE_MS).retired
    assert ring.keys == ring.holder(ring.site_id, NOW_MS + GRACE_MS)


def test_consent_is_given_once() -> None:
    """To the same card again it is the same; to another, or for new keys, it is refused."""
    ring = KeyRing(keys=A).consent_to(card_of(B, "alice"), NOW_MS)

    assert ring is ring.consent_to(card_of(B, "alice"), NOW_MS + 5)
    with pytest.raises(IdentityError, match="agreed to be succeeded"):
        ring.consent_to(card_of(EVE, "alice"), NOW_MS)
    with pytest.raises(IdentityError, match="agreed to be succeeded"):
        ring.rotate("alice", entropy_of(1), NOW_MS)


def test_a_machine_takes_over_and_goes_on_rotating() -> None:
    """The peers follow from the first machine's first keys to the last of the second."""
    old = rotated()
    consented = old.consent_to(card_of(B, "alice"), NOW_MS + 1).consented
    assert consented is not None
    new = KeyRing(keys=B).take_over(consented).rotate("alice", entropy_of(9), NOW_MS + 2)
    assert new.succession is not None

    assert card_of(new.keys, "alice") == heed(pinned(A), new.succession, END_MS).card
    with pytest.raises(IdentityError, match="history of their own"):
        new.take_over(consented)
    with pytest.raises(StatementInvalid, match="another site"):
        KeyRing(keys=EVE).take_over(consented)


def test_revoked_keys_sign_nothing_more() -> None:
    """Neither a rotation nor a consent; revoking again is the same statement."""
    ring = KeyRing(keys=A).revoke("alice", Reason.COMPROMISED, NOW_MS)
    assert ring.revocation is not None

    assert ring is ring.revoke("alice", Reason.RETIRED, NOW_MS + 1)
    assert Trouble.REVOKED is heed(pinned(A), ring.revocation, NOW_MS).trouble
    for change in (
        lambda: ring.rotate("alice", entropy_of(1), NOW_MS),
        lambda: ring.consent_to(card_of(B, "alice"), NOW_MS),
    ):
        with pytest.raises(IdentityError, match="revoked"):
            change()


def test_revoking_the_retired_keys_leaves_the_peer_trusted() -> None:
    """Each names the keys that followed it."""
    ring = rotated(2)
    assert ring.succession is not None
    standing = heed(pinned(A), ring.succession, END_MS)
    ended, said = ring.revoke_retired("alice", Reason.COMPROMISED, NOW_MS + 5)

    for each in said:
        standing = heed(standing, each, END_MS)
    assert (None, [0, 0]) == (standing.trouble, [each.until_ms for each in standing.earlier])
    assert (2, ()) == (len(said), ended.retired)


def test_a_ring_comes_back_from_its_text() -> None:
    """Whatever is in it."""
    plain = KeyRing(keys=A)
    consented = rotated(2).consent_to(card_of(B, "alice"), NOW_MS + 9)
    revoked = rotated().revoke("alice", Reason.RETIRED, NOW_MS)

    for ring in (plain, rotated(), consented, revoked):
        assert ring == KeyRing.decode(ring.encode())
    assert plain.encode().startswith("chunkq-keys 1\nsigning  ")
    assert rotated().encode().startswith("chunkq-keys 2\nsigning  ")


def test_every_changed_or_missing_character_of_a_ring_is_refused() -> None:
    """Another key would be another identity, another statement another history."""
    text = rotated().consent_to(card_of(B, "alice"), NOW_MS + 9).encode()
    lines = text.splitlines(keepends=True)
    damaged = [text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :] for at in range(len(text) - 1)]
    damaged += ["".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines))]
    damaged += [text[:size] for size in range(0, len(text) - 1, 37)]

    for each in damaged:
        if each.split() != text.split():
            with pytest.raises(IdentityError, match="damaged"):
                KeyRing.decode(each)


# ---------------------------------------------------------------- with which keys to ask


def test_a_site_that_never_changed_asks_by_its_only_keys() -> None:
    """And tells nobody anything."""
    signers = Signers(KeyRing(keys=A), NOW_MS, new_first=False)

    assert [A, A] == [signers.pick(0.0), signers.pick(100.0)]
    assert not signers.must_tell(0.0)


def test_keys_take_turns_until_one_is_answered() -> None:
    """The old first, for a peer that was pinned before; then the one that got an answer."""
    ring = rotated()
    signers = Signers(ring, NOW_MS, new_first=False)

    assert [A, A, ring.keys, A] == [
        signers.pick(at) for at in (0.0, TURN_S - 0.1, TURN_S, 2 * TURN_S)
    ]
    signers.answered(A.site_id)
    assert [A, A] == [signers.pick(3 * TURN_S), signers.pick(9 * TURN_S)]
    signers.answered(ring.site_id)
    signers.answered(A.site_id)  # a late reply to an old request
    assert ring.keys == signers.pick(99 * TURN_S)


def test_a_peer_that_was_pinned_later_is_asked_by_the_new_keys_first() -> None:
    """It never had the old card."""
    ring = rotated()

    assert ring.keys == Signers(ring, NOW_MS, new_first=True).pick(0.0)


def test_a_peer_is_told_until_it_takes_note() -> None:
    """At once while the old keys count, later only if it does not answer."""
    ring = rotated()
    signers = Signers(ring, NOW_MS, new_first=False)

    times = (0.0, 0.1, TELL_AGAIN_S, TELL_AGAIN_S + 1)
    assert [True, False, True, False] == [signers.must_tell(at) for at in times]
    signers.told(A.site_id)  # it does not follow, and says so
    assert not signers.must_tell(9 * TELL_AGAIN_S)
    assert A == signers.pick(9 * TELL_AGAIN_S)
    late = Signers(ring, NOW_MS + GRACE_MS, new_first=False)
    assert [False, False, True] == [late.must_tell(at) for at in (0.0, TURN_S - 0.1, TURN_S)]


def test_only_keys_of_the_ring_are_asked_by() -> None:
    """Whatever a peer says it knows."""
    ring = rotated()
    signers = Signers(ring, NOW_MS, new_first=False)
    signers.told(EVE.site_id)

    assert A == signers.pick(0.0)


def test_new_keys_are_of_the_entropy_given() -> None:
    """And of nothing else."""
    assert rotated().keys == SiteKeys(b"\x01" * 32, b"\x02" * 32)
