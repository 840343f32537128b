"""Two sites of real processes, seen from the page alone: stuck, killed, mended, done."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, expect

from tests.dashboard.browsing import Served, tab_of
from tests.support.pair import Pair

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """alice, whose page it is, and bob, who offers files; nothing runs yet."""
    made = Pair(tmp_path_factory.mktemp("whole"))
    yield made
    made.close()


async def test_a_transfer_through_kills_to_its_end(chromium: Browser, pair: Pair) -> None:
    """No worker, a worker, SIGKILL of it and of the page, another worker: each seen, then done."""
    pair.offer("film.mov", bytes(range(256)) * 4096 * 24)
    origin = pair.serve()
    origin.send(signal.SIGSTOP)
    pair.alice.quick("get", "--queue", "bob:docs/film.mov", str(pair.inbox))
    served = Served(pair.alice)
    served.start()
    async with tab_of(chromium, served) as tab:
        await tab.open("/transfers")
        groups = tab.page.locator(".groups")
        state = tab.page.locator("[data-list=transfers] [data-c=state]")
        await expect(groups).to_contain_text("no worker")
        worker = pair.alice.start("work")
        await expect(groups).not_to_contain_text("no worker")
        await expect(state).to_have_text("opening")
        worker.end()
        await expect(groups).to_contain_text("1 queued: no worker")
        served.kill()
        await expect(tab.page.locator("#stale")).to_be_visible()
        served.start()
        await tab.live()
        await expect(groups).to_contain_text("1 queued: no worker")
        origin.send(signal.SIGCONT)
        again = pair.alice.start("work")
        await expect(state).to_have_text("done")
        await expect(tab.page.locator("[data-v=stuck]")).to_have_text("0")
        await tab.open("/history")
        await expect(tab.page.locator("[data-list=history]")).to_contain_text("film.mov")
        await tab.open("/workers")
        line = tab.page.locator("[data-list=workers] tr").filter(has_text="ready")
        await line.get_by_role("button", name="Drain").click()

        assert 0 == again.wait().code
        assert (pair.files / "film.mov").read_bytes() == (pair.inbox / "film.mov").read_bytes()
