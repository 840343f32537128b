"""Directories where transfers are under way are remembered, and forgotten in the end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chunkq.storage.places import DEBRIS_AGE_S, FORGET_AFTER_S, NEW_PER_PRUNE, Places


def directory(root: Path, name: str, *, staging: bool) -> Path:
    made = root / name
    (made / ".chunkq" if staging else made).mkdir(parents=True)
    return made


def test_those_with_staging_are_told(tmp_path: Path) -> None:
    """Again and again remembered, they are told once; those where nothing is staged are not."""
    places = Places(tmp_path / "state")
    assert [] == places.all()
    busy = directory(tmp_path, "busy", staging=True)
    for each in (busy, directory(tmp_path, "idle", staging=False), tmp_path / "gone", busy):
        places.remember(each)

    assert [str(busy)] == places.all()


def test_what_is_over_is_forgotten_after_a_month(tmp_path: Path) -> None:
    """Not what has staging, was used since, or is not old enough."""
    began_s = now_s = time.time()
    state = tmp_path / "state"
    places = Places(state, wall_s=lambda: now_s)
    busy = directory(tmp_path, "busy", staging=True)
    for name in ("over", "used"):
        places.remember(directory(tmp_path, name, staging=False))
    places.remember(busy)
    now_s = began_s + FORGET_AFTER_S / 2
    places.remember(tmp_path / "used")
    now_s = began_s + FORGET_AFTER_S + 60

    Places(state, wall_s=lambda: now_s).remember(tmp_path / "new")

    named = {(state / "places" / name).read_text() for name in os.listdir(state / "places")}
    assert {str(tmp_path / name) for name in ("busy", "used", "new")} == named


def test_what_is_half_written_goes(tmp_path: Path) -> None:
    """An hour later, with one of the next directories; it is never told."""
    now_s = time.time()
    places = Places(tmp_path, wall_s=lambda: now_s)
    places.remember(tmp_path / "first")
    half = tmp_path / "places" / "00.tmp7-7"
    half.write_bytes(b"/half")
    assert [] == places.all()

    now_s += DEBRIS_AGE_S + 60
    for number in range(NEW_PER_PRUNE):
        places.remember(tmp_path / str(number))

    assert not half.exists()
