"""A tab that stays open: changes come in place, gaps are noticed, servers die and come back."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from chunkq.protocol.condition import Reason, State
from tests.dashboard.browsing import Served, Tab, tab_of
from tests.dashboard.scene import Scene

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("browser"),
]

#: Marks an element, so that it can be seen that it is still the same.
MARK = "element => { element.marked = true; }"
MARKED = "element => element.marked === true"
#: As when a banner appears, or one more cause of trouble is named in the summary.
GROW = "document.querySelector('main').style.marginTop = '150px'"
#: A stream that loses the third of its messages, and counts how often it was opened.
LOSSY = """
window.opened = 0;
window.EventSource = class extends EventSource {
  constructor(...given) {
    super(...given);
    window.opened += 1;
    this.heard = 0;
    document.documentElement.dataset.opened = window.opened;
  }
  set onmessage(hear) {
    super.onmessage = (event) => {
      this.heard += 1;
      if (window.opened > 1 || this.heard !== 3) hear(event);
    };
  }
};
"""


async def test_cells_change_in_place(tab: Tab, scene: Scene) -> None:
    """The row stays the element that it was; its state changes, and is told to who listens."""
    moving = next(each for each in scene.moving if "base.qcow2" in each.job.sources[0])
    await tab.open("/transfers?q=base.qcow2")
    row = tab.page.locator(f"tr[data-key='{moving.job.job_id}']")
    await row.evaluate(MARK)
    moving.state, moving.reason = State.STALLED, Reason.BUSY
    await expect(row.locator("[data-c=state]")).to_have_text("stalled")
    await expect(row).to_have_attribute("data-tone", "stalled")
    await expect(tab.page.locator("#changes")).to_have_text("base.qcow2 is stalled")
    moving.state, moving.reason = State.OPENING, Reason.PREPARING

    assert await row.evaluate(MARKED)


async def test_rows_stay_while_somebody_points_at_them(tab: Tab, scene: Scene) -> None:
    """New ones wait for the pointer to go, or for the button that says that the order changed."""
    scene.queued("hub:pointed/b.bin", age_s=50)
    await tab.open("/transfers?q=pointed/&sort=name&desc=0")
    rows = tab.page.locator("[data-list=transfers] tr")
    await rows.first.hover()
    scene.queued("hub:pointed/a.bin", age_s=40)
    button = tab.page.get_by_role("button", name="Order changed: show")
    await expect(button).to_be_visible()
    assert ["b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()
    await button.click()
    await expect(rows).to_have_count(2)
    assert ["a.bin", "b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()
    await rows.first.hover()
    scene.queued("hub:pointed/0.bin", age_s=30)
    await expect(button).to_be_visible()
    await tab.page.mouse.move(5, 5)
    await expect(rows).to_have_count(3)

    assert ["0.bin", "a.bin", "b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()


async def test_rows_stay_when_what_is_above_them_grows(tab: Tab, scene: Scene) -> None:
    """The page moves under a pointer that rests: whoever pointed has not gone away by that."""
    scene.queued("hub:grown/b.bin", age_s=50)
    await tab.open("/transfers?q=grown/&sort=name&desc=0")
    rows = tab.page.locator("[data-list=transfers] tr")
    await rows.first.hover()
    scene.queued("hub:grown/a.bin", age_s=40)
    button = tab.page.get_by_role("button", name="Order changed: show")
    await expect(button).to_be_visible()
    await tab.page.evaluate(GROW)
    hovered = tab.page.locator("[data-list=transfers]:hover")
    await expect(hovered).to_have_count(0)
    scene.queued("hub:grown/0.bin", age_s=30)
    await expect(tab.page.locator("[data-v=total]").first).to_have_text("3")
    assert ["b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()
    await button.click()
    await expect(rows).to_have_count(3)

    assert ["0.bin", "a.bin", "b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()


@pytest.mark.parametrize("width", [390, 700])
async def test_the_button_pushes_no_rows_away(tab: Tab, scene: Scene, width: int) -> None:
    """Where the bar has no room for it, it lies over the page."""
    await tab.page.set_viewport_size({"width": width, "height": 900})
    scene.queued(f"hub:narrow{width}/b.bin", age_s=50)
    await tab.open(f"/transfers?q=narrow{width}/&sort=name&desc=0")
    await tab.page.locator("[data-list=transfers] tr").first.hover()
    bar = tab.page.locator(".bulk")
    before = await bar.bounding_box()
    scene.queued(f"hub:narrow{width}/a.bin", age_s=40)
    button = tab.page.get_by_role("button", name="Order changed: show")
    await expect(button).to_be_visible()
    after = await bar.bounding_box()
    await button.click()
    await expect(tab.page.locator("[data-list=transfers] tr")).to_have_count(2)

    assert before is not None
    assert after is not None
    assert before["height"] == after["height"]


async def test_rows_stay_while_the_keyboard_is_in_them(tab: Tab, scene: Scene) -> None:
    """A row that has the focus is not moved away under it."""
    scene.queued("hub:focused/b.bin", age_s=50)
    await tab.open("/transfers?q=focused/&sort=name&desc=0")
    box = tab.page.get_by_label("Select b.bin")
    await box.focus()
    scene.queued("hub:focused/a.bin", age_s=40)
    await expect(tab.page.get_by_role("button", name="Order changed: show")).to_be_visible()
    await expect(box).to_be_focused()
    await box.blur()
    rows = tab.page.locator("[data-list=transfers] tr")
    await expect(rows).to_have_count(2)

    assert ["a.bin", "b.bin"] == await rows.locator("[data-c=name]").all_inner_texts()


async def test_a_lost_message_is_noticed(chromium: Browser, served: Served, scene: Scene) -> None:
    """A number is missing: the tab asks for the whole again, and shows what is."""
    moving = next(each for each in scene.moving if "lidar" in each.job.sources[0])
    async with tab_of(chromium, served) as tab:
        await tab.page.add_init_script(LOSSY)
        await tab.open(f"/transfers/{moving.job.job_id}")
        await expect(tab.page.locator("html")).to_have_attribute("data-opened", "2")
        moving.state, moving.reason = State.STALLED, Reason.NO_CREDIT
        await expect(tab.page.locator("[data-v=state]")).to_have_text("stalled")
        moving.state, moving.reason = State.RUNNING, None

        assert tab.complaints == []


async def test_the_server_is_killed_and_comes_back(
    chromium: Browser, served: Served, scene: Scene
) -> None:
    """SIGKILL: the page says how old it is, comes back by itself, logged in, with nothing lost."""
    async with tab_of(chromium, served) as tab:
        await tab.open("/transfers?q=killed/")
        await tab.page.evaluate("window.same = true")
        served.kill()
        banner = tab.page.locator("#stale")
        await expect(banner).to_have_text(re.compile(r"Stale for \d+ s: the server is away"))
        await expect(tab.page.locator("#pulse-text")).to_have_text("stale")
        job = scene.queued("hub:killed/meanwhile.bin")
        button = tab.page.get_by_role("group", name="With the chosen transfers")
        await button.get_by_role("button", name="Pause").click()
        await expect(tab.page.locator("#said")).to_contain_text("nothing was done")
        served.start()
        await tab.live()
        await expect(banner).to_be_hidden()
        row = tab.page.locator("[data-list=transfers] tr")
        await expect(row.locator("[data-c=name]")).to_have_text("meanwhile.bin")
        await row.get_by_role("button", name="Pause meanwhile.bin").click()
        await expect(tab.page.locator("#said")).to_have_text("1 transfer is paused.")

        assert await tab.page.evaluate("window.same === true")
        assert "paused" == scene.store.find(job.job_id).state
        # the browser notes each attempt that found nobody; the page itself complains of nothing
        assert [each for each in tab.complaints if "Failed to load resource" not in each] == []


async def test_the_server_ends_cleanly(chromium: Browser, scene: Scene) -> None:
    """SIGTERM with a stream open: it ends by itself, at once, with exit code 0."""
    served = Served(scene.actor)
    served.start()
    async with tab_of(chromium, served) as tab:
        await tab.open("/transfers")
        assert served.running is not None
        served.running.process.terminate()

        assert 0 == served.running.wait().code


async def test_the_keyboard_alone(tab: Tab, scene: Scene) -> None:
    """Skip link, search, a box, a menu and its button, with the focus always to be seen."""
    job = scene.queued("hub:typed/one.bin")
    await tab.open("/transfers?q=typed/")
    press = tab.page.keyboard.press
    await press("Tab")
    skip = tab.page.get_by_role("link", name="Skip to the content")
    await expect(skip).to_be_focused()
    assert (await skip.bounding_box() or {"x": -1})["x"] >= 0
    await press("Enter")
    await press("/")
    await expect(tab.page.locator("input[name=q]")).to_be_focused()
    await tab.page.get_by_label("Select one.bin").focus()
    await press("Space")
    await expect(tab.page.locator("#chosen")).to_have_text("1 chosen")
    menu = tab.page.locator("[data-list=transfers] details")
    await menu.locator("summary").focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert "solid" == await tab.page.evaluate(outline)
    await press("Enter")
    await press("Escape")
    await expect(menu).not_to_have_attribute("open", "")
    await expect(menu.locator("summary")).to_be_focused()
    await press("Enter")
    await press("Tab")
    await press("Enter")
    await expect(tab.page.locator("#said")).to_contain_text("cancelled")

    assert "cancelled" == scene.store.find(job.job_id).state
