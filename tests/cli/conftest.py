"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site
from tests.support.pair import Pair


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site of which nothing exists yet."""
    return Site(tmp_path / "site")


@pytest.fixture
def alpha(site: Site) -> Site:
    """A site that was set up with the name alpha."""
    assert site.run("init", "--name", "alpha").code == 0
    return site


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two sites; nothing runs yet."""
    made = Pair(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two sites, bob serving; one for all tests of a file, each with names of its own."""
    made = Pair(tmp_path_factory.mktemp("served"))
    made.serve()
    yield made
    made.close()
