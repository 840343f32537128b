"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.site import Site


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """A site of which nothing exists yet."""
    return Site(tmp_path / "site", capsys)


@pytest.fixture
def alpha(site: Site) -> Site:
    """A site that was set up with the name alpha."""
    assert site.run("init", "--name", "alpha").code == 0
    return site
