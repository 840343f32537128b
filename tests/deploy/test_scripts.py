"""The shell scripts of deploy/ and of the build: linted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
SCRIPTS = sorted(
    path
    for directory in ("deploy", ".ci")
    for path in (ROOT / directory).rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
)


def test_the_scripts_are_clean() -> None:
    """Nothing that shellcheck knows to be a mistake, down to its hints; for any POSIX shell."""
    command = [SHELLCHECK, "--shell=sh", "--norc", *map(str, SCRIPTS)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (found.returncode, found.stdout)
    assert len(SCRIPTS) >= 7


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_can_be_run(script: Path) -> None:
    """By their names."""
    assert script.stat().st_mode & 0o111
