"""Fixtures of the page's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.api.operating import Operated
from tests.dashboard.application import Visitor, visited


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """The site `alice`, who knows `bob` and `carol`; nothing runs. One for all tests of a file."""
    made = Operated(tmp_path_factory.mktemp("operated"))
    yield made
    made.close()


@pytest_asyncio.fixture
async def visitor(operated: Operated) -> AsyncIterator[Visitor]:
    """Somebody at the page of `alice`, not logged in."""
    operated.refresh()
    async with visited(operated.operations) as found:
        yield found
