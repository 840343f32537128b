"""`chunkq config show` and `chunkq doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkq.cli.checks import check_clock
from tests.cli.site import Site, make_card
from tests.support.quick import Done


def findings(result: Done) -> dict[str, tuple[str, str, str]]:
    """subject → status, text, mend"""
    return {
        each["subject"]: (each["status"], each["text"], each["mend"]) for each in result.objects
    }


# ---------------------------------------------------------------- config show


def test_config_show_names_the_source_of_every_value(alpha: Site) -> None:
    """Flag, environment, file with line, default."""
    environ = {"CHUNKQ_REQUESTER_PATIENCE": "10m"}

    shown = alpha.spawn("config", "show", "--json", **environ).objects
    sources = {each["key"]: (each["value"], each["source"], each["place"]) for each in shown}

    assert sources["config_dir"] == (str(alpha.config), "flag", "--config-dir")
    assert sources["requester.patience"] == ("10m", "environment", "CHUNKQ_REQUESTER_PATIENCE")
    line = alpha.config_file.read_text().splitlines().index('name = "alpha"') + 1
    assert sources["name"] == ("alpha", "file", f"{alpha.config_file}:{line}")
    assert sources["log.level"] == ("info", "default", "")


def test_config_show_for_people(alpha: Site) -> None:
    """Three columns."""
    lines = [line.split() for line in alpha.run("config", "show").out.splitlines()]

    assert lines[0] == ["KEY", "VALUE", "FROM"]
    assert ["log.paths", "false", "default"] in lines


def test_verbose_and_quiet_are_flags_for_the_log(alpha: Site) -> None:
    """-v and -q win over the file."""
    levels = {
        flag: next(
            each["value"]
            for each in alpha.run(flag, "config", "show", "--json").objects
            if each["key"] == "log.level"
        )
        for flag in ("-v", "-q")
    }

    assert levels == {"-v": "debug", "-q": "error"}


@pytest.mark.parametrize("command", [["config", "show"], ["id"], ["peer", "ls"], ["share", "ls"]])
def test_a_config_with_a_typo_names_the_key_and_the_nearest(
    alpha: Site, command: list[str]
) -> None:
    """Whatever the command: exit 2, file and line, and no traceback."""
    with alpha.config_file.open("a") as file:
        file.write("\n[requester]\npatiense = 3\n")
    line = len(alpha.config_file.read_text().splitlines())

    result = alpha.run(*command)

    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"error: {alpha.config_file}:{line}: unknown key requester.patiense\n"
        "hint: did you mean requester.patience?\n"
    )


def test_an_unknown_variable_is_an_error(alpha: Site) -> None:
    """A misspelt CHUNKQ_ variable would have no effect in silence."""
    result = alpha.spawn("peer", "ls", CHUNKQ_LOG_LEVL="debug")

    assert result.code == 2
    assert "did you mean CHUNKQ_LOG_LEVEL" in result.err


# ---------------------------------------------------------------- doctor


def test_doctor_of_a_healthy_site(alpha: Site) -> None:
    """Nothing fails, a packet of the largest size went through the spool, exit 0."""
    result = alpha.run("doctor", "--json")

    found = findings(result)
    assert [subject for subject, (status, _, _) in found.items() if status == "fail"] == []
    assert result.code == 0
    assert found["link default"][0] == "ok"
    assert found["keys"][1].startswith("alpha, fingerprint ")
    assert {"python", "libraries", "cipher", "config_dir", "state_dir", "clock", "disk"} <= set(
        found
    )


def test_doctor_twice(alpha: Site) -> None:
    """What a first run left in its mailbox does not disturb the second."""
    assert [alpha.run("doctor").code for _ in range(2)] == [0, 0]


def test_doctor_for_people_says_how_to_mend(alpha: Site) -> None:
    """One line a subject, and one below that says what to type."""
    (alpha.config / "site.keys").chmod(0o644)

    result = alpha.run("doctor")

    lines = result.out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL  keys: ")]
    assert lines[at + 1].startswith("      mend: chmod")
    assert result.code == 1


def test_doctor_before_init(site: Site) -> None:
    """Says what is missing, in lines, and exits 1."""
    result = site.run("doctor", "--json")

    assert result.code == 1
    assert findings(result)["config"][2] == "chunkq init"
    assert findings(result)["keys"][0] == "fail"


def test_doctor_with_a_typo_in_the_configuration(alpha: Site) -> None:
    """It is a finding like any other, not the end of the report."""
    alpha.config_file.write_text('nmae = "alpha"\n')

    result = alpha.run("doctor", "--json")

    assert result.code == 1
    assert findings(result)["config"] == (
        "fail",
        f"{alpha.config_file}:1: unknown key nmae",
        "did you mean name?",
    )


def test_doctor_finds_a_password_that_others_can_read(alpha: Site) -> None:
    """The configuration holds it, so it must be 0600."""
    alpha.config_file.write_text(
        'name = "alpha"\n[links.broker]\nurl = "amqp://alpha:s3cret@127.0.0.1:1/"\n'
    )
    alpha.config_file.chmod(0o644)

    result = alpha.run("doctor", "--json")

    status, _, mend = findings(result)["config"]
    assert (status, mend) == ("fail", f"chmod 600 {alpha.config_file}")
    assert "s3cret" not in result.out


def test_doctor_where_only_the_broker_is_away(alpha: Site) -> None:
    """Exit 5: nothing to mend here, try again."""
    alpha.config_file.write_text(
        'name = "alpha"\n[links.default]\nurl = "amqp://alpha:x@127.0.0.1:1/"\n'
    )
    alpha.config_file.chmod(0o600)

    result = alpha.run("doctor", "--json")

    assert findings(result)["link default"][0] == "fail"
    assert result.code == 5


def test_doctor_finds_a_spool_that_cannot_be_written(alpha: Site, tmp_path: Path) -> None:
    """A file stands where the spool should be."""
    (tmp_path / "spool").write_text("in the way")
    alpha.config_file.write_text(
        f'name = "alpha"\n[links.default]\nurl = "spool://{tmp_path}/spool"\n'
    )

    result = alpha.run("doctor", "--json")

    assert result.code in (1, 5)
    assert findings(result)["link default"][0] == "fail"


def test_doctor_finds_what_does_not_fit_together(alpha: Site, tmp_path: Path) -> None:
    """A peer on a link that is gone, a share whose directory is gone, a grant to a stranger."""
    shared = tmp_path / "docs"
    shared.mkdir()
    alpha.run("peer", "add", make_card("beta"))
    alpha.run("share", "add", "docs", str(shared), "--to", "beta")
    peer = alpha.config / "peers" / "beta.toml"
    peer.write_text(peer.read_text().replace('link = "default"', 'link = "gone"'))
    share = alpha.config / "shares" / "docs.toml"
    share.write_text(share.read_text().replace("beta", "zulu"))
    shared.rmdir()

    found = [
        (each["subject"], each["status"])
        for each in alpha.run("doctor", "--json").objects
        if each["subject"].startswith(("peer ", "share "))
    ]

    assert found == [("peer beta", "fail"), ("share docs", "fail"), ("share docs", "warn")]


def test_doctor_finds_a_directory_that_others_can_write(alpha: Site) -> None:
    """Whoever can write there can pin a peer."""
    alpha.config.chmod(0o777)

    status, _, mend = findings(alpha.run("doctor", "--json"))["config_dir"]

    assert (status, mend) == ("fail", f"chmod go-w {alpha.config}")


def test_the_clock_is_wrong_before_chunkq_was_written(tmp_path: Path) -> None:
    """A machine without a battery begins in 1970."""
    (finding,) = check_clock(0.0, tmp_path / "none")

    assert (finding.status, "1970-01-01" in finding.text) == ("fail", True)


def test_the_clock_is_wrong_before_the_configuration_was_written(tmp_path: Path) -> None:
    """Time does not go back."""
    written = tmp_path / "config.toml"
    written.touch()
    os.utime(written, (1_800_000_000, 1_800_000_000))

    (finding,) = check_clock(1_799_000_000.0, written)

    assert finding.status == "fail"
    assert str(written) in finding.text
