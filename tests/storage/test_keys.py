"""Secret keys on disk: private, whole, never replaced."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkq.errors import DiskFull, IdentityError, StorageError
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.succession import Reason
from chunkq.storage.keys import KeyFile, change_ring, load_keys, load_ring, save_keys
from tests.storage.crashes import FailingCall, killed_at_every_step

KEYS = SiteKeys(bytes(range(32)), bytes(range(100, 132)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "chunkq" / "keys"


def test_keys_come_back(path: Path) -> None:
    """From a file 0600 in a directory 0700, both made."""
    save_keys(path, KEYS)

    assert KEYS == load_keys(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert 0o700 == path.parent.stat().st_mode & 0o777
    assert [path] == list(path.parent.iterdir())


def test_keys_are_never_replaced(path: Path) -> None:
    """A second `init` must not end an identity."""
    save_keys(path, KEYS)

    with pytest.raises(IdentityError, match="left as it is"):
        save_keys(path, SiteKeys(b"n" * 32, b"m" * 32))
    assert KEYS == load_keys(path)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_wide_key_permissions_are_refused(path: Path, mode: int) -> None:
    """With the line that mends it."""
    save_keys(path, KEYS)
    path.chmod(mode)

    with pytest.raises(IdentityError, match=f"mode {mode:o}") as caught:
        load_keys(path)
    assert f"chmod 600 {path}" == caught.value.hint


def test_a_wide_directory_is_refused(path: Path) -> None:
    """Whoever may write there may put other keys in place."""
    save_keys(path, KEYS)
    path.parent.chmod(0o755)

    with pytest.raises(IdentityError) as caught:
        load_keys(path)
    assert f"chmod 700 {path.parent}" == caught.value.hint
    path.unlink()
    with pytest.raises(IdentityError):
        save_keys(path, KEYS)
    assert not path.exists()


def test_keys_of_another_owner_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if they can be read."""
    save_keys(path, KEYS)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(IdentityError, match=f"belongs to uid {owner}"):
        load_keys(path)


def test_missing_keys_say_how_to_make_them(path: Path) -> None:
    """The first thing that anybody sees."""
    with pytest.raises(IdentityError) as caught:
        load_keys(path)
    assert "chunkq init" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_keys_that_are_no_plain_file_are_refused(path: Path, kind: str) -> None:
    """A link may lead to anywhere, a FIFO would hold the start."""
    save_keys(path, KEYS)
    path.rename(path.with_name("other"))
    if kind == "link":
        path.symlink_to("other")
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(0o700)

    with pytest.raises(IdentityError, match="keys"):
        load_keys(path)


def test_truncated_or_changed_keys_are_refused(path: Path) -> None:
    """At every length and with every byte changed: another key would be another identity."""
    save_keys(path, KEYS)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole) - 1)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for at in range(len(whole))
        if whole[at : at + 1].strip()
    ]

    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(IdentityError, match="damaged"):
            load_keys(path)
    path.write_bytes(whole)
    assert KEYS == load_keys(path)


def test_a_large_file_is_not_read_whole(path: Path) -> None:
    """It is some other file."""
    save_keys(path, KEYS)
    os.truncate(path, 1 << 40)

    with pytest.raises(IdentityError, match="damaged"):
        load_keys(path)


def test_kill_while_keys_are_saved(path: Path) -> None:
    """There are whole keys or none, and `init` can be run again."""

    def reset() -> None:
        if path.parent.exists():
            for each in path.parent.iterdir():
                each.unlink()

    def check(step: int) -> None:
        if not path.exists():
            save_keys(path, KEYS)
        assert KEYS == load_keys(path), step

    assert killed_at_every_step(lambda: save_keys(path, KEYS), check, reset) >= 4


# ---------------------------------------------------------------- keys that change

NOW_MS = 1_700_000_000_000
NEW = SiteKeys(b"n" * 32, b"m" * 32)


def rotate(ring: KeyRing) -> KeyRing:
    entropy = iter((NEW.signing_seed, NEW.exchange_secret))
    return ring.rotate("alice", lambda _: next(entropy), NOW_MS)


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_changed_keys_are_as_private_as_new_ones(path: Path) -> None:
    """The old ones stay with them; nothing else is left in the directory."""
    save_keys(path, KEYS)
    before, after = change_ring(path, rotate)

    assert (KeyRing(keys=KEYS), NEW) == (before, after.keys)
    assert after == load_ring(path)
    assert KEYS == load_ring(path).holder(KEYS.site_id, NOW_MS)
    assert NEW == load_keys(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert ["keys"] == names(path)


def test_kill_at_every_step_of_a_change_of_keys(path: Path) -> None:
    """There are the old keys alone, or the new ones with the succession; never a mixture.

    What a killed process left beside them holds secrets: the next change removes it.
    """

    def reset() -> None:
        if path.parent.exists():
            for each in path.parent.iterdir():
                each.unlink()
        save_keys(path, KEYS)

    seen = set()

    def check(step: int) -> None:
        ring = load_ring(path)
        assert ring in (KeyRing(keys=KEYS), rotate(KeyRing(keys=KEYS))), step
        assert all(0o600 == each.stat().st_mode & 0o777 for each in path.parent.iterdir())
        seen.add(ring.site_id)
        change_ring(path, lambda ring: ring.revoke("alice", Reason.RETIRED, NOW_MS + 1))
        assert ["keys"] == names(path), step

    assert killed_at_every_step(lambda: change_ring(path, rotate) and None, check, reset) >= 3
    assert {KEYS.site_id, NEW.site_id} == seen


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("pwritev", errno.ENOSPC, DiskFull),
        ("fsync", errno.EIO, StorageError),
        ("rename", errno.EIO, StorageError),
    ],
)
def test_a_disk_that_fails_leaves_the_old_keys(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    error: type[Exception],
) -> None:
    """And says so: no peer has been told by then."""
    save_keys(path, KEYS)
    FailingCall(monkeypatch, call, number)

    with pytest.raises(error):
        change_ring(path, rotate)
    monkeypatch.undo()
    assert KeyRing(keys=KEYS) == load_ring(path)
    assert ["keys"] == names(path)


def test_two_changes_at_once_are_one_after_the_other(path: Path) -> None:
    """Else one of two successions would be lost, which a peer may have followed."""
    save_keys(path, KEYS)

    def change(number: int) -> None:
        change_ring(path, lambda ring: ring.rotate("alice", os.urandom, NOW_MS + number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    ring = load_ring(path)
    assert ring.succession is not None

    assert 8 == len(ring.succession.links) == len(ring.retired)
    assert card_of(KEYS, "alice") == ring.succession.links[0].old


def test_a_running_process_sees_changed_keys(path: Path) -> None:
    """At its next look; while the file cannot be read, it goes on with what it has."""
    save_keys(path, KEYS)
    live = KeyFile(path)
    change_ring(path, rotate)
    assert KEYS == live.ring.keys

    live.refresh()
    assert NEW == live.ring.keys
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    with pytest.raises(IdentityError):
        live.refresh()
    assert NEW == live.ring.keys
    path.chmod(0o600)
    path.write_bytes(content)
    live.refresh()
    assert NEW == live.ring.keys


def test_keys_that_are_missing_cannot_be_changed(path: Path) -> None:
    """With the line that makes them."""
    with pytest.raises(IdentityError) as caught:
        change_ring(path, rotate)
    assert "chunkq init" in (caught.value.hint or "")
