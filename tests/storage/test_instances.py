"""Mailbox labels: one process each, and the same again after a restart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.storage.instances import Instance, claim_instance

HOLDER = """
import sys
from chunkq.storage.instances import claim_instance
instance = claim_instance(sys.argv[1])
print(instance.label, flush=True)
sys.stdin.read()
"""


def test_a_label_fits_a_mailbox(tmp_path: Path) -> None:
    """Twelve of a-z and 0-9."""
    with claim_instance(tmp_path) as instance:
        assert re.fullmatch("[a-z0-9]{12}", instance.label)
    assert [instance.label] == os.listdir(tmp_path / "instances")


def test_labels_come_from_entropy(tmp_path: Path) -> None:
    """All of it counts, and nothing else."""
    labels = set()
    for number in range(50):
        with claim_instance(
            tmp_path / str(number), entropy=lambda size, n=number: bytes([n]) * size
        ) as instance:
            labels.add(instance.label)

    assert 50 == len(labels)


def test_a_restarted_requester_takes_up_its_label(tmp_path: Path) -> None:
    """What was sent to it meanwhile waits there."""
    with claim_instance(tmp_path) as first:
        pass
    with claim_instance(tmp_path) as again:
        assert first.label == again.label


def test_requesters_at_once_have_different_labels(tmp_path: Path) -> None:
    """And together no more than there are requesters."""
    held = [claim_instance(tmp_path) for _ in range(4)]
    labels = {each.label for each in held}
    assert 4 == len(labels)
    for each in held:
        each.close()

    again = [claim_instance(tmp_path) for _ in range(4)]

    assert labels == {each.label for each in again}
    for each in again:
        each.close()


def test_the_preferred_label_is_taken_if_it_is_free(tmp_path: Path) -> None:
    """A transfer's earlier requests named it; a strange one is not made a file of."""
    held = [claim_instance(tmp_path) for _ in range(3)]
    wanted = max(each.label for each in held)
    assert wanted != claim_and_close(tmp_path, wanted)
    for each in held:
        each.close()

    assert wanted == claim_and_close(tmp_path, wanted)
    assert "new0new0new0" == claim_and_close(tmp_path, "new0new0new0")
    for strange in ("../../../x", "UPPERCASE123", "short", ""):
        assert strange != claim_and_close(tmp_path, strange)
    assert [] == list(tmp_path.glob("x"))


def claim_and_close(path: Path, prefer: str) -> str:
    instance: Instance = claim_instance(path, prefer)
    instance.close()
    return instance.label


def test_a_killed_requester_lets_go(tmp_path: Path) -> None:
    """Its label is the next one's."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        label = holder.stdout.readline().strip()
        with claim_instance(tmp_path) as other:
            assert label != other.label
        holder.kill()
        holder.wait()

    with claim_instance(tmp_path, label) as instance:
        assert label == instance.label


def test_labels_that_are_all_in_use_are_said(tmp_path: Path) -> None:
    """Entropy that always says the same cannot go on for ever."""
    with claim_instance(tmp_path, entropy=bytes), pytest.raises(StorageError, match="no free"):
        claim_instance(tmp_path, entropy=bytes)
