"""`chunkq peer set`: what one peer may have, where that is not what all may."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.peer_show import quotas_of, show_quota
from chunkq.errors import UsageError
from chunkq.settings import Registry
from chunkq.settings.trust import QUOTA_KEYS, QuotaTable

EXAMPLES: Final = """\b
Examples:
  chunkq peer set beta --bytes-per-day 50GiB --requests-per-second 20
  chunkq peer set beta --bytes-per-day 0          as many as it likes
  chunkq peer set beta --bytes-per-day default    as config.toml says
"""
#: Ends what was said of a peer in particular.
DEFAULT: Final = "default"

METAVAR: Final = "VALUE|default"


def set_(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    requests_per_second: Annotated[
        str | None, typer.Option(metavar=METAVAR, help="What it may ask a worker.")
    ] = None,
    bytes_in_flight: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="Of answers to it being made or on their way."),
    ] = None,
    bytes_per_day: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="Of files sent to it in 24 hours; 0: any number."),
    ] = None,
    pending_requests: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="Of its, taken from the queue and not yet answered."),
    ] = None,
    pending_hashes: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="Large files that wait to be hashed for it."),
    ] = None,
    pending_transfers: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="From it at once in a process; the others wait."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(metavar=METAVAR, help="What unfinished files of it may take; 0: any number."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Let a peer have more or less than the others; workers that run follow at once.

    Without options nothing changes, and what is in force is shown.
    """
    options = Options.of(ctx, json=json)
    settings = options.load().settings
    registry = Registry(settings.directories)
    given = {
        "requests_per_second": requests_per_second,
        "bytes_in_flight": bytes_in_flight,
        "bytes_per_day": bytes_per_day,
        "pending_requests": pending_requests,
        "pending_hashes": pending_hashes,
        "pending_transfers": pending_transfers,
        "disk": disk,
    }
    said = {key: value for key, value in given.items() if value is not None}
    parsed = _parse({key: value for key, value in said.items() if value != DEFAULT})
    peer = registry.peer(alias)
    changes = {QUOTA_KEYS[key]: getattr(parsed, key) for key in said}
    changed = registry.set_quota(alias, replace(peer.quota, **changes))
    rows = quotas_of(registry.peer(alias), settings)
    if options.json:
        table = {key: value for key, value, _ in rows}
        console.emit("peer", {"alias": alias, "quota": table, "changed": changed})
        return
    for key, value, own in rows:
        console.out(f"{key + ':':<21} {show_quota(key, value)}{'' if own else '  (default)'}")


def _parse(given: dict[str, str]) -> QuotaTable:
    """Raises `UsageError` naming the option."""
    try:
        return QuotaTable.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    option = str(first["loc"][0]).replace("_", "-")
    raise UsageError(f"--{option}: {first['msg'].removeprefix('Value error, ')}")
