"""Fixtures of the page's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.api.operating import Operated
from tests.dashboard.application import Visitor, visited
from tests.dashboard.browsing import ARGUMENTS, CHROMIUM, Served, Tab, tab_of
from tests.dashboard.scene import Scene, forty


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, one for all tests; fails, and never skips, where it is not installed."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Forty transfers in every state, and processes that tell of them."""
    made = Scene(tmp_path_factory.mktemp("scene"))
    forty(made)
    made.keep_saying()
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(scene: Scene) -> Served:
    """`chunkq dashboard` at that site, as a process."""
    made = Served(scene.actor)
    made.start()
    return made


@pytest_asyncio.fixture(loop_scope="session")
async def tab(chromium: Browser, served: Served) -> AsyncIterator[Tab]:
    """A tab that is logged in, and must not have complained when the test is over."""
    async with tab_of(chromium, served) as found:
        yield found
    assert found.complaints == []
