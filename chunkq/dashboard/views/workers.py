"""Workers: the processes of this site, wherever they run."""

from __future__ import annotations

from typing import Final

from chunkq.api.views import WorkerView
from chunkq.dashboard import wording
from chunkq.dashboard.live import Cells, Live
from chunkq.dashboard.views.view import Asked, View


async def build(asked: Asked) -> Live:
    workers = asked.board.workers()
    return Live(
        values={"empty": {"hidden": bool(workers)}},
        lists={"workers": {each.instance: _cells(each, asked.now_ms) for each in workers}},
    )


def _cells(worker: WorkerView, now_ms: int) -> Cells:
    tone, word = _standing(worker)
    links = "; ".join(
        ": ".join(filter(None, (link, wording.plain(reason), detail)))
        for link, reason, detail in worker.links
    )
    return {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "standing": word,
        "instance": wording.shown(worker.instance),
        "role": worker.role,
        "where": {"text": f"{worker.host}, pid {worker.pid}", "title": worker.software},
        "software": worker.software,
        "started": wording.since(worker.started_ms, now_ms),
        "heard": wording.since(worker.heard_ms, now_ms),
        "transfers": wording.count(worker.transfers),
        "memory": wording.size(worker.resident_bytes),
        "descriptors": wording.count(worker.descriptors),
        "moved": f"{wording.size(worker.received_bytes)} / {wording.size(worker.sent_bytes)}",
        "links": wording.shown(links) or wording.NONE,
        "do-drain": {
            "value": f"drain {worker.instance}",
            "hidden": worker.draining or not worker.alive,
            "aria-label": f"Drain {worker.instance}",
        },
    }


def _standing(worker: WorkerView) -> tuple[str, str]:
    if not worker.alive:
        return "failed", "silent"
    if worker.draining:
        return "paused", "draining"
    return ("done", "ready") if worker.ready else ("waiting", "starting")


VIEW: Final = View(name="workers", title="Workers", build=build)
