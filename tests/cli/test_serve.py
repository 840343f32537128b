"""`chunkq serve`: what it says, and what it never says."""

from __future__ import annotations

import json
import os

import pytest

from tests.support.pair import Pair


def test_it_introduces_itself(pair: Pair) -> None:
    """What it serves to how many, and what to do if that is nothing."""
    running = pair.serve()
    empty = pair.alice.start("serve")
    empty.until_said('"serving"')

    assert "bob serves; shares: 1, peers: 1; Ctrl-C stops" in running.err
    assert "hint: offer something: chunkq share add NAME PATH --to PEER" in empty.err


def test_a_file_of_the_registry_that_does_not_hold_is_named(pair: Pair) -> None:
    """It counts as absent; the operator is told."""
    (pair.bob.config / "shares" / "broken.toml").write_text("path = [")

    running = pair.serve()

    assert "broken.toml" in running.err


def test_without_a_site_it_says_what_to_do(pair: Pair) -> None:
    """No keys, no name: nothing is started."""
    pair.bob.root = pair.root / "elsewhere"

    done = pair.bob.run("serve")

    assert done.code in {1, 2}
    assert "chunkq init" in done.err


def test_keys_that_others_may_read_are_not_used(pair: Pair) -> None:
    """0600, or it does not start."""
    (keys,) = pair.bob.config.glob("*keys*")
    keys.chmod(0o644)

    done = pair.bob.run("serve")

    assert done.code == 1
    assert str(keys) in done.err
    assert "chmod" in done.err


@pytest.mark.parametrize("paths", [False, True])
def test_logs_have_no_key_no_content_and_no_path_unless_configured(pair: Pair, paths: bool) -> None:
    """At the most talkative level, on both sides."""
    name, content = "a-name-of-a-file", "what nobody else may read"
    pair.offer(f"sub/{name}", content.encode())
    (pair.files / "sub" / f"{name}-2").symlink_to("../not-there")
    environ = {"CHUNKQ_LOG_PATHS": "true"} if paths else {}
    serving = pair.serve("-v", **environ)

    ended = [
        pair.alice.run("-v", "get", *args, str(pair.inbox), **environ)
        for args in (
            [f"bob:docs/sub/{name}"],
            ["bob:docs/sub/not-there"],
            ["--links", "bob:docs/sub/"],  # the link leads out of the tree and is refused
        )
    ]

    assert [0, 4, 3] == [done.code for done in ended]
    logged = [
        line
        for said in (serving.err, *(done.err for done in ended))
        for line in said.splitlines()
        if line.startswith("{")
    ]
    assert {"serving", "file_failed"} <= {json.loads(line)["event"] for line in logged}
    text = "\n".join(logged)
    assert content not in text
    assert [secret for secret in secrets_of(pair) if secret in text] == []
    assert (name in text) == paths


def secrets_of(pair: Pair) -> set[str]:
    """Every word of the key files that could be a key."""
    return {
        word
        for actor in (pair.alice, pair.bob)
        for path in actor.config.glob("*.keys")
        for word in path.read_text().replace('"', " ").split()
        if len(word) > 30
    }


def test_files_that_are_kept_are_private(pair: Pair) -> None:
    """State of both sides and the spool: nobody else reads them."""
    pair.offer("x", b"x")
    pair.serve()
    assert pair.get("bob:docs/x", str(pair.inbox)).code == 0

    open_to_others = [
        str(path)
        for top in (pair.alice.state, pair.bob.state, pair.alice.config, pair.bob.config)
        for path in [top, *top.rglob("*")]
        if path.is_file() and os.stat(path.parent).st_mode & 0o077 and os.stat(path).st_mode & 0o077
    ]

    assert open_to_others == []
