"""What a peer says of its keys, and the file that keeps it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chunkq.errors import StatementInvalid
from chunkq.protocol.identity import SiteKeys, decode_card, encode_card
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.succession import NO_SUCCESSOR, Reason, Succession, revoke
from chunkq.settings import Directories, Registry
from tests.cli.site import Site
from tests.storage.crashes import killed_at_every_step

NOW_MS = time.time_ns() // 1_000_000
OLD = SiteKeys(b"o" * 32, b"O" * 32)
NEW = SiteKeys(b"n" * 32, b"N" * 32)


def rotated(old: SiteKeys = OLD, new: SiteKeys = NEW, name: str = "beta") -> Succession:
    entropy = iter((new.signing_seed, new.exchange_secret))
    ring = KeyRing(keys=old).rotate(name, lambda _: next(entropy), NOW_MS)
    assert ring.succession is not None
    return ring.succession


def registry(site: Site) -> Registry:
    return Registry(Directories(site.config, site.state))


@pytest.fixture
def knowing(alpha: Site) -> Site:
    """A site that has pinned beta and offers docs to it."""
    (alpha.root / "docs").mkdir()
    assert alpha.run("peer", "add", encode_card(OLD, "beta"), "--as", "b").code == 0
    assert alpha.run("share", "add", "docs", str(alpha.root / "docs"), "--to", "b").code == 0
    return alpha


def test_follow_pins_the_new_card_and_keeps_the_rest(knowing: Site) -> None:
    """Alias, address, grants; the old card with its time; a replay record for the new keys."""
    before = registry(knowing).peer("b")
    done = knowing.run("peer", "follow", rotated().line, "--json")
    after = registry(knowing).peer("b")

    assert (0, "succession") == (done.code, done.objects[0]["news"])
    assert decode_card(encode_card(NEW, "beta")) == after.card == decode_card(after.card_line)
    assert (before.card, before.card_line) == (after.earlier[0].card, after.earlier[0].card_line)
    assert rotated().links[0].until_ms == after.earlier[0].until_ms
    assert (before.address, before.link, before.added_at) == (
        after.address,
        after.link,
        after.added_at,
    )
    assert registry(knowing).allows("b", "docs", "x")
    assert [OLD, NEW] == [
        keys for keys in (OLD, NEW) if registry(knowing).peer_by_key(keys.site_id) == after
    ]
    assert {f"{keys.site_id.hex()}.replay" for keys in (OLD, NEW)} == {
        path.name for path in (knowing.state / "replays").iterdir()
    }


def test_follow_from_a_file_and_again(knowing: Site, tmp_path: Path) -> None:
    """With line wraps; the second time nothing is new and nothing is written."""
    line = rotated().line
    file = tmp_path / "line"
    file.write_text("\n".join(line[at : at + 70] for at in range(0, len(line), 70)))
    first = knowing.run("peer", "follow", str(file))
    written = (knowing.config / "peers" / "b.toml").stat().st_ino
    second = knowing.run("peer", "follow", str(file))

    assert [0, 0] == [first.code, second.code]
    assert "b has new keys" in first.out
    assert "nothing new" in second.out
    assert written == (knowing.config / "peers" / "b.toml").stat().st_ino


def test_a_line_about_nobody_here(knowing: Site) -> None:
    """Exit 2, and nothing changes."""
    stranger = SiteKeys(b"s" * 32, b"S" * 32)
    done = knowing.run("peer", "follow", rotated(stranger, SiteKeys(b"t" * 32, b"T" * 32)).line)

    assert (2, True) == (done.code, "no peer that is pinned here" in done.err)


def test_a_succession_to_the_keys_of_another_peer(knowing: Site) -> None:
    """One key under two names could not be told apart."""
    knowing.run("peer", "add", encode_card(NEW, "beta"), "--as", "c")
    done = knowing.run("peer", "follow", rotated().line)

    assert (2, True) == (done.code, "several peers here: b, c" in done.err)
    assert decode_card(encode_card(OLD, "beta")) == registry(knowing).peer("b").card


def test_pinning_again_by_another_link_keeps_the_history(knowing: Site) -> None:
    """Staging is named after the first keys; a peer that moved keeps its transfers."""
    knowing.run("peer", "follow", rotated().line)
    done = knowing.run("peer", "add", encode_card(NEW, "beta"), "--as", "b", "--address", "b2")
    peer = registry(knowing).peer("b")

    assert (0, "b2", 1) == (done.code, peer.address, len(peer.earlier))


def test_a_revoked_card_cannot_be_pinned_again(knowing: Site) -> None:
    """Its owner said that it is dead; another one may take its place."""
    said = revoke(OLD, "beta", successor=NO_SUCCESSOR, issued_ms=NOW_MS, reason=Reason.RETIRED)
    told = knowing.run("peer", "follow", said.line)
    same = knowing.run("peer", "add", encode_card(OLD, "beta"), "--as", "b", "--replace")
    plain = knowing.run("peer", "add", encode_card(NEW, "beta"), "--as", "b")
    taken = knowing.run("peer", "add", encode_card(NEW, "beta"), "--as", "b", "--replace")

    assert [0, 2, 2, 0] == [told.code, same.code, plain.code, taken.code]
    assert "revoked this very card" in same.err
    assert registry(knowing).peer("b").trouble is None


def test_local_distrust_can_be_taken_back(knowing: Site) -> None:
    """By the same card, deliberately."""
    knowing.run("revoke", "--peer", "b")
    again = knowing.run("revoke", "--peer", "b")
    card = encode_card(OLD, "beta")
    refused = knowing.run("peer", "add", card, "--as", "b")
    taken = knowing.run("peer", "add", card, "--as", "b", "--replace")

    assert "was not trusted already" in again.out
    assert [2, 0] == [refused.code, taken.code]
    assert registry(knowing).peer("b").trouble is None


def test_a_peer_followed_by_hand_only(knowing: Site) -> None:
    """What the link brings has no effect, what the operator gives has."""
    card = encode_card(OLD, "beta")
    knowing.run("peer", "rm", "b")
    knowing.run("peer", "add", card, "--as", "b", "--no-follow")
    peers = registry(knowing)

    with pytest.raises(StatementInvalid, match="by hand only") as caught:
        peers.heed(rotated(), NOW_MS)
    assert rotated().line in (caught.value.hint or "")
    assert decode_card(card) == peers.peer("b").card
    assert (
        decode_card(encode_card(NEW, "beta")) == peers.heed(rotated(), NOW_MS, by_hand=True)[1].card
    )


def test_kill_at_every_step_of_following(knowing: Site) -> None:
    """The peer is pinned by its old card, or by the new one with the old beside it."""
    path = knowing.config / "peers" / "b.toml"
    content = path.read_bytes()
    seen = set()

    def reset() -> None:
        for each in path.parent.iterdir():
            each.unlink()
        path.write_bytes(content)

    def check(step: int) -> None:
        peer = registry(knowing).peer("b")
        assert (peer.card.site_id, len(peer.earlier)) in ((OLD.site_id, 0), (NEW.site_id, 1)), step
        seen.add(peer.card.site_id)

    def follow() -> None:
        registry(knowing).heed(rotated(), NOW_MS)

    assert killed_at_every_step(follow, check, reset) >= 2
    assert {OLD.site_id, NEW.site_id} == seen


def test_doctor_tells_of_changed_keys(knowing: Site) -> None:
    """A peer's new keys are worth a look; one's own old ones are counted down."""
    knowing.run("peer", "follow", rotated().line)
    knowing.run("rotate", "--yes", "--no-tell")
    texts = [
        (each["subject"], each["status"], each["text"])
        for each in knowing.run("doctor", "--json").objects
    ]

    assert any(s == "peer b" and t == "ok" and "new keys since" in x for s, t, x in texts)
    assert any(s == "keys" and t == "ok" and "old ones count until" in x for s, t, x in texts)
    knowing.run("revoke", "--yes", "--no-tell")
    assert any(
        each["subject"] == "keys" and each["status"] == "fail" and "revoked" in each["text"]
        for each in knowing.run("doctor", "--json").objects
    )
