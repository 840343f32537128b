"""`chunkq peer follow`: what a peer says of its keys, given by hand."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.lines import read_line
from chunkq.cli.options import JsonOption, Options
from chunkq.protocol.identity import fingerprint
from chunkq.protocol.succession import (
    MAX_STATEMENT_LENGTH,
    REVOCATION_PREFIX,
    SUCCESSION_PREFIX,
    decode_statement,
)

EXAMPLES: Final = """\b
Examples:
  chunkq peer follow chunkq-succession:1:beta:...  it has new keys
  chunkq peer follow beta.succession               the line in a file
  chunkq peer follow chunkq-revocation:1:beta:...  its keys count no more
\b
The line proves itself by signatures of keys that are pinned here, so it may
come by any way. What contradicts an earlier one stops all traffic with the
peer, until `chunkq peer add CARD --replace` decides.
"""


def follow(
    ctx: typer.Context,
    line: Annotated[str, typer.Argument(help="A line, a file with one, or - for stdin.")],
    *,
    json: JsonOption = False,
) -> None:
    """Take note of a peer's new keys, or of their end.

    The peer keeps its name here, its grants, and transfers under way go on.
    """
    from chunkq.api.trust import RegistryTrust
    from chunkq.compose import SystemClock
    from chunkq.settings import Registry

    options = Options.of(ctx, json=json)
    settings = options.load().settings
    text = read_line(
        line,
        prefixes=(SUCCESSION_PREFIX, REVOCATION_PREFIX),
        what="succession or revocation",
        printed_by="`chunkq rotate` or `chunkq revoke`",
        largest=MAX_STATEMENT_LENGTH,
    )
    registry = Registry(settings.directories)
    trust = RegistryTrust(registry, settings, SystemClock(), _say_nothing)
    heard = trust.heed(decode_statement(text), by_hand=True)
    alias, mark = heard.peer.alias, fingerprint(heard.peer.card)
    if options.json:
        fields = {"alias": alias, "fingerprint": mark, "news": heard.news}
        console.emit("peer_followed", fields)
    if heard.news == "conflict":
        registry.peer(alias).check_trusted()
    if options.json:
        return
    match heard.news:
        case "succession":
            console.out(f"{alias} has new keys, signed by the old ones")
            console.out(f"fingerprint: {mark}")
        case "revoked":
            console.out(f"{alias} is revoked: nothing is asked of it or answered to it any more")
        case "grace_ended":
            console.out(f"{alias}'s old keys count no more")
        case _:
            console.out(f"{alias}: nothing new")


def _say_nothing(_event: str, /, *, level: str = "info", **_fields: object) -> None:
    """What happened is printed, so it need not be logged."""
