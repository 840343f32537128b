"""Each button of the page, and what it does in the state directory."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, expect

from chunkq.compose import SystemClock, make_transport
from chunkq.ports import Mailbox
from chunkq.storage.control import Control
from chunkq.storage.job import JobState
from tests.dashboard.browsing import Tab, wait
from tests.dashboard.scene import MIB, Scene

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("browser"),
]


async def said(tab: Tab, text: str | re.Pattern[str]) -> None:
    """What the page says became of it."""
    await expect(tab.page.locator("#said")).to_have_text(text)


def row(tab: Tab, name: str) -> Locator:
    return tab.page.locator("[data-list=transfers] tr").filter(has_text=name)


def state(scene: Scene, job_id: str) -> JobState:
    found = scene.store.find(job_id)
    assert found is not None
    return JobState(found.state)


async def test_pause_resume_cancel_retry(tab: Tab, scene: Scene) -> None:
    """One job through all of it, by the buttons of its row, without leaving the page."""
    job = scene.queued("hub:steer/one.bin")
    await tab.open("/transfers?q=steer/one")
    one = row(tab, "one.bin")
    for button, expected, word in (
        ("Pause", JobState.PAUSED, "paused"),
        ("Resume", JobState.PENDING, "queued"),
    ):
        await one.get_by_role("button", name=f"{button} one.bin").click()
        wait(lambda: state(scene, job.job_id) is expected)  # noqa: B023
        await expect(one.locator("[data-c=state]")).to_have_text(word)
    await one.locator("summary").click()
    await one.get_by_role("button", name="Cancel, keep what came one.bin").click()
    await said(tab, "1 transfer is cancelled; what came is kept.")
    assert state(scene, job.job_id) is JobState.CANCELLED
    await one.get_by_role("button", name="Retry one.bin").click()
    await said(tab, "1 transfer is to be tried again.")

    assert state(scene, job.job_id) is JobState.PENDING


async def test_cancel_and_drop_takes_what_came(tab: Tab, scene: Scene) -> None:
    """The staging of a paused transfer is gone afterwards; that of the others is there."""
    job = scene.paused("hub:steer/two.bin", 40 * MIB, 10 * MIB)
    for each in scene.opened[-2:]:
        each.close()
    del scene.opened[-2:]
    staging = scene.inbox / ".chunkq"
    before = {each.name for each in staging.iterdir()}
    await tab.open("/transfers?q=steer/two")
    two = row(tab, "two.bin")
    await two.locator("summary").click()
    await two.get_by_role("button", name="Cancel, drop what came two.bin").click()
    await said(tab, "1 transfer is cancelled; what came is dropped.")
    wait(lambda: len({each.name for each in staging.iterdir()}) < len(before))
    gone = before - {each.name for each in staging.iterdir()}

    assert state(scene, job.job_id) is JobState.CANCELLED
    assert 1 == len({name.partition(".")[0] for name in gone})


async def test_what_a_worker_has_gets_a_wish(tab: Tab, scene: Scene) -> None:
    """A transfer in the hands of a process is told to that process, with who wanted it."""
    job = next(each.job for each in scene.moving if "lidar" in each.job.sources[0])
    await tab.open(f"/transfers/{job.job_id}")
    await tab.page.get_by_role("button", name="Pause").click()
    control = Control(scene.actor.state)
    wait(lambda: [wish for wish in control.wishes() if wish.job_id == job.job_id])
    (wish,) = (wish for wish in control.wishes() if wish.job_id == job.job_id)

    assert "pause" == wish.want
    assert re.fullmatch(r"page:\w+@.+", wish.by)


async def test_many_by_ticking(tab: Tab, scene: Scene) -> None:
    """Those that are ticked, and no other; then the priority of all on the page."""
    jobs = [scene.queued(f"hub:ticked/{number}.bin") for number in range(4)]
    await tab.open("/transfers?q=ticked/")
    await tab.page.get_by_label("Select 1.bin").check()
    await tab.page.get_by_label("Select 3.bin").check()
    await expect(tab.page.locator("#chosen")).to_have_text("2 chosen")
    bulk = tab.page.get_by_role("group", name="With the chosen transfers")
    await bulk.get_by_role("button", name="Pause").click()
    await said(tab, "2 transfers are paused.")
    assert [JobState.PENDING, JobState.PAUSED] * 2 == [state(scene, job.job_id) for job in jobs]
    await tab.page.get_by_label("Choose all on this page").check()
    await bulk.get_by_text("Priority").click()
    await bulk.get_by_role("button", name="Urgent").click()
    await said(tab, "4 transfers are now urgent.")

    assert ["urgent"] * 4 == [scene.store.find(job.job_id).priority for job in jobs]


async def test_all_that_match(tab: Tab, scene: Scene) -> None:
    """Also those on other pages, and none that the filter leaves out."""
    jobs = [scene.queued(f"hub:matching/{number}.bin") for number in range(30)]
    other = scene.queued("hub:elsewhere/30.bin")
    await tab.open("/transfers?q=matching/&rows=25")
    await expect(tab.page.locator("[data-list=transfers] tr")).to_have_count(25)
    await tab.page.get_by_label("All 30 that match").check()
    bulk = tab.page.get_by_role("group", name="With the chosen transfers")
    await bulk.get_by_role("button", name="Pause").click()
    await said(tab, "30 transfers are paused.")

    assert {JobState.PAUSED} == {state(scene, job.job_id) for job in jobs}
    assert JobState.PENDING is state(scene, other.job_id)


async def test_nothing_ticked_is_said(tab: Tab) -> None:
    """A bulk button alone does nothing, and says what to do."""
    await tab.open("/transfers")
    bulk = tab.page.get_by_role("group", name="With the chosen transfers")
    await bulk.get_by_role("button", name="Pause").click()
    await said(tab, "no transfer is ticked. tick some, or all that match.")

    tab.complaints[:] = [each for each in tab.complaints if "409" not in each]
    assert await tab.page.locator("#said").get_attribute("data-tone") == "failed"


async def test_a_group_is_mended_on_top(tab: Tab, scene: Scene) -> None:
    """What failed for one reason at one peer is tried again with one click."""
    jobs = [
        scene.failed(f"delta:mend/{number}.bin", "SourceChanging", "it changes")
        for number in range(3)
    ]
    await tab.open("/transfers")
    group = tab.page.locator(".groups li").filter(has_text="source changed at delta")
    await expect(group).to_contain_text("3 failed")
    await group.get_by_role("button", name="Retry").click()
    await said(tab, "3 transfers are to be tried again.")
    await expect(group).to_have_count(0)

    assert {JobState.PENDING} == {state(scene, job.job_id) for job in jobs}


async def test_freeze_and_thaw(tab: Tab, scene: Scene) -> None:
    """A peer, from its row; what waits for it says so, and thaws it from there. Then a link."""
    control = Control(scene.actor.state)
    scene.queued("hub:frozen/one.bin")
    await tab.open("/peers")
    hub = tab.page.get_by_role("table", name="Peers").locator("tr").filter(has_text="hub")
    await hub.get_by_role("button", name="Freeze").click()
    await expect(hub.locator("[data-c=standing]")).to_have_text("frozen")
    assert ("peer", "hub") in control.frozen()
    await tab.open("/transfers")
    group = tab.page.locator(".groups li").filter(has_text="peer frozen at hub")
    await group.get_by_role("button", name="Thaw hub").click()
    await said(tab, "The peer hub is thawed.")
    assert ("peer", "hub") not in control.frozen()
    await tab.open("/peers")
    await tab.page.get_by_role("button", name="Freeze link default").click()
    await said(tab, re.compile("The link default is frozen"))
    assert ("link", "default") in control.frozen()
    await tab.page.get_by_role("button", name="Thaw link default").click()
    await said(tab, "The link default is thawed.")

    assert {} == control.frozen()


async def test_drain(tab: Tab, scene: Scene) -> None:
    """A worker is asked to end when what it has is done."""
    await tab.open("/workers")
    worker = tab.page.locator("tr").filter(has_text="origin-k3x9")
    await worker.get_by_role("button", name="Drain").click()
    await said(tab, re.compile("origin-k3x9 takes nothing new"))

    assert "origin-k3x9" in Control(scene.actor.state).draining()


async def test_who_did_it_stands_in_the_audit(tab: Tab, scene: Scene) -> None:
    """By name, with the page as the place."""
    scene.queued("hub:audited/one.bin")
    await tab.open("/transfers?q=audited/")
    await row(tab, "one.bin").get_by_role("button", name="Pause one.bin").click()
    await said(tab, "1 transfer is paused.")
    await tab.open("/audit")
    line = tab.page.locator("tbody tr").filter(has_text="one.bin").filter(has_text="paused").first
    await expect(line.locator("[data-c=by]")).to_have_text(re.compile(r"page:\w+@.+"))

    assert "paused" == await line.locator("[data-c=what]").inner_text()


async def reject(scene: Scene, count: int) -> None:
    """Put so many requests into this site's queue that its worker refuses for good."""
    (link,) = scene.settings.links.values()
    link.spool_path.mkdir(parents=True, exist_ok=True)
    transport = make_transport(link, "alice", SystemClock())
    await transport.open()
    own = Mailbox("req", "alice")
    consumer = await transport.consume(own, prefetch=count)
    for number in range(count):
        await transport.publish(own, f"request {number}".encode())
    left = count
    while left:
        for delivery in await consumer.receive():
            consumer.reject(delivery)
            left -= 1
    await consumer.close()
    await transport.close()


async def test_dead_letters_are_put_back_and_discarded(tab: Tab, scene: Scene) -> None:
    """With how many they were; discarding takes two clicks."""
    await reject(scene, 3)
    await tab.open("/refused")
    letters = tab.page.get_by_role("table", name="Dead letters").locator("tbody tr")
    await expect(letters.locator("[data-c=count]")).to_have_text("3")
    await letters.get_by_role("button", name="Requeue").click()
    await said(tab, "3 dead letters put back into the queue.")
    await expect(letters).to_have_class("gone")
    await tab.page.mouse.move(5, 5)
    await expect(letters).to_have_count(0)
    await tab.open("/queues")
    queue = tab.page.locator("tbody tr").filter(has_text="req.alice")
    await expect(queue.locator("[data-c=depth]")).to_have_text("3")
    await reject(scene, 1)
    await tab.open("/refused")
    await letters.locator("summary").click()
    await letters.get_by_role("button", name="Discard for good").click()
    await said(tab, re.compile(r"\d dead letters? discarded\."))
    await tab.page.mouse.move(5, 5)

    await expect(tab.page.locator("[data-v=no-letters]")).to_be_visible()
    assert await letters.count() == 0
