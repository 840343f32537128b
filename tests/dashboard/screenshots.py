"""Pictures of the page, of a site with forty transfers: `make screenshots`.

All views at two widths and in both themes go into `DIRECTORY/all`, which is not kept; the three of
the README beside it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from tests.dashboard.browsing import ARGUMENTS, CHROMIUM, Served, tab_of
from tests.dashboard.scene import Scene, forty

WIDTHS = {1280: 700, 390: 844}
#: Rates and maps have something to show by then.
WARM_UP_S = 20.0
#: The README's, by what they are called in `all`.
KEPT = {
    "transfers-1280-light": "transfers",
    "transfer-1280-dark": "transfer",
    "transfers-390-light": "transfers-phone",
}


async def take(scene: Scene, served: Served, directory: Path) -> None:
    """Every view, at each width, in each theme."""
    job = next(each.job for each in scene.moving if len(each.origins) == 2)
    paths = {"transfers": "/transfers", "transfer": f"/transfers/{job.job_id}"}
    for name in ("peers", "queues", "workers", "refused", "history", "audit"):
        paths[name] = f"/{name}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, path in paths.items():
            for width, height in WIDTHS.items():
                for theme in ("light", "dark"):
                    size = {"width": width, "height": height}
                    async with tab_of(browser, served, viewport=size, color_scheme=theme) as tab:
                        await tab.open(path)
                        target = directory / f"{name}-{width}-{theme}.png"
                        await tab.page.screenshot(path=target)
        await browser.close()


def main(directory: Path) -> None:
    everything = directory / "all"
    everything.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        scene = Scene(Path(root))
        try:
            forty(scene)
            scene.keep_saying()
            served = Served(scene.actor)
            served.start()
            scene.ended.wait(WARM_UP_S)
            asyncio.run(take(scene, served, everything))
        finally:
            scene.close()
    for taken, name in KEPT.items():
        shutil.copy(everything / f"{taken}.png", directory / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
