"""Each view in a real browser: drawn, live, in both themes, on a desk and on a phone, for all."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.dashboard.browsing import DESK, PHONE, Served, Tab, tab_of
from tests.dashboard.scene import BIDI, HOSTILE, Scene

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("browser"),
]

#: Each view, and something that only it shows.
VIEWS = {
    "/transfers": "peer silent at beta",
    "/transfers?state=failed&sort=size&desc=1": "salaries.ods",
    "/peers": "gamma",
    "/queues": "Queues",
    "/workers": "requester-k3x9",
    "/refused": "bad signature",
    "/history": "opening.mov",
    "/audit": "dashboard started",
}


async def check(tab: Tab, path: str, words: str) -> None:
    """Drawn and live, without a fault in either theme, and nothing sticks out on a phone."""
    await tab.open(path)
    await expect(tab.page.locator("main")).to_contain_text(words)
    for theme in ("light", "dark"):
        await tab.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert await tab.accessibility() == []
    assert await tab.fits()
    await tab.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert await tab.fits()
    assert await tab.accessibility() == []
    await tab.page.set_viewport_size(DESK)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", VIEWS)
async def test_each_view(tab: Tab, path: str) -> None:
    """What it is for is on it; axe finds nothing; 390 pixels are enough."""
    await check(tab, path, VIEWS[path])

    assert await tab.page.locator("nav [aria-current=page]").count() == 1


async def test_a_transfer(tab: Tab, scene: Scene) -> None:
    """The map with its text, the share of each origin, the rate, the timeline, the commands."""
    job = next(each.job for each in scene.moving if len(each.origins) == 2)
    await check(tab, f"/transfers/{job.job_id}", "db-2026-11-20.zst")

    main = tab.page.locator("main")
    await expect(main).to_contain_text("contiguous to")
    await expect(main.locator("[data-list=origins] tr")).to_have_count(2)
    await expect(main.locator("[data-v=rates-text]")).to_contain_text("now")
    await expect(main.locator("[data-list=timeline]")).to_contain_text("started")
    await expect(main.locator("[data-list=commands]")).to_contain_text(f"pause {job.job_id}")
    for kind in ("have", "in_flight", "missing"):
        assert await main.locator(f"[data-v=map-{kind}]").get_attribute("d")


async def test_what_is_stuck_is_said_on_top(tab: Tab) -> None:
    """How many, why, at whom and what to do: without a click, above everything else."""
    await tab.open("/transfers")
    groups = tab.page.locator(".groups li")

    what = await groups.locator("[data-c=what]").all_inner_texts()
    why = await groups.locator("[data-c=why]").all_inner_texts()
    assert {
        ("4 stalled", "peer silent at beta"),
        ("2 failed", "not permitted at gamma"),
        ("1 stalled", "disk full"),
        ("1 failed", "hash mismatch at hub"),
    } == set(zip(what, why, strict=True))
    assert "4 stalled" == what[0]
    await expect(groups.first).to_contain_text("have the peer's origin workers started")
    top = await groups.last.bounding_box()
    assert top is not None
    assert top["y"] < 400


async def test_names_of_others_are_text(tab: Tab, scene: Scene) -> None:
    """Markup in a file's name is shown as it is written, and hidden marks are made visible."""
    await tab.open("/transfers?peer=gamma")
    names = tab.page.locator(".c-name > a")
    await expect(names.get_by_text(HOSTILE, exact=True)).to_be_visible()
    await expect(names.get_by_text(BIDI.replace("\u202e", "\\u202e"))).to_be_visible()
    job = next(each.job for each in scene.moving if HOSTILE in each.job.sources[0])
    await tab.open(f"/transfers/{job.job_id}")
    await expect(tab.page.locator("h1")).to_have_text(HOSTILE)

    assert await tab.page.locator("img").count() == 0


async def test_sorting_filters_and_pages_are_in_the_address(tab: Tab) -> None:
    """So a list can be sent to a colleague; the server sorts, filters and cuts."""
    await tab.open("/transfers")
    await tab.page.locator("input[name=q]").fill("tile-")
    await tab.page.locator("select[name=state]").select_option("queued")
    await tab.page.locator("select[name=rows]").select_option("25")
    await tab.page.get_by_role("button", name="Filter").click()
    await tab.live()
    await tab.page.get_by_role("columnheader", name="Name").get_by_role("link").click()
    await tab.live()

    assert "state=queued" in tab.page.url
    assert "q=tile-" in tab.page.url
    assert "sort=name" in tab.page.url
    names = await tab.page.locator("[data-list=transfers] .c-name > a").all_inner_texts()
    assert [f"tile-{number:02d}.tif" for number in range(12)] == names
    head = tab.page.get_by_role("columnheader", name="Name")
    await expect(head).to_have_attribute("aria-sort", "ascending")


async def test_the_theme_is_chosen_and_kept(chromium: Browser, served: Served) -> None:
    """System, light or dark; what was chosen holds on the next page."""
    async with tab_of(chromium, served, color_scheme="light") as tab:
        await tab.open("/peers")
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = await tab.page.evaluate(ground)
        button = tab.page.locator("#theme")
        await expect(button).to_have_attribute("aria-label", "Theme: System")
        await button.click()
        await button.click()
        await expect(button).to_have_attribute("aria-label", "Theme: Dark")
        dark = await tab.page.evaluate(ground)
        await tab.open("/workers")

        assert light != dark
        assert dark == await tab.page.evaluate(ground)
        assert tab.complaints == []


async def test_without_script(chromium: Browser, served: Served, scene: Scene) -> None:
    """The page is there, and its buttons work, where scripts do not run."""
    job = scene.paused("hub:images/plain.iso")
    async with tab_of(chromium, served, java_script_enabled=False) as tab:
        await tab.page.goto(f"{served.address}/transfers?q=plain.iso")
        button = tab.page.get_by_role("button", name="Resume plain.iso")
        while not await button.count():
            await tab.page.reload()
        await button.click()
        await expect(tab.page.locator("#said")).to_have_text("1 transfer is resumed.")

    assert "pending" == scene.store.find(job.job_id).state
