"""`chunkq demo`: what a newcomer sees first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 20.0


def demo(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chunkq.cli.main", "demo", *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TMPDIR": str(directory)},
    )


def check_story(done: subprocess.CompletedProcess[str], said: str = "") -> None:
    """Killed half way, resumed from there, identical at the end."""
    assert (0, said) == (done.returncode, done.stderr)
    killed = re.search(r"kill -9 with (\d+)% committed", done.stdout)
    resumed = re.search(r"resuming at (\d+)% \((\d+) of 256 chunks\)", done.stdout)
    assert killed
    assert resumed
    assert 50 <= int(killed[1]) <= int(resumed[1]) < 100
    digests = re.findall(r"blake3 ([0-9a-f]{64})", done.stdout)
    assert 2 == len(digests)
    assert digests[0] == digests[1]
    assert "Identical" in done.stdout


def test_the_demo(tmp_path: Path) -> None:
    """In under 20 s; with --keep both sites, the spool and the file stay to be looked at."""
    began = time.monotonic()

    done = demo(tmp_path, "--keep")

    assert time.monotonic() - began < LIMIT_S
    (kept,) = tmp_path.iterdir()
    check_story(done, f"kept: {kept}\n")
    assert {"alice", "bob", "files", "inbox", "spool"} == {each.name for each in kept.iterdir()}
    assert 64 << 20 == (kept / "inbox" / "holiday.mov").stat().st_size


@pytest.mark.rabbitmq
def test_the_demo_over_rabbitmq(tmp_path: Path, amqp_url: str) -> None:
    """The same story with a broker in between; nothing is left."""
    check_story(demo(tmp_path, "--amqp", amqp_url))

    assert [] == list(tmp_path.iterdir())


def test_the_demo_without_a_broker(tmp_path: Path) -> None:
    """Says what is wrong, ends with the exit code of that, leaves nothing."""
    done = demo(tmp_path, "--amqp", "amqp://guest:guest@127.0.0.1:1/")

    assert done.returncode == 5
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert [] == list(tmp_path.iterdir())
