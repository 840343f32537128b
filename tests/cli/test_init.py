"""`chunkq init` and `chunkq id`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chunkq.protocol.identity import decode_card, fingerprint
from tests.cli.site import Site


def test_init_makes_keys_and_configuration_for_their_owner_only(site: Site) -> None:
    """And says what to do next."""
    result = site.run("init", "--name", "alpha")

    assert (result.code, result.err) == (0, "")
    assert 'name = "alpha"' in site.config_file.read_text()
    assert {path.name: path.stat().st_mode & 0o777 for path in site.config.iterdir()} == {
        "config.toml": 0o600,
        "site.keys": 0o600,
    }
    assert "chunkq peer add CARD" in result.out
    assert "chunkq-card:" in result.out


def test_init_again_changes_nothing(alpha: Site) -> None:
    """Running it twice is no error if the name agrees, or none is given."""
    before = {path.name: path.read_bytes() for path in alpha.config.iterdir()}

    again = [alpha.run("init"), alpha.run("init", "--name", "alpha")]

    assert [result.code for result in again] == [0, 0]
    assert all("nothing was changed" in result.out for result in again)
    assert before == {path.name: path.read_bytes() for path in alpha.config.iterdir()}


@pytest.mark.parametrize("args", [["--name", "beta"], ["--link", "spool:///elsewhere"]])
def test_init_that_disagrees_is_refused(alpha: Site, args: list[str]) -> None:
    """Another name or link is not put in place of the one there."""
    before = alpha.config_file.read_bytes()

    result = alpha.run("init", *args)

    assert result.code == 2
    assert "set up already" in result.err
    assert before == alpha.config_file.read_bytes()


def test_init_completes_what_was_interrupted(alpha: Site) -> None:
    """A configuration without keys gets keys, under its own name; never the other way about."""
    (alpha.config / "site.keys").unlink()
    before = alpha.config_file.read_bytes()

    result = alpha.run("init", "--json")

    assert [(each["name"], each["made"]) for each in result.objects] == [("alpha", True)]
    assert before == alpha.config_file.read_bytes()


def test_init_with_a_link(site: Site) -> None:
    """The URL is written down, and its password is shown nowhere."""
    url = "amqp://alpha:s3cret@127.0.0.1:5672/v"

    result = site.run("init", "--name", "alpha", "--link", url)
    shown = site.run("config", "show")

    assert result.code == 0
    assert f'url = "{url}"' in site.config_file.read_text()
    assert "s3cret" not in result.out + result.err + shown.out + shown.err
    assert "amqp://alpha:***@127.0.0.1:5672/v" in shown.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--name", "Alpha Site"], "'Alpha Site' cannot be the name of a site"),
        (["--link", "http://u:s3cret@h/"], "begins with spool:///, amqp:// or amqps://"),
    ],
)
def test_init_with_arguments_that_cannot_be_meant(
    site: Site, args: list[str], message: str
) -> None:
    """Nothing is made."""
    result = site.run("init", *args)

    assert result.code == 2
    assert message in result.err
    assert "s3cret" not in result.err
    assert not site.config.exists()


def test_init_where_nothing_can_be_written(site: Site) -> None:
    """A file stands where the directory should be: an error that names it, no traceback."""
    site.root.mkdir(parents=True)
    site.config.write_text("in the way")

    result = site.run("init", "--name", "alpha")

    assert result.code in (1, 2)
    assert str(site.config) in result.err
    assert site.config.read_text() == "in the way"


def test_id_prints_the_card_alone_on_stdout(alpha: Site) -> None:
    """So that it can be piped; the fingerprint is on stderr."""
    result = alpha.run("id")

    card = decode_card(result.out)
    assert result.out.count("\n") == 1
    assert card.name == "alpha"
    assert result.err == f"fingerprint: {fingerprint(card)}\n"


def test_id_before_init(site: Site) -> None:
    """Says which command makes a site."""
    result = site.run("id")

    assert result.code == 2
    assert "chunkq init" in result.err


@pytest.mark.parametrize("command", ["id", "init"])
def test_keys_with_wide_permissions_are_not_used(alpha: Site, command: str) -> None:
    """Whoever else could read them may have done so; the message says what to type."""
    keys = alpha.config / "site.keys"
    keys.chmod(0o640)

    result = alpha.run(command)

    assert (result.code, result.out) == (1, "")
    assert str(keys) in result.err
    assert "chmod" in result.err


def test_two_sites_beside_each_other(tmp_path: Path) -> None:
    """--config-dir and --state-dir are all that tells them apart."""
    cards = []
    for name in ("alpha", "beta"):
        site = Site(tmp_path / name)
        site.run("init", "--name", name)
        cards.append(decode_card(site.run("id").out))

    assert [card.name for card in cards] == ["alpha", "beta"]
    assert cards[0].verify_key != cards[1].verify_key


def test_environment_instead_of_flags(tmp_path: Path) -> None:
    """CHUNKQ_CONFIG_DIR and CHUNKQ_STATE_DIR do the same."""
    environ = {**os.environ, "CHUNKQ_CONFIG_DIR": str(tmp_path / "c"), "CHUNKQ_NAME": "gamma"}
    program = [sys.executable, "-m", "chunkq.cli.main"]
    subprocess.run(
        [*program, "init", "--name", "alpha"], env=environ, check=True, capture_output=True
    )
    card = subprocess.run([*program, "id"], env=environ, check=True, capture_output=True, text=True)

    assert decode_card(card.stdout).name == "gamma"
