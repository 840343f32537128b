"""`chunkq peer show`: one peer, with the keys that it had."""

from __future__ import annotations

from typing import Annotated

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.progress import size_text
from chunkq.compose import ref_of
from chunkq.protocol.identity import fingerprint
from chunkq.settings import Peer, Registry, Settings
from chunkq.settings.quantity import show_size
from chunkq.settings.trust import QUOTA_KEYS, SIZE_KEYS, moment
from chunkq.storage.usage import UsageStore
from chunkq.storage.wallclock import wall_ms

_TIME_FORM = "%Y-%m-%d %H:%M UTC"


def show(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    json: JsonOption = False,
) -> None:
    """Show a peer: its card, what it may see and have, and the keys that it had before."""
    options = Options.of(ctx, json=json)
    settings = options.load().settings
    registry = Registry(settings.directories)
    peer = registry.peer(alias)
    quotas = quotas_of(peer, settings)
    sent = UsageStore(settings.directories.usage).used(ref_of(peer).first_id)
    grants = [f"{share}/{grant.prefix}".rstrip("/") for share, grant in registry.granted(alias)]
    if options.json:
        table = {key: value for key, value, _ in quotas}
        used = {"may_see": grants, "quota": table, "sent_bytes_last_day": sent}
        console.emit("peer", {**_fields(peer), **used})
        return
    console.out(f"{alias}, pinned {peer.added_at.strftime(_TIME_FORM)}")
    console.out(f"card:         {peer.card_line}")
    console.out(f"fingerprint:  {fingerprint(peer.card)}")
    console.out(f"reached:      link {peer.link}, as {peer.address}")
    console.out(f"may see:      {', '.join(grants) or 'nothing'}")
    console.out(f"keys:         {state_of(peer)}")
    console.out(f"sent to it:   {size_text(sent)} in the last day")
    for key, value, own in quotas:
        console.out(f"{key + ':':<21} {show_quota(key, value)}{'' if own else '  (default)'}")
    if peer.trouble:
        console.out(f"not trusted:  {peer.detail}, {_time(peer.trouble_ms)}")
    if not peer.follow:
        console.out("followed:     by hand only (chunkq peer follow)")
    for each in peer.earlier:
        console.out(
            f"had before:   {fingerprint(each.card)}, until {_time(each.left_ms)}; "
            + _counting(each.until_ms)
        )


def quotas_of(peer: Peer, settings: Settings) -> list[tuple[str, float, bool]]:
    """Key, what is in force, and whether that was said of this peer in particular."""
    origin, requester = settings.origin, settings.requester
    defaults: dict[str, float] = {
        "requests_per_second": origin.requests_per_second,
        "bytes_in_flight": origin.in_flight_bytes,
        "bytes_per_day": origin.day_bytes,
        "pending_requests": origin.pending_requests,
        "pending_hashes": origin.pending_hashes,
        "pending_transfers": requester.pending_transfers,
        "disk": requester.disk_per_peer_bytes,
    }
    own = {key: getattr(peer.quota, name) for key, name in QUOTA_KEYS.items()}
    return [
        (key, default if own[key] is None else own[key], own[key] is not None)
        for key, default in defaults.items()
    ]


def show_quota(key: str, value: float) -> str:
    """As one would write it; 0 bytes are no limit."""
    if key not in SIZE_KEYS:
        return f"{value:g}"
    return show_size(int(value)) if value else "no limit"


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
    word = "count" if wall_ms() < until_ms else "counted"
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
