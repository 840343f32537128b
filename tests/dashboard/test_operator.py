"""A new operator before the page: forty transfers, five troubles, and nothing else to go by.

A private broker, five sites, one worker. What is wrong is read off the page, and mended there where
it can be; then everything that runs is killed, and the page comes back with nothing forgotten.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, expect

from chunkq.storage.jobs import JobState, JobStore
from tests.dashboard.browsing import Served, Tab, tab_of, wait
from tests.killloop.smalldisk import SmallDisk
from tests.support.broker import Broker
from tests.support.pair import Actor

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.rabbitmq,
    pytest.mark.xdist_group("browser"),
]

KIB, MIB = 1 << 10, 1 << 20
#: What each peer is asked for: so many files.
FILES = {"bob": 16, "carol": 8, "dan": 8, "eve": 4, "fay": 4}
#: So slow that a file of `eve` takes longer than the test.
SLOW = '[links.slow]\nurl = "{url}"\nreceive_rate = "1MiB"\n'
#: Enough loops that the silent and the slow hold up nobody; quick to say that nobody answers.
WORKER = '[requester]\nconcurrency = 40\ndisk_floor = "64KiB"\n'


class Scene:
    """`alice` asks: bob is well, carol's worker is stopped, dan has granted nothing, eve's link is
    slow, and what fay sends goes to a disk that is full.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broker = Broker.start(root / "node")
        self.disk = SmallDisk(root / "small", 16 * MIB)
        self.disk.fill(MIB)
        self.inbox = root / "inbox"
        self.inbox.mkdir()
        self.sites = {name: Actor(name, root) for name in ("alice", *FILES)}
        url = self.broker.url(vhost=self.broker.add_vhost())
        for name, site in self.sites.items():
            site.quick("init", "--name", name, "--link", url)
        self.alice = self.sites["alice"]
        with (self.alice.config / "config.toml").open("a") as file:
            file.write(SLOW.format(url=url) + WORKER)
        card = self.alice.quick("id")
        for name in FILES:
            link = "slow" if name == "eve" else "default"
            self.alice.quick("peer", "add", self.sites[name].quick("id"), "--link", link)
            self.sites[name].quick("peer", "add", card)
            self._offer(name)
        # carol's queue exists: she has served before
        worker = self.sites["carol"].start("serve")
        worker.until_said('"serving"')
        worker.end()
        for name in ("bob", "dan", "eve", "fay"):
            self.sites[name].start("serve").until_said('"serving"')
        self.store = JobStore(self.alice.state)
        self.served = Served(self.alice)

    def _offer(self, name: str) -> None:
        offered = self.root / f"files-{name}"
        offered.mkdir()
        for number in range(FILES[name]):
            size = 64 * MIB if name == "eve" else 2 * MIB + number * 100 * KIB
            (offered / f"{name}-{number:02d}.bin").write_bytes(os.urandom(size))
        granted = [] if name == "dan" else ["--to", "alice"]
        self.sites[name].quick("share", "add", "docs", str(offered), *granted)

    def ask(self) -> None:
        """Forty jobs; the disk of some is small."""
        for name, count in FILES.items():
            for number in range(count):
                file = f"{name}-{number:02d}.bin"
                place = (self.disk.path if name == "fay" else self.inbox) / file
                self.alice.quick("get", "--queue", f"{name}:docs/{file}", str(place))

    def work(self) -> None:
        """A worker that sees the small disk."""
        worker = [sys.executable, "-m", "chunkq.cli.main", *self.alice.arguments, "work"]
        self.alice.launch([*self.disk.prefix, *worker])

    def done(self) -> Counter[str]:
        """By peer, how many of its files came."""
        return Counter(job.peer for job in self.store.jobs(JobState.DONE))

    def close(self) -> None:
        self.store.close()
        for site in self.sites.values():
            site.end()
        self.disk.close()
        self.broker.stop()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything runs but carol."""
    made = Scene(tmp_path_factory.mktemp("operator"))
    made.ask()
    made.work()
    made.served.start()
    yield made
    made.close()


def group(tab: Tab, *words: str) -> Locator:
    """The line of the summary that has all these words."""
    found = tab.page.locator("[data-list=groups] li")
    for word in words:
        found = found.filter(has_text=word)
    return found


async def test_each_cause_is_on_the_page_and_what_can_be_is_mended_there(
    scene: Scene, chromium: Browser
) -> None:
    """The summary names the causes; a button, or the advice, ends each."""
    async with tab_of(chromium, scene.served) as tab:
        await tab.open("/transfers")
        await expect(group(tab, "8 stalled", "peer silent at carol")).to_be_visible()
        await expect(group(tab, "8 failed", "not found at dan", "granted")).to_be_visible()
        await expect(group(tab, "4 stalled", "disk full", "Make room")).to_be_visible()
        slow = tab.page.locator("[data-list=transfers] tr").filter(has_text="eve-")
        moving = slow.filter(has=tab.page.locator("[data-c=state]", has_text="running"))
        await expect(moving.locator("[data-c=rate]").first).to_contain_text("KiB/s")
        wait(lambda: scene.done()["bob"] == FILES["bob"])

        scene.sites["carol"].start("serve")
        scene.disk.make_room()
        scene.sites["dan"].quick("grant", "alice", "docs")
        retry = group(tab, "not found at dan").get_by_role("button", name="Retry all")
        await retry.click()
        for name in ("carol", "dan", "fay"):
            wait(lambda: scene.done()[name] == FILES[name])  # noqa: B023
        await expect(group(tab, "carol")).to_have_count(0)
        await expect(group(tab, "dan")).to_have_count(0)
        await expect(group(tab, "disk full")).to_have_count(0)

        await tab.open("/peers")
        eve = tab.page.locator("[data-list=peers] tr").filter(has_text="eve")
        await eve.get_by_role("button", name="Freeze").first.click()
        await tab.open("/transfers?peer=eve")
        states = tab.page.locator("[data-list=transfers] [data-c=reason]")
        await expect(states).to_have_text(["peer frozen"] * FILES["eve"])
        assert tab.complaints == []


async def test_nothing_is_forgotten_when_all_are_killed(scene: Scene, chromium: Browser) -> None:
    """SIGKILL for page, workers and broker: the tab comes back by itself, with the same rows."""
    async with tab_of(chromium, scene.served) as tab:
        await tab.open("/transfers?sort=name&rows=50")
        before = await tab.page.locator("[data-list=transfers] [data-c=name]").all_inner_texts()
        scene.served.kill()
        for site in scene.sites.values():
            site.end()
        scene.broker.kill()
        await expect(tab.page.locator("#pulse-text")).to_contain_text("stale")
        scene.broker.restart()
        scene.sites["eve"].start("serve")
        scene.work()
        scene.served.start()
        await tab.live()

        assert 40 == len(before)
        names = tab.page.locator("[data-list=transfers] [data-c=name]")
        await expect(names).to_have_text(before)
        await tab.open("/peers")
        eve = tab.page.locator("[data-list=peers] tr").filter(has_text="eve")
        await eve.get_by_role("button", name="Thaw").first.click()
        await tab.open("/transfers?peer=eve")
        states = tab.page.locator("[data-list=transfers] [data-c=state]")
        await expect(states.filter(has_text="running").first).to_be_visible()
        await tab.open("/history")
        await expect(tab.page.locator("main")).to_contain_text("dan-07.bin")
