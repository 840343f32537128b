"""A pytest plugin: the whole run with one bug planted.

python -m pytest -p tests.simulation.teeth.plugin --plant NAME tests/storage
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.simulation.teeth.registry import bug_named

_PLANT = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plant", metavar="NAME", help="the name of a planted bug")


def pytest_configure(config: pytest.Config) -> None:
    stack = config.stash[_PLANT] = ExitStack()
    name = config.getoption("--plant")
    if name:
        stack.enter_context(bug_named(name).plant())


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_PLANT].close()
