"""The units of deploy/systemd as systemd reads them: sound, tight, and about the real program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from chunkq.settings import load

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
HARDENING = UNITS / "chunkq-.service.d" / "10-hardening.conf"
SERVICES = ("chunkq-origin@1.service", "chunkq-requester.service", "chunkq-dashboard.service")
#: In tenths, as `systemd-analyze security` counts: 0 is shut off, 100 may do anything.
MAX_EXPOSURE_TENTHS = 20
INSTALLED = "/opt/chunkq/bin/chunkq"


def run(*command: str, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the program where it is here."""
    here = tmp_path / "units"
    shutil.copytree(UNITS, here)
    for unit in here.glob("*.service"):
        program = str(Path(sys.executable).with_name("chunkq"))
        unit.write_text(unit.read_text().replace(INSTALLED, program))
    return here


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze with these units and no others of the machine."""
    return run("systemd-analyze", *arguments, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"})


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_finds_nothing_wrong(units: Path, service: str) -> None:
    """No unknown directive, no program that is not there, no value out of place."""
    found = analyze(units, "verify", "--man=no", str(units / service))

    assert (0, "") == (found.returncode, found.stderr)


def test_systemd_would_find_what_is_wrong(units: Path) -> None:
    """So that the test above cannot pass without having looked."""
    hardening = units / "chunkq-.service.d" / HARDENING.name
    hardening.write_text(hardening.read_text() + "ProtectSystme=strict\n")
    found = analyze(units, "verify", "--man=no", str(units / SERVICES[0]))

    assert "ProtectSystme" in found.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_units_are_tight(units: Path, service: str) -> None:
    """The drop-in reaches every service, and leaves it little of the host."""
    limit = f"--threshold={MAX_EXPOSURE_TENTHS}"
    found = analyze(units, "security", "--offline=true", "--no-pager", limit, service)

    assert 0 == found.returncode, found.stdout


@pytest.mark.parametrize("service", sorted(path.name for path in UNITS.glob("*.service")))
def test_what_is_started_is_a_command_of_chunkq(units: Path, service: str) -> None:
    """With the arguments that it takes."""
    (line,) = re.findall(r"^ExecStart=(.+)$", (units / service).read_text(), re.MULTILINE)
    found = run(*line.split(), "--help")

    assert 0 == found.returncode, found.stderr


def test_the_environment_is_what_chunkq_reads(tmp_path: Path) -> None:
    """A variable that it does not know would be an error; both directories may be written to."""
    text = HARDENING.read_text()
    (line,) = re.findall(r"^Environment=(.+)$", text, re.MULTILINE)
    environment = dict(word.split("=", 1) for word in line.split())
    directories = load(environ=environment).settings.directories
    (writable,) = re.findall(r"^ReadWritePaths=(.+)$", text, re.MULTILINE)

    assert {str(directories.config), str(directories.state)} == set(writable.split())


def test_all_units_share_the_state() -> None:
    """None has a state of its own, or another user; each is under the drop-in by its name."""
    units = list(UNITS.glob("*.service"))

    assert len(SERVICES) == len(units)
    for unit in units:
        assert unit.name.startswith("chunkq-")
        keys = set(re.findall(r"^(\w+)=", unit.read_text(), re.MULTILINE))
        assert keys.isdisjoint({"User", "DynamicUser", "StateDirectory", "Environment", "Type"})


def test_the_user_and_the_directories_can_be_made(tmp_path: Path) -> None:
    """By systemd's own tools, in a system of their own."""
    root = tmp_path / "root"
    for kind in ("sysusers", "tmpfiles"):
        config = root / "etc" / f"{kind}.d" / "chunkq.conf"
        config.parent.mkdir(parents=True)
        shutil.copy(UNITS / f"chunkq.{kind}", config)
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    users = run(*as_root, "systemd-sysusers", f"--root={root}")
    files = run(*as_root, "systemd-tmpfiles", f"--root={root}", "--create", "chunkq.conf")
    passwd = (root / "etc" / "passwd").read_text().split(":")

    assert (0, 0) == (users.returncode, files.returncode), users.stderr + files.stderr
    assert ("chunkq", "/var/lib/chunkq") == (passwd[0], passwd[5])
    for path, mode in (("etc/chunkq", 0o750), ("var/lib/chunkq", 0o750), ("srv/chunkq", 0o2755)):
        status = (root / path).stat()
        assert (int(passwd[2]), mode) == (status.st_uid, status.st_mode & 0o7777)
