"""A real Chromium at a real `chunkq dashboard`; whatever the page complains of fails the test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import axe_playwright_python
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from tests.support.pair import Actor, Running, until

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # a container's root may not make the sandbox's namespaces
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
#: The machine may be busy with other tests.
DEADLINE_MS: Final = 30_000
DESK: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}
AXE: Final = Path(axe_playwright_python.__file__).with_name("axe.min.js")

expect.set_options(timeout=DEADLINE_MS)


@dataclass(slots=True)
class Served:
    """`chunkq dashboard` of a site as a process, which can be killed and started again."""

    actor: Actor
    port: int = 0
    running: Running | None = None
    state: Any = None
    login: str = ""

    def start(self) -> None:
        """Serve, on the port of the last time."""
        self.running = self.actor.start("dashboard", "--listen", f"127.0.0.1:{self.port}")
        self.running.until_said("/login?once=")
        self.login = self.running.out.split()[0]
        self.port = urlsplit(self.login).port or 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        assert self.running is not None
        self.running.end()


@dataclass(slots=True)
class Tab:
    """One page, and what it complained of."""

    page: Page
    served: Served
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Go there, and wait until its stream has spoken."""
        answer = await self.page.goto(f"{self.served.address}{path}")
        assert answer is not None
        assert answer.ok, await answer.text()
        await self.live()

    async def live(self) -> None:
        await expect(self.page.locator("#pulse-text")).to_have_text("live")

    async def fits(self) -> bool:
        """Whether nothing sticks out to the right."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    async def accessibility(self) -> list[str]:
        """What axe finds wrong, each with the element."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]


async def context_of(browser: Browser, served: Served, **options: Any) -> BrowserContext:
    """A browser's profile that is logged in."""
    given = {"viewport": DESK, "storage_state": served.state, **options}
    context = await browser.new_context(**given)
    context.set_default_timeout(DEADLINE_MS)
    if served.state is None:
        page = await context.new_page()
        await page.goto(served.login)
        assert urlsplit(page.url).path == "/transfers"
        await page.close()
        served.state = await context.storage_state()
    return context


@asynccontextmanager
async def tab_of(browser: Browser, served: Served, **options: Any) -> AsyncIterator[Tab]:
    """A tab that must not complain: no error, no refused script or style, no failed request."""
    context = await context_of(browser, served, **options)
    tab = Tab(await context.new_page(), served)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            tab.complaints.append(message.text)

    tab.page.on("console", said)
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    try:
        yield tab
    finally:
        await context.close()


def wait(condition: Any) -> None:
    """As `until`, for what another process does."""
    until(condition, DEADLINE_MS / 1000)
