"""The files of one transfer, their lock and their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chunkq.errors import DestinationUnusable, StateInvalid, TransferBusy
from chunkq.storage.destination import Destination
from chunkq.storage.staging import Staging
from tests.storage.crashes import killed_at_every_step, run_in_child
from tests.storage.samples import OTHER_ID, TRANSFER_ID, a_header, a_state, geometry

HOLDER = """
import sys
from chunkq.storage.destination import Destination
from chunkq.storage.staging import Staging
staging = Staging(Destination.for_file(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def test_it_lies_beside_the_destination_and_is_private(staging: Staging, tmp_path: Path) -> None:
    """Directory 0700, files 0600, whatever the umask was."""
    staging.part.allocate(geometry(1), None)
    directory = tmp_path / "there" / ".chunkq"

    assert 0o700 == directory.stat().st_mode & 0o777
    names = {each.name: each.stat().st_mode & 0o777 for each in directory.iterdir()}
    assert {f"{TRANSFER_ID}.part": 0o600, f"{TRANSFER_ID}.state": 0o600} == names


def test_the_secret_and_the_mailbox_survive(staging: Staging, place: Destination) -> None:
    """A restart finds what its earlier requests were sealed with and where replies go."""
    assert b"e" * 32 == staging.ephemeral
    staging.close()

    again = Staging(place, TRANSFER_ID)

    assert a_header() == again.header
    assert "abc123abc123" == again.instance
    again.close()


def test_a_new_transfer_has_no_secret_yet(place: Destination) -> None:
    """`begin` gives it one."""
    staging = Staging(place, TRANSFER_ID)

    assert staging.ephemeral is None
    assert staging.instance is None
    staging.close()


def test_the_manifest_is_kept_and_replaced(staging: Staging) -> None:
    """The last one counts."""
    assert staging.load_manifest() is None
    for manifest in (b"first" * 1000, b"second", b""):
        staging.save_manifest(manifest)

        assert manifest == staging.load_manifest()


@pytest.mark.parametrize("at", [0, 31, 32, 60])
def test_a_damaged_manifest_is_none(staging: Staging, tmp_path: Path, at: int) -> None:
    """It is asked for again."""
    staging.save_manifest(b"m" * 40)
    path = tmp_path / "there" / ".chunkq" / f"{TRANSFER_ID}.manifest"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)

    assert staging.load_manifest() is None


def test_kill_while_a_manifest_is_saved(place: Destination) -> None:
    """The old or the new one is there, whole; and nothing of it once the transfer is over."""

    def work() -> None:
        staging = Staging(place, TRANSFER_ID)
        staging.save_manifest(b"new" * 100)

    def reset() -> None:
        staging = Staging(place, TRANSFER_ID)
        staging.save_manifest(b"old")
        staging.close()

    def check(step: int) -> None:
        staging = Staging(place, TRANSFER_ID)
        assert staging.load_manifest() in {b"old", b"new" * 100}, step
        staging.remove()
        assert [] == os.listdir(place.path), step

    assert killed_at_every_step(work, check, reset) >= 4


def test_two_processes_on_one_transfer_are_refused(tmp_path: Path, staging: Staging) -> None:
    """The second one is told the path; once the first ended, by kill -9 too, it may go on."""
    staging.close()
    path = tmp_path / "there" / "file.bin"
    command = [sys.executable, "-c", HOLDER, str(path), TRANSFER_ID]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        with pytest.raises(TransferBusy, match=rf"{TRANSFER_ID}\.state"):
            Staging(Destination.for_file(path), TRANSFER_ID)
        Staging(Destination.for_file(path), OTHER_ID).close()
        holder.kill()
        holder.wait()

    Staging(Destination.for_file(path), TRANSFER_ID).close()


def test_a_second_opening_in_one_process_is_refused(staging: Staging, place: Destination) -> None:
    """The lock is of the opening, not of the process."""
    with pytest.raises(TransferBusy):
        Staging(place, TRANSFER_ID)


def test_remove_leaves_nothing(staging: Staging, tmp_path: Path) -> None:
    """The last transfer takes the directory with it; and to say so twice is no error."""
    staging.part.allocate(geometry(1), None)
    staging.save_manifest(b"m")
    staging.state.store(a_state(1))

    staging.remove()
    staging.remove()

    assert [] == list((tmp_path / "there").iterdir())


def test_remove_leaves_the_others(staging: Staging, place: Destination, tmp_path: Path) -> None:
    """Another transfer beside it is not touched."""
    other = Staging(place, OTHER_ID)
    other.begin(a_header())

    staging.remove()

    assert [f"{OTHER_ID}.state"] == os.listdir(tmp_path / "there" / ".chunkq")
    other.close()


def test_kill_while_staging_is_removed(place: Destination) -> None:
    """What is left can be removed by the next run, and the state goes last."""

    def work() -> None:
        Staging(place, TRANSFER_ID).remove()

    def reset() -> None:
        staging = Staging(place, TRANSFER_ID)
        staging.begin(a_header())
        staging.part.allocate(geometry(1), None)
        staging.save_manifest(b"m")
        staging.close()

    def check(step: int) -> None:
        directory = Path(place.path) / ".chunkq"
        names = {each.suffix for each in directory.iterdir()} if directory.exists() else set()
        assert ".state" in names or not names, step
        Staging(place, TRANSFER_ID).remove()
        assert not directory.exists()

    assert killed_at_every_step(work, check, reset) >= 5


def test_many_processes_open_and_remove_at_once(place: Destination) -> None:
    """Directory and file vanish under each other's hands: each gets the lock or is refused."""

    def work() -> None:
        for _ in range(150):
            try:
                staging = Staging(place, TRANSFER_ID)
            except TransferBusy:
                continue
            staging.begin(a_header())
            assert os.path.samestat(
                os.fstat(staging.state._fd),
                os.stat(os.path.join(staging.path, f"{TRANSFER_ID}.state")),
            )
            staging.remove()

    children = [
        subprocess.Popen([sys.executable, "-c", CHURN, place.path, TRANSFER_ID]) for _ in range(3)
    ]
    assert 0 == run_in_child(work)
    assert [0, 0, 0] == [child.wait(60) for child in children]


CHURN = """
import sys
from chunkq.errors import TransferBusy
from chunkq.storage.destination import Destination
from chunkq.storage.staging import Staging
place = Destination.for_tree(sys.argv[1])
for _ in range(150):
    try:
        Staging(place, sys.argv[2]).remove()
    except TransferBusy:
        pass
"""


def test_symlink_in_the_way_of_staging_is_refused(place: Destination, tmp_path: Path) -> None:
    """Somebody put a link where `.chunkq` should be: nothing is written through it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "there" / ".chunkq").symlink_to(elsewhere)

    with pytest.raises(DestinationUnusable, match=r"\.chunkq"):
        Staging(place, TRANSFER_ID)
    assert [] == list(elsewhere.iterdir())


def test_a_state_file_that_is_a_link_or_fifo_is_refused(place: Destination, tmp_path: Path) -> None:
    """Neither followed nor waited for."""
    directory = tmp_path / "there" / ".chunkq"
    directory.mkdir()
    (directory / f"{TRANSFER_ID}.state").symlink_to(tmp_path / "target")

    with pytest.raises(DestinationUnusable):
        Staging(place, TRANSFER_ID)
    (directory / f"{TRANSFER_ID}.state").unlink()
    os.mkfifo(directory / f"{TRANSFER_ID}.state")
    with pytest.raises(DestinationUnusable):
        Staging(place, TRANSFER_ID)
    assert not (tmp_path / "target").exists()


def test_staging_of_another_user_is_refused(
    place: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that all may write to, somebody may have made it in advance."""
    (tmp_path / "there" / ".chunkq").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(DestinationUnusable, match="another user"):
        Staging(place, TRANSFER_ID)


def test_staging_that_is_open_to_others_is_closed(place: Destination, tmp_path: Path) -> None:
    """The secret of the transfer lies there."""
    directory = tmp_path / "there" / ".chunkq"
    directory.mkdir()
    directory.chmod(0o755)

    Staging(place, TRANSFER_ID).close()

    assert 0o700 == directory.stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 33])
def test_only_a_transfer_id_names_files(place: Destination, name: str) -> None:
    """Nothing of a peer's gets into a name here."""
    with pytest.raises(StateInvalid, match="transfer id"):
        Staging(place, name)


def test_no_descriptor_is_left_behind(place: Destination, tmp_path: Path) -> None:
    """Neither by success nor by refusal."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        first = Staging(place, TRANSFER_ID)
        with pytest.raises(TransferBusy):
            Staging(place, TRANSFER_ID)
        first.begin(a_header())
        first.part.allocate(geometry(1), None)
        first.close()

    assert before == len(os.listdir("/proc/self/fd"))
