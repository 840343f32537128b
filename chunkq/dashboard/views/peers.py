"""Peers: who they are, whether anything stands between, and what moves to and from them."""

from __future__ import annotations

from typing import Final

from chunkq.api.views import LinkView, PeerView
from chunkq.dashboard import wording
from chunkq.dashboard.addresses import transfers_path
from chunkq.dashboard.live import Cells, Live
from chunkq.dashboard.views.view import Asked, View
from chunkq.protocol.condition import State


async def build(asked: Asked) -> Live:
    peers = asked.board.peers()
    return Live(
        values={"empty": {"hidden": bool(peers)}},
        lists={
            "peers": {each.alias: _cells(each, asked.now_ms) for each in peers},
            "links": {each.link: _link_cells(each) for each in asked.board.links()},
        },
    )


def _cells(peer: PeerView, now_ms: int) -> Cells:
    tone, word = _standing(peer)
    refusals = sum(peer.refusals.values())
    told = ", ".join(
        f"{count} {wording.plain(why)}" for why, count in sorted(peer.refusals.items())
    )
    return {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "standing": word,
        "trouble": {"text": wording.shown(peer.trouble), "hidden": not peer.trouble},
        "alias": {"text": peer.alias, "href": transfers_path(peer=peer.alias)},
        "address": {"text": wording.shown(peer.address), "title": peer.fingerprint},
        "link": peer.link,
        "active": wording.count(peer.active),
        "waiting": wording.count(peer.waiting),
        "failed": {
            "text": wording.count(peer.failed),
            "href": transfers_path(peer=peer.alias, state=State.FAILED),
        },
        "fetched": wording.size(peer.fetched_bytes),
        "served": wording.size(peer.served_bytes),
        "requests": wording.count(peer.requests),
        "refusals": {"text": wording.count(refusals), "title": told},
        "heard": {
            "text": wording.since(peer.heard_ms, now_ms),
            "title": wording.moment(peer.heard_ms),
        },
        "do-freeze": {
            "value": f"freeze-peer {peer.alias}",
            "hidden": peer.frozen,
            "aria-label": f"Freeze {peer.alias}",
        },
        "do-thaw": {
            "value": f"thaw-peer {peer.alias}",
            "hidden": not peer.frozen,
            "aria-label": f"Thaw {peer.alias}",
        },
    }


def _standing(peer: PeerView) -> tuple[str, str]:
    if peer.frozen:
        return "paused", "frozen"
    if peer.trouble:
        return "failed", "in trouble"
    return ("moving", "active") if peer.active else ("done", "ready")


def _link_cells(link: LinkView) -> Cells:
    tone = "paused" if link.frozen else "done"
    return {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "standing": "frozen" if link.frozen else "open",
        "link": link.link,
        "transport": link.transport,
        "address": wording.shown(link.address),
        "why": {"text": wording.shown(link.why), "hidden": not link.why},
        "do-freeze": {
            "value": f"freeze-link {link.link}",
            "hidden": link.frozen,
            "aria-label": f"Freeze link {link.link}",
        },
        "do-thaw": {
            "value": f"thaw-link {link.link}",
            "hidden": not link.frozen,
            "aria-label": f"Thaw link {link.link}",
        },
    }


VIEW: Final = View(name="peers", title="Peers", build=build)
