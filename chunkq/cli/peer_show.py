"""`chunkq peer show`: one peer, with the keys that it had."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.protocol.identity import fingerprint
from chunkq.settings import Peer, Registry
from chunkq.settings.trust import moment

_TIME_FORM = "%Y-%m-%d %H:%M UTC"


def show(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    json: JsonOption = False,
) -> None:
    """Show a peer: its card, what it may see, and the keys that it had before."""
    options = Options.of(ctx, json=json)
    registry = Registry(options.load().settings.directories)
    peer = registry.peer(alias)
    grants = [f"{share}/{grant.prefix}".rstrip("/") for share, grant in registry.granted(alias)]
    if options.json:
        console.emit("peer", {**_fields(peer), "may_see": grants})
        return
    console.out(f"{alias}, pinned {peer.added_at.strftime(_TIME_FORM)}")
    console.out(f"card:         {peer.card_line}")
    console.out(f"fingerprint:  {fingerprint(peer.card)}")
    console.out(f"reached:      link {peer.link}, as {peer.address}")
    console.out(f"may see:      {', '.join(grants) or 'nothing'}")
    console.out(f"keys:         {state_of(peer)}")
    if peer.trouble:
        console.out(f"not trusted:  {peer.detail}, {_time(peer.trouble_ms)}")
    if not peer.follow:
        console.out("followed:     by hand only (chunkq peer follow)")
    for each in peer.earlier:
        console.out(
            f"had before:   {fingerprint(each.card)}, until {_time(each.left_ms)}; "
            + _counting(each.until_ms)
        )


def state_of(peer: Peer) -> str:
    """In a word or two: whether its keys changed, and count."""
    if peer.trouble:
        return peer.trouble.upper()
    if peer.earlier:
        return f"changed {moment(peer.earlier[0].left_ms):%Y-%m-%d}"
    return "ok"


def _counting(until_ms: int) -> str:
    if not until_ms:
        return "revoked"
    word = "count" if time.time_ns() // 1_000_000 < until_ms else "counted"
    return f"{word} until {_time(until_ms)}"


def _time(at_ms: int) -> str:
    return moment(at_ms).strftime(_TIME_FORM)


def _fields(peer: Peer) -> dict[str, object]:
    return {
        "alias": peer.alias,
        "name": peer.card.name,
        "card": peer.card_line,
        "fingerprint": fingerprint(peer.card),
        "link": peer.link,
        "address": peer.address,
        "follow": peer.follow,
        "keys": state_of(peer),
        "trouble": peer.trouble,
        "detail": peer.detail,
        "earlier": [
            {
                "fingerprint": fingerprint(each.card),
                "left_ms": each.left_ms,
                "until_ms": each.until_ms,
            }
            for each in peer.earlier
        ],
    }
