"""Keys that change between real processes: what goes on, who follows, and who is told what."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from chunkq.protocol.limits import MIB
from chunkq.settings import Directories, Registry
from chunkq.storage.keys import load_ring
from tests.support.pair import OFTEN, Actor, Pair, contents, part_way

#: 48 chunks, so that there is a third and two thirds of the way.
SIZE = 12 * MIB


def keys_of(actor: Actor, alias: str) -> tuple[str, int]:
    """How a peer stands at a site: in a word, and how many keys it had before."""
    peer = Registry(Directories(actor.config, actor.state)).peer(alias)
    return peer.trouble or "ok", len(peer.earlier)


def rotate(actor: Actor, *args: str) -> dict[str, object]:
    done = actor.run("rotate", "--yes", "--json", *args)
    assert 0 == done.code, done.err
    (fields,) = done.objects
    return fields


# ---------------------------------------------------------------- transfers under way


def test_a_transfer_under_way_survives_that_its_origin_changes_keys(pair: Pair) -> None:
    """The same process goes on, by the new keys; the notice is for a person to see."""
    content = os.urandom(SIZE)
    pair.offer("big", content)
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox / "big"), **OFTEN)
    part_way(pair, worker, getting)
    new = rotate(pair.bob, "--no-tell")
    worker.send(signal.SIGCONT)
    done = getting.wait()

    assert 0 == done.code, done.err
    assert content == (pair.inbox / "big").read_bytes()
    assert (
        f"bob has new keys, signed by the old ones; fingerprint: {new['fingerprint']}" in done.err
    )
    assert ("ok", 1) == keys_of(pair.alice, "bob")
    assert worker.alive


def test_a_stopped_transfer_goes_on_after_its_origin_changed_keys(pair: Pair) -> None:
    """Its staging is found, though it is named after the origin, and nothing is fetched twice.

    Twice: first over what the origin says in passing, then from keys given by hand.
    """
    content = os.urandom(SIZE)
    pair.offer("big", content)
    target = pair.inbox / "big"
    worker = pair.serve()
    for by_hand in (False, True):
        getting = pair.alice.start("get", "bob:docs/big", str(target), **OFTEN)
        stood = part_way(pair, worker, getting, 8 if not by_hand else 24)
        getting.end()
        worker.send(signal.SIGCONT)
        statement = str(rotate(pair.bob, "--no-tell")["statement"])
        if by_hand:
            assert "new keys" in pair.alice.quick("peer", "follow", statement)
    worker.end()
    pair.serve()
    done = pair.get("bob:docs/big", str(target), "--json")

    assert 0 == done.code, done.out
    result = next(each for each in done.objects if each["type"] == "result")
    assert result["resumed_chunks"] >= stood.chunks_present
    assert content == target.read_bytes()
    assert ("ok", 2) == keys_of(pair.alice, "bob")
    assert [] == list((pair.inbox / ".chunkq").glob("*"))


def test_a_transfer_under_way_survives_that_its_requester_changes_keys(pair: Pair) -> None:
    """The old keys count for the process that runs; the next one asks by the new."""
    content = os.urandom(SIZE)
    pair.offer("big", content)
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox / "big"), **OFTEN)
    part_way(pair, worker, getting)
    rotate(pair.alice, "--no-tell")
    worker.send(signal.SIGCONT)
    assert 0 == getting.wait().code
    assert ("ok", 0) == keys_of(pair.bob, "alice")

    pair.offer("small", b"small")
    done = pair.get("bob:docs/small", str(pair.inbox / "small"))

    assert 0 == done.code, done.err
    assert content == (pair.inbox / "big").read_bytes()
    assert ("ok", 1) == keys_of(pair.bob, "alice")
    assert '"peer_rotated"' in worker.err


def test_both_change_keys_without_telling(pair: Pair) -> None:
    """Each still counts by its old keys, so they find each other."""
    pair.offer("a", b"before")
    pair.offer("b", b"after")
    pair.serve()
    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a")).code
    for actor in (pair.alice, pair.bob):
        rotate(actor, "--no-tell")
        rotate(actor, "--no-tell")

    assert 0 == pair.get("bob:docs/b", str(pair.inbox / "b")).code
    assert ("ok", 2) == keys_of(pair.alice, "bob")
    assert ("ok", 2) == keys_of(pair.bob, "alice")
    # small files come in bundles, which are signed as well
    assert 0 == pair.get("bob:docs/", str(pair.inbox / "tree")).code
    assert {"a": b"before", "b": b"after"} == contents(pair.inbox / "tree")
    # the manifest of the first file was kept, signed by keys that nobody uses any more
    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a2")).code
    assert b"before" == (pair.inbox / "a2").read_bytes()


def test_peers_that_serve_are_told_at_once(pair: Pair) -> None:
    """So that the old keys need not count for a moment."""
    pair.offer("a", b"content")
    worker = pair.serve()
    told = rotate(pair.alice, "--grace", "0")

    assert {"bob": True} == told["told"]
    assert () == load_ring(pair.alice.config / "site.keys").pruned(1 << 62).retired
    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a")).code
    assert '"peer_rotated"' in worker.err
    assert ("ok", 1) == keys_of(pair.bob, "alice")


def test_a_tree_is_had_by_old_and_new_keys(pair: Pair) -> None:
    """Its listing and its bundles, asked for by keys that the origin has left."""
    pair.offer("a", b"one")
    pair.offer("sub/b", b"two")
    worker = pair.serve()
    for number in (1, 2):
        rotate(pair.bob, "--no-tell")
        target = pair.inbox / str(number)
        assert 0 == pair.get("bob:docs/", str(target)).code
        assert {"a": b"one", "sub": None, "sub/b": b"two"} == contents(target)
        assert ("ok", number) == keys_of(pair.alice, "bob")
    assert worker.alive


@pytest.mark.rabbitmq
def test_keys_change_over_rabbitmq(tmp_path: Path, amqp_url: str) -> None:
    """Mailboxes are named after sites, not after keys, so nothing there has to change."""
    pair = Pair(tmp_path, amqp_url)
    try:
        content = os.urandom(SIZE)
        pair.offer("big", content)
        worker = pair.serve()
        getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox / "big"), **OFTEN)
        part_way(pair, worker, getting)
        rotate(pair.bob, "--no-tell")
        worker.send(signal.SIGCONT)
        assert 0 == getting.wait().code
        assert {"bob": True} == rotate(pair.alice)["told"]
        assert 0 == pair.get("bob:docs/big", str(pair.inbox / "again")).code

        assert content == (pair.inbox / "again").read_bytes()
        assert ("ok", 1) == keys_of(pair.alice, "bob")
        assert ("ok", 1) == keys_of(pair.bob, "alice")
    finally:
        pair.close()


# ---------------------------------------------------------------- another machine


def test_another_machine_takes_over(pair: Pair) -> None:
    """With the old one's consent; peers that serve hear of it, and keep what was granted."""
    pair.offer("a", b"content")
    outside = pair.alice.start("serve")
    outside.until_said('"serving"')
    new = Actor("new", pair.root)
    new.quick("init", "--name", "bob", "--link", f"spool://{pair.spool}")
    new.quick("share", "add", "docs", str(pair.files))
    new.quick("peer", "add", pair.alice.quick("id"))
    new.quick("grant", "alice", "docs")
    try:
        consent = pair.bob.quick("--quiet", "rotate", "--yes", "--consent-to", new.quick("id"))
        taken = new.run("takeover", "--yes", "--json", consent)
        serving = new.start("serve")
        serving.until_said('"serving"')
        done = pair.get("bob:docs/a", str(pair.inbox / "a"))

        assert {"alice": True} == taken.objects[0]["told"]
        assert (0, b"content") == (done.code, (pair.inbox / "a").read_bytes())
        assert ("ok", 1) == keys_of(pair.alice, "bob")
        assert "agreed to be succeeded" in pair.bob.run("rotate", "--yes").err
    finally:
        new.end()


# ---------------------------------------------------------------- the end of keys


def test_a_revoked_peer_is_asked_nothing_more(pair: Pair) -> None:
    """`chunkq get` says so at once, and by its exit code; the origin told it by itself."""
    pair.offer("a", b"content")
    worker = pair.serve()
    revoked = pair.bob.run("revoke", "--yes", "--no-tell", "--reason", "compromised")
    assert 0 == revoked.code
    heard = pair.get("bob:docs/a", str(pair.inbox / "a"))
    known = pair.get("bob:docs/a", str(pair.inbox / "a"))

    assert [4, 4] == [heard.code, known.code], heard.err
    assert "compromised" in heard.err
    assert "compromised" in known.err
    assert "chunkq peer add CARD --as bob --replace" in known.err
    assert ("revoked", 0) == keys_of(pair.alice, "bob")
    assert [] == [each for each in pair.inbox.iterdir() if each.name != ".chunkq"]
    assert worker.alive
    assert "keys are revoked" in pair.bob.run("get", "alice:x/y").err


def test_a_revoked_requester_gets_no_answer(pair: Pair) -> None:
    """Not even one that says why; the origin's log does."""
    pair.offer("a", b"content")
    worker = pair.serve()
    pair.bob.quick("revoke", "--peer", "alice")
    done = pair.get("bob:docs/a", str(pair.inbox / "a"), "--patience", "4s")
    worker.until_said("sender_distrusted")

    assert 5 == done.code
    assert not (pair.inbox / "a").exists()
    assert ("distrusted", 0) == keys_of(pair.bob, "alice")


def test_retired_keys_can_be_ended_before_their_time(pair: Pair) -> None:
    """The peers hear it, and go on with the present ones."""
    pair.offer("a", b"content")
    pair.serve()
    rotate(pair.alice)
    ended = pair.alice.run("revoke", "--retired", "--yes", "--json").objects[0]
    peer = Registry(Directories(pair.bob.config, pair.bob.state)).peer("alice")

    assert ({"bob": True}, 1) == (ended["told"], len(ended["statements"]))
    assert (None, 0) == (peer.trouble, peer.earlier[0].until_ms)
    assert () == load_ring(pair.alice.config / "site.keys").retired
    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a")).code


def test_two_successions_of_stolen_keys_stop_everything(pair: Pair, tmp_path: Path) -> None:
    """First the thief's, then the owner's: nobody is believed until the operator decides."""
    thief = Actor("thief", tmp_path)
    thief.quick("init", "--name", "bob", "--link", f"spool://{pair.spool}")
    stolen = (pair.bob.config / "site.keys").read_bytes()
    (thief.config / "site.keys").write_bytes(stolen)
    his = str(rotate(thief, "--no-tell")["statement"])
    owners = rotate(pair.bob, "--no-tell")

    assert "new keys" in pair.alice.quick("peer", "follow", his)
    conflict = pair.alice.run("peer", "follow", str(owners["statement"]))
    assert 4 == conflict.code
    assert "second succession" in conflict.err
    assert 4 == pair.get("bob:docs/a", str(pair.inbox / "a")).code
    doctor = json.loads(
        next(
            line
            for line in pair.alice.run("doctor", "--json").out.splitlines()
            if '"peer bob"' in line
        )
    )
    assert ("fail", True) == (doctor["status"], "--replace" in doctor["mend"])
    assert "CONFLICT" in pair.alice.quick("peer", "ls")
    assert 2 == pair.alice.run("peer", "add", str(owners["card"])).code
    pair.alice.quick("peer", "add", str(owners["card"]), "--replace")
    assert ("ok", 0) == keys_of(pair.alice, "bob")
    pair.offer("a", b"content")
    pair.serve()
    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a")).code


# ---------------------------------------------------------------- commands


def test_a_peer_that_is_followed_by_hand_only(pair: Pair) -> None:
    """Its old keys count meanwhile; the notice tells the line."""
    pair.offer("a", b"content")
    pair.alice.quick("peer", "rm", "bob")
    pair.alice.quick("peer", "add", pair.bob.quick("id"), "--no-follow")
    pair.serve()
    statement = str(rotate(pair.bob)["statement"])

    assert 0 == pair.get("bob:docs/a", str(pair.inbox / "a")).code
    assert ("ok", 0) == keys_of(pair.alice, "bob")
    pair.alice.quick("peer", "follow", statement)
    assert ("ok", 1) == keys_of(pair.alice, "bob")
    assert "nothing new" in pair.alice.quick("peer", "follow", statement)
    assert "by hand only" in pair.alice.quick("peer", "show", "bob")


@pytest.mark.parametrize(
    "command",
    [["rotate"], ["revoke"], ["revoke", "--retired"]],
    ids=" ".join,
)
def test_what_cannot_be_undone_is_asked(pair: Pair, command: list[str]) -> None:
    """Where nobody can be asked, nothing is done."""
    before = load_ring(pair.bob.config / "site.keys")
    done = pair.bob.run(*command)

    assert (2, True) == (done.code, "--yes" in done.err)
    assert before == load_ring(pair.bob.config / "site.keys")


def test_a_statement_is_no_card(pair: Pair) -> None:
    """Each is refused where the other belongs, with the command that takes it."""
    statement = str(rotate(pair.bob, "--no-tell")["statement"])
    added = pair.alice.run("peer", "add", statement)
    followed = pair.alice.run("peer", "follow", pair.bob.quick("id"))

    assert (2, True) == (added.code, "chunkq peer follow" in added.err)
    assert followed.code in (2, 4)
    assert ("ok", 0) == keys_of(pair.alice, "bob")


def test_grace_is_bounded(pair: Pair) -> None:
    """By what a peer would let count."""
    done = pair.bob.run("rotate", "--yes", "--grace", "94d")

    assert (2, True) == (done.code, "93d" in done.err)
