"""One transfer in full."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from chunkq.api.views import Pieces, TransferView
from chunkq.dashboard import drawing, remedies, rows, wording
from chunkq.dashboard.addresses import first
from chunkq.dashboard.live import Cells, Live, Value
from chunkq.dashboard.views.view import Asked, View
from chunkq.protocol.report import OriginShare
from chunkq.storage.journal import Event

#: What is drawn and told of; a tree's timeline may have thousands of moments.
MAX_MOMENTS: Final = 200


async def build(asked: Asked) -> Live:
    view = await asyncio.to_thread(asked.board.transfer, first(asked.given, "id"))
    row = view.row
    return Live(
        values={
            **rows.transfer_cells(row, asked.now_ms),
            **_facts(view),
            **_pieces(view.pieces),
            **_rates(view.rates),
            **_remedies(view, {peer.alias: peer.link for peer in asked.board.peers()}),
            "no-origins": {"hidden": bool(view.origins)},
            "no-timeline": {"hidden": bool(view.timeline)},
        },
        lists={
            "origins": _origins(view.origins),
            "timeline": _timeline(view.timeline[-MAX_MOMENTS:]),
            "staging": {
                path: {"text": {"text": wording.shown(path)}} for path in view.staging[:MAX_MOMENTS]
            },
            "commands": {
                what: {"what": wording.plain(what), "command": command}
                for what, command in view.commands.items()
            },
        },
    )


def _facts(view: TransferView) -> dict[str, Value]:
    row = view.row
    return {
        "title": wording.shown(row.name) or row.id,
        "id": row.id,
        "sources": wording.shown(" ".join(row.sources)),
        "created": wording.moment(row.created_ms),
        "ended": {"text": wording.moment(row.ended_ms), "hidden": not row.ended_ms},
        "digest": view.digest or "known once it is whole",
        "worker": f"{row.instance} on {row.host}" if row.instance else "nobody has it in hand",
        "all-detail": {"text": wording.shown(row.detail), "hidden": not row.detail},
        "all-advice": {"text": wording.prose(row.advice), "hidden": not row.advice},
    }


def _pieces(pieces: Pieces | None) -> dict[str, Value]:
    cells = pieces.cells if pieces else ()
    height = drawing.map_rows(cells) * drawing.MAP_CELL
    return {
        "map-box": {"hidden": pieces is None},
        "no-map": {"hidden": pieces is not None},
        "map-text": pieces.text if pieces else "",
        "map": {"viewBox": f"0 0 {drawing.MAP_COLUMNS * drawing.MAP_CELL} {height}"},
        **{f"map-{kind}": {"d": d} for kind, d in drawing.piece_map(cells).items()},
    }


def _rates(rates: Sequence[tuple[int, int]]) -> dict[str, Value]:
    drawn, area = drawing.line(rates)
    if not drawn:
        return {
            "rates-box": {"hidden": True},
            "rates-text": "no bytes have come while this page watched",
            "rates-line": {"d": ""},
            "rates-area": {"d": ""},
        }
    values = [rate for _, rate in rates]
    span = wording.duration((rates[-1][0] - rates[0][0]) / 1000)
    now, most = (wording.rate(each) if each else "0 B/s" for each in (values[-1], max(values)))
    return {
        "rates-box": {"hidden": False},
        "rates-text": f"now {now}, at most {most}, over the last {span}",
        "rates-line": {"d": drawn},
        "rates-area": {"d": area},
    }


def _origins(origins: Sequence[OriginShare]) -> Mapping[str, Cells]:
    total = sum(each.new_bytes for each in origins)
    return {
        each.peer: {
            "peer": each.peer,
            "share": f"{100 * each.new_bytes // total} %" if total else wording.NONE,
            "bar": {"d": drawing.bar(100 * each.new_bytes // total if total else 0)},
            "bytes": wording.size(each.new_bytes),
            "window": f"{each.in_flight} of {each.window_chunks}",
            "rtt": f"{each.rtt_ms} ms" if each.rtt_ms else wording.NONE,
            "left": {"text": wording.shown(each.left), "hidden": not each.left},
        }
        for each in origins
    }


def _timeline(moments: Sequence[Event]) -> Mapping[str, Cells]:
    """The newest first."""
    keyed = zip(moment_keys(moments), moments, strict=True)
    return {key: moment_cells(moment) for key, moment in reversed(list(keyed))}


def moment_keys(moments: Sequence[Event]) -> list[str]:
    """One for each, which it keeps while others come."""
    seen: Counter[str] = Counter()
    keys = []
    for moment in moments:
        key = f"{moment.at_ms}:{moment.what}:{moment.transfer}:{moment.subject}"
        seen[key] += 1
        keys.append(f"{key}:{seen[key]}")
    return keys


def moment_cells(moment: Event) -> Cells:
    """A line of a timeline or of the audit."""
    reason = wording.plain(moment.reason)
    return {
        "at": wording.moment(moment.at_ms),
        "what": wording.plain(moment.what),
        "by": moment.by or "chunkq",
        "reason": {"text": reason, "hidden": not reason},
        "detail": {"text": wording.shown(moment.detail), "hidden": not moment.detail},
    }


def _remedies(view: TransferView, links: Mapping[str, str]) -> dict[str, Value]:
    row = view.row
    offered = remedies.for_reason(row.state, row.reason, row.peer, links.get(row.peer, ""))
    thaw = next((each for each in offered if each.do.startswith("thaw-")), None)
    return {
        "thaw": {
            "value": thaw.do if thaw else "",
            "text": thaw.label if thaw else "",
            "hidden": thaw is None,
        },
        "steerable": {"hidden": not remedies.can(row)},
    }


def frame(_: Asked) -> Mapping[str, object]:
    return {"legend": [(kind, wording.plain(kind), drawing.piece(kind)) for kind in drawing.KINDS]}


VIEW: Final = View(name="transfer", title="Transfer", build=build, frame=frame)
