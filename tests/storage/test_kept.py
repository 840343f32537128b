"""Manifests of received files: whole or absent, and no more of them than there is room for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from chunkq.errors import Malformed, StorageError
from chunkq.protocol import cbor
from chunkq.storage.kept import KeptManifests
from tests.storage.crashes import FailingCall, killed_at_every_step
from tests.storage.manifests import KEYS, PAGE, Signed, signed

#: Two pages: 512 chunks, and three.
TWO_PAGES = signed(os.urandom(515 * 4096 - 1))
OTHER = signed(os.urandom(515 * 4096 - 1))


def keep(store: KeptManifests, path: str, each: Signed, pages: tuple[int, ...] = (0, 1)) -> None:
    for page in pages:
        store.add_page(path, each.head, page, each.page(page))
    store.keep(path, each.head, cbor.encode(each.reply), KEYS.verify_key)


def test_kept_and_found_again(tmp_path: Path) -> None:
    """Head, mode, time and leaves; under the path and version only."""
    keep(KeptManifests(tmp_path), "/a/b", TWO_PAGES)

    found = KeptManifests(tmp_path).load("/a/b", TWO_PAGES.head.root)

    assert found is not None
    assert (TWO_PAGES.head, TWO_PAGES.reply) == (found.head, found.manifest)
    assert [TWO_PAGES.page(0), TWO_PAGES.page(1)] == [found.page(0), found.page(1)]
    assert KeptManifests(tmp_path).load("/a/b", OTHER.head.root) is None
    assert KeptManifests(tmp_path).load("/a/c", TWO_PAGES.head.root) is None


def test_pages_that_never_came(tmp_path: Path) -> None:
    """They are absent; the others are there."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES, (1,))

    found = store.load("/f", TWO_PAGES.head.root)

    assert found is not None
    assert [None, TWO_PAGES.page(1)] == [found.page(0), found.page(1)]


def test_pages_of_an_earlier_run_stay(tmp_path: Path) -> None:
    """A transfer that goes on in another process gets the first pages no second time."""
    KeptManifests(tmp_path).add_page("/f", TWO_PAGES.head, 0, TWO_PAGES.page(0))
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES, (1,))

    found = store.load("/f", TWO_PAGES.head.root)

    assert found is not None
    assert TWO_PAGES.page(0) == found.page(0)


def test_a_page_that_is_not_of_the_head(tmp_path: Path) -> None:
    """It is refused before anything is written."""
    with pytest.raises(Malformed):
        KeptManifests(tmp_path).add_page("/f", TWO_PAGES.head, 0, OTHER.page(0))

    assert [] == list(tmp_path.iterdir())


def test_a_version_that_was_fetched_in_part_spoils_nothing(tmp_path: Path) -> None:
    """Its pages are in the way of none that is right."""
    store = KeptManifests(tmp_path)
    store.add_page("/f", OTHER.head, 0, OTHER.page(0))
    keep(store, "/f", TWO_PAGES, (1,))

    found = store.load("/f", TWO_PAGES.head.root)

    assert found is not None
    assert [None, TWO_PAGES.page(1)] == [found.page(0), found.page(1)]


def test_told_twice(tmp_path: Path) -> None:
    """After a crash the same file is published again: what is kept stays whole."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES)
    keep(store, "/f", TWO_PAGES, ())

    found = store.load("/f", TWO_PAGES.head.root)

    assert found is not None
    assert TWO_PAGES.page(0) == found.page(0)


@pytest.mark.parametrize("at", [PAGE + 96 + 5, -1, -40, -46])
def test_damage(tmp_path: Path, at: int) -> None:
    """Any flipped bit behind the leaves makes it absent, whatever it is in."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES)
    (path,) = (tmp_path / "kept").iterdir()
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)

    assert store.load("/f", TWO_PAGES.head.root) is None


@pytest.mark.parametrize("size", [0, 1, 43, 44, PAGE, 20000])
def test_cut_short(tmp_path: Path, size: int) -> None:
    """As after a power cut before it was durable."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES)
    (path,) = (tmp_path / "kept").iterdir()
    assert path.stat().st_size > 16500
    os.truncate(path, min(size, path.stat().st_size - 1))

    assert store.load("/f", TWO_PAGES.head.root) is None


def test_the_store_is_bounded(tmp_path: Path) -> None:
    """What was not used for longest goes first, unfinished ones as well."""
    store = KeptManifests(tmp_path, limit_bytes=3 * 17000)
    for number in range(5):
        keep(store, f"/{number}", TWO_PAGES)
    store.add_page("/new", TWO_PAGES.head, 0, TWO_PAGES.page(0))
    for age, path in enumerate(sorted((tmp_path / "kept").iterdir(), key=os.path.getmtime)):
        os.utime(path, (age, age))
    assert store.load("/0", TWO_PAGES.head.root) is not None  # used now
    store.prune()

    left = [n for n in range(5) if store.load(f"/{n}", TWO_PAGES.head.root)]
    assert 0 in left
    assert sum(path.stat().st_size for path in (tmp_path / "kept").iterdir()) <= 3 * 17000


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Either version is there whole, never a mixture, and the next time it is the new one."""
    store = KeptManifests(tmp_path)

    def reset() -> None:
        store.forget("/f")
        keep(store, "/f", TWO_PAGES)

    def check(step: int) -> None:
        old, new = (store.load("/f", each.head.root) for each in (TWO_PAGES, OTHER))
        assert (old is None) != (new is None), step
        keep(store, "/f", OTHER)
        found = store.load("/f", OTHER.head.root)
        assert found is not None
        assert [OTHER.page(0), OTHER.page(1)] == [found.page(0), found.page(1)]

    assert killed_at_every_step(lambda: keep(store, "/f", OTHER), check, reset) >= 5


def test_not_kept_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not take it: the version before is still the one that is kept."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES)
    with monkeypatch.context() as patch:
        FailingCall(patch, "fsync", errno.EIO)
        with pytest.raises(StorageError):
            keep(store, "/f", OTHER)

    assert store.load("/f", TWO_PAGES.head.root) is not None


def test_forgotten(tmp_path: Path) -> None:
    """Nothing is left of a path, and of no other one."""
    store = KeptManifests(tmp_path)
    keep(store, "/f", TWO_PAGES)
    keep(store, "/g", TWO_PAGES)
    store.forget("/f")

    assert store.load("/f", TWO_PAGES.head.root) is None
    assert store.load("/g", TWO_PAGES.head.root) is not None
