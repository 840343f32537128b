"""`chunkq peer`, `share` and `grant`: who is pinned, what is offered, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.protocol.identity import decode_card, fingerprint
from chunkq.settings import Directories, Registry
from tests.cli.site import Site, make_card

BETA = make_card("beta", 1)


def registry(site: Site) -> Registry:
    return Registry(Directories(site.config, site.state))


@pytest.fixture
def offering(site: Site, tmp_path: Path) -> Site:
    """A site that offers docs and has pinned beta, who sees nothing yet."""
    (tmp_path / "docs").mkdir()
    assert site.run("peer", "add", BETA).code == 0
    assert site.run("share", "add", "docs", str(tmp_path / "docs")).code == 0
    return site


# ---------------------------------------------------------------- peer add


def test_peer_add_pins_and_shows_the_fingerprint(site: Site) -> None:
    """The fingerprint is to be compared by another way than the card's."""
    result = site.run("peer", "add", BETA)

    assert result.code == 0
    assert f"fingerprint: {fingerprint(decode_card(BETA))}" in result.out
    assert "Compare" in result.err
    assert registry(site).peer("beta").card == decode_card(BETA)


def test_peer_add_begins_the_replay_record(site: Site) -> None:
    """Without one, the peer's first request would be refused and have to be sent again."""
    site.run("peer", "add", BETA)

    records = list((site.state / "replays").iterdir())

    assert [path.name for path in records] == [f"{decode_card(BETA).verify_key.hex()}.replay"]


def test_peer_add_again_keeps_the_replay_record(site: Site) -> None:
    """A record of requests that were seen is not begun anew by removing and adding the peer."""
    site.run("peer", "add", BETA)
    (record,) = (site.state / "replays").iterdir()
    before = record.stat().st_ino

    site.run("peer", "rm", "beta")
    site.run("peer", "add", BETA)

    assert before == record.stat().st_ino


def test_peer_add_from_a_file_and_from_stdin(site: Site, tmp_path: Path) -> None:
    """`chunkq id > card` and `chunkq id | ... add -`, with the line's end and all."""
    card = tmp_path / "beta.card"
    card.write_text(f"{BETA}\n")

    from_file = site.run("peer", "add", str(card), "--as", "one")
    site.run("peer", "rm", "one")
    from_stdin = site.spawn(
        "peer", "add", "-", "--as", "two", stdin=f"\n{BETA[:60]}\n{BETA[60:]}\n"
    )

    assert (from_file.code, from_stdin.code) == (0, 0)
    assert list(registry(site).peers) == ["two"]


def test_peer_add_with_alias_link_and_address(site: Site) -> None:
    """What a peer is called here, where, and by which name it goes there."""
    site.run("init", "--name", "alpha")
    with site.config_file.open("a") as file:
        file.write('\n[links.post]\nurl = "spool:///mnt/post"\n')

    result = site.run(
        "peer", "add", BETA, "--as", "archive", "--link", "post", "--address", "b2", "--json"
    )

    assert [(each["alias"], each["name"], each["added"]) for each in result.objects] == [
        ("archive", "beta", True)
    ]
    peer = registry(site).peer("archive")
    assert (peer.link, peer.address) == ("post", "b2")


def test_peer_add_with_an_unknown_link_names_the_nearest(site: Site) -> None:
    """Nothing is pinned."""
    result = site.run("peer", "add", BETA, "--link", "defualt")

    assert result.code == 2
    assert "did you mean default?" in result.err
    assert not registry(site).peers


def test_peer_add_again_is_no_error(site: Site) -> None:
    """The same card under the same name changes nothing."""
    site.run("peer", "add", BETA)

    result = site.run("peer", "add", BETA)

    assert result.code == 0
    assert result.out.startswith("already pinned: beta\n")


def test_peer_add_of_a_different_card_under_the_same_name(site: Site) -> None:
    """Refused, with both ways out; --replace takes it and keeps what was granted."""
    site.run("peer", "add", BETA)
    other = make_card("beta", 2)

    refused = site.run("peer", "add", other)
    taken = site.run("peer", "add", other, "--replace")

    assert refused.code == 2
    assert "--as" in refused.err
    assert "--replace" in refused.err
    assert taken.code == 0
    assert registry(site).peer("beta").card == decode_card(other)


def test_peer_add_of_one_card_under_two_names(site: Site) -> None:
    """Refused, naming the other alias."""
    site.run("peer", "add", BETA)

    result = site.run("peer", "add", BETA, "--as", "gamma")

    assert result.code == 2
    assert "already pinned as beta" in result.err


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (BETA[:-10], "cut short"),
        (BETA.replace(":beta:", ":betb:"), "signature is wrong"),
        (BETA + BETA, "two were pasted"),
        ("chunkq-card:9:x:y", "version"),
        ("chunkq-card:" + "x" * 5000, "no card"),
    ],
)
def test_a_card_that_does_not_hold_is_refused(site: Site, card: str, message: str) -> None:
    """Exit 2, a sentence on what is wrong with it, nothing pinned."""
    result = site.run("peer", "add", card)

    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not (site.config / "peers").exists()


def test_a_card_that_is_no_file_either(site: Site) -> None:
    """The message says what a card looks like."""
    result = site.run("peer", "add", "beta.crad")

    assert result.code == 4
    assert "neither a card nor a file" in result.err
    assert "chunkq-card:" in result.err


# ---------------------------------------------------------------- peer ls, rm


def test_peer_ls(offering: Site) -> None:
    """With what each may see; one object a line with --json."""
    offering.run("grant", "beta", "docs")

    plain = offering.run("peer", "ls")
    (beta,) = offering.run("peer", "ls", "--json").objects

    assert [line.split()[:4] for line in plain.out.splitlines()] == [
        ["PEER", "LINK", "ADDRESS", "MAY"],
        ["beta", "default", "beta", "docs"],
    ]
    assert (beta["type"], beta["alias"], beta["may_see"]) == ("peer", "beta", ["docs"])


def test_peer_ls_when_there_is_none(site: Site) -> None:
    """Nothing on stdout; how to begin on stderr."""
    result = site.run("peer", "ls")

    assert (result.code, result.out) == (0, "")
    assert "chunkq peer add" in result.err


def test_peer_ls_warns_of_a_file_that_does_not_hold(offering: Site) -> None:
    """A typo made with an editor is named with file and line."""
    path = offering.config / "peers" / "beta.toml"
    path.write_text(path.read_text().replace("address", "adress"))

    result = offering.run("peer", "ls")

    assert result.out == ""
    assert f"warning: {path}:3: unknown key 'adress'" in result.err


def test_peer_rm_revokes_and_says_what_it_may_no_longer_see(offering: Site) -> None:
    """At once: a registry that is open in a worker sees it at its next look."""
    worker = registry(offering)
    offering.run("grant", "beta", "docs")
    worker.refresh()
    assert worker.allows("beta", "docs", "x")

    result = offering.run("peer", "rm", "beta")

    assert result.code == 0
    assert "it may no longer see: docs" in result.out
    worker.refresh()
    assert worker.peer_by_key(decode_card(BETA).verify_key) is None
    assert not worker.allows("beta", "docs", "x")


def test_an_unknown_peer_is_answered_with_the_nearest(offering: Site) -> None:
    """Exit 4, for every command that takes a peer."""
    results = [
        offering.run("peer", "rm", "betta"),
        offering.run("grant", "betta", "docs"),
        offering.run("grant", "betta", "docs", "--revoke"),
    ]

    assert [(result.code, "did you mean beta?" in result.err) for result in results] == [
        (4, True)
    ] * 3


# ---------------------------------------------------------------- share


def test_share_add_with_peers(offering: Site, tmp_path: Path) -> None:
    """`--to` grants in the same step; a second run adds to what is there."""
    offering.run("peer", "add", make_card("gamma", 3))
    images = tmp_path / "images"
    images.mkdir()

    first = offering.run("share", "add", "images", str(images), "--to", "beta")
    second = offering.run("share", "add", "images", str(images), "--to", "gamma", "--json")

    assert first.out == f"offered: images ({images})\nseen by: beta\n"
    assert [each["grants"] for each in second.objects] == [
        [{"peer": "beta", "prefix": ""}, {"peer": "gamma", "prefix": ""}]
    ]


def test_share_add_options(offering: Site, tmp_path: Path) -> None:
    """Chunk size, links and hidden names are written down."""
    offering.run(
        *("share", "add", "vm", str(tmp_path / "docs")),
        *("--chunk-size", "1MiB", "--follow-links", "--no-hidden"),
    )

    share = registry(offering).share("vm")

    assert (share.chunk_size_bytes, share.follow_links, share.hidden) == (1 << 20, True, False)


def test_share_add_of_one_file(site: Site, tmp_path: Path) -> None:
    """A single file can be a share, too."""
    (tmp_path / "one").write_text("x")

    assert site.run("share", "add", "one", str(tmp_path / "one")).code == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["docs2", "/nonexistent/x"], 4, "does not exist"),
        (["docs2", "~nobody-at-all/x"], 2, "whom this machine does not know"),
        (["docs2", "/dev/null"], 2, "neither a directory nor a regular file"),
        (["Docs", "/usr"], 2, "cannot be the name of a share"),
        (["docs", "/usr"], 2, "already "),
        (["docs2", "/usr", "--to", "betta"], 4, "did you mean beta?"),
        (["docs2", "/usr", "--chunk-size", "3KiB"], 2, "power of two"),
        (["docs2", "/usr", "--chunk-size", "much"], 2, "--chunk-size"),
    ],
)
def test_share_add_with_what_cannot_be_offered(
    offering: Site, args: list[str], code: int, message: str
) -> None:
    """Each says what and what to do, and nothing is offered."""
    result = offering.run("share", "add", *args)

    assert result.code == code
    assert message in result.err
    assert list(registry(offering).shares) == ["docs"]


@pytest.mark.parametrize("inside", ["", "config", "state/spool"])
def test_own_keys_are_never_offered(alpha: Site, inside: str) -> None:
    """A directory that holds chunkq's keys or state, or is in it, is refused."""
    path = alpha.root / inside
    path.mkdir(parents=True, exist_ok=True)

    result = alpha.run("share", "add", "all", str(path))

    assert result.code == 2
    assert "keys" in result.err
    assert not registry(alpha).shares


def test_share_ls(offering: Site, tmp_path: Path) -> None:
    """What is offered, and to whom."""
    offering.run("grant", "beta", "docs/2024")

    plain = offering.run("share", "ls")
    (docs,) = offering.run("share", "ls", "--json").objects

    assert plain.out.splitlines()[1].split() == [
        *("docs", str(tmp_path / "docs"), "256KiB", "beta", "(2024/)")
    ]
    assert docs["grants"] == [{"peer": "beta", "prefix": "2024"}]


def test_share_rm(offering: Site, tmp_path: Path) -> None:
    """Offered no more; the directory itself stays."""
    result = offering.run("share", "rm", "docs")
    unknown = offering.run("share", "rm", "docs")

    assert (result.code, unknown.code) == (0, 4)
    assert not registry(offering).shares
    assert (tmp_path / "docs").is_dir()


# ---------------------------------------------------------------- grant


def test_grant_and_revoke(offering: Site) -> None:
    """Of a share and of a part of it; doing it twice says so."""
    said = [
        offering.run("grant", "beta", "docs/2024/").out,
        offering.run("grant", "beta", "docs/2024").out,
        offering.run("grant", "beta", "docs/2024", "--revoke").out,
        offering.run("grant", "beta", "docs/2024", "--revoke").out,
    ]

    assert said == [
        "beta may now see docs/2024\n",
        "beta may already see docs/2024\n",
        "beta may no longer see docs/2024\n",
        "beta had no grant for docs/2024\n",
    ]
    assert registry(offering).granted("beta") == ()


def test_revoking_one_grant_warns_of_the_others(offering: Site) -> None:
    """Whoever takes back a part should know that the whole is still granted."""
    offering.run("grant", "beta", "docs")
    offering.run("grant", "beta", "docs/a")

    result = offering.run("grant", "beta", "docs/a", "--revoke")

    assert result.err == "warning: other grants of beta remain: docs\n"


@pytest.mark.parametrize(
    ("share", "code", "message"),
    [
        ("dosc", 4, "did you mean docs?"),
        ("docs/../x", 2, "no path inside a share"),
        ("docs/a\\b", 2, "no path inside a share"),
    ],
)
def test_grant_of_what_is_not_offered(offering: Site, share: str, code: int, message: str) -> None:
    """Nothing is granted."""
    result = offering.run("grant", "beta", share)

    assert result.code == code
    assert message in result.err
    assert registry(offering).granted("beta") == ()
