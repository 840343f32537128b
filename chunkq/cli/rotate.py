"""`chunkq rotate`: new keys for this site, signed by the old ones."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.confirm import confirm
from chunkq.cli.lines import read_line
from chunkq.cli.options import JsonOption, Options
from chunkq.storage.wallclock import wall_ms

if TYPE_CHECKING:
    from chunkq.protocol.keyring import KeyRing
    from chunkq.settings import Settings

EXAMPLES: Final = """\b
Examples:
  chunkq rotate                    new keys; the old count for 31 days more
  chunkq rotate --grace 0          the old ones count no more, at once
  chunkq rotate --tell             tell the peers of the last change again
  chunkq rotate --consent-to CARD  another machine, with CARD, may take over
\b
Peers keep this site under the same name, with the same grants; transfers
under way go on. All workers of this site need the new site.keys: those that
share this directory have it at once, copy it to other hosts.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def rotate(
    ctx: typer.Context,
    *,
    grace: Annotated[
        str, typer.Option(help="How long the old keys still count, at most 93d.")
    ] = "31d",
    consent_to: Annotated[
        str | None,
        typer.Option(metavar="CARD", help="Consent to keys made elsewhere; change none here."),
    ] = None,
    tell: Annotated[
        bool, typer.Option("--tell", help="Only tell the peers what was signed before.")
    ] = False,
    no_tell: Annotated[
        bool, typer.Option("--no-tell", help="Tell nobody; peers hear of it in passing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Give this site new keys, under a succession that the old ones sign.

    Peers that hear of it follow: over the link, or by `chunkq peer follow LINE`.
    """
    from chunkq.storage.keys import change_ring, load_ring

    options = Options.of(ctx, json=json)
    settings = options.load(log__level=None if options.verbose else "error").settings
    path, name = settings.directories.keys_file, settings.site_name
    grace_ms = _grace_ms(grace)
    now_ms = wall_ms()
    if consent_to is not None:
        _consent(options, settings, consent_to, grace_ms, yes=yes)
        return
    if tell:
        ring = load_ring(path)
    else:
        confirm(f"{name} gets new keys; the old ones count for {grace} more", yes=yes)
        _, ring = change_ring(
            path, lambda ring: ring.rotate(name, os.urandom, now_ms, grace_ms).pruned(now_ms)
        )
    said = ring.statement
    told = {} if no_tell or said is None else tell_peers(settings, [said.line])
    _report(options, settings, ring, told, changed=not tell)


def tell_peers(settings: Settings, lines: list[str]) -> dict[str, bool]:
    """Tell each peer, one line after the other; whether it took note of the last."""
    from chunkq.api.site import Site
    from chunkq.cli.logs import configure

    configure(settings)

    async def telling() -> dict[str, bool]:
        told: dict[str, bool] = {}
        async with Site.open(settings) as site:
            for line in lines:
                told = await site.say(line)
        return told

    return asyncio.run(telling())


def report_told(told: dict[str, bool]) -> None:
    """Who knows, and what to do about the others."""
    if known := sorted(alias for alias, answered in told.items() if answered):
        console.out(f"they know: {', '.join(known)}")
    if silent := sorted(alias for alias, answered in told.items() if not answered):
        console.out(f"no answer yet: {', '.join(silent)}")


def _grace_ms(given: str) -> int:
    from chunkq.errors import UsageError
    from chunkq.protocol.limits import MAX_GRACE_MS
    from chunkq.settings.quantity import parse_duration

    try:
        grace_ms = int(parse_duration(given) * 1000)
    except ValueError as error:
        raise UsageError(f"--grace: {error}") from None
    if grace_ms > MAX_GRACE_MS:
        raise UsageError(f"--grace {given} is too long", hint="93d is the most")
    return grace_ms


def _report(
    options: Options, settings: Settings, ring: KeyRing, told: dict[str, bool], *, changed: bool
) -> None:
    from chunkq.protocol.identity import card_of, encode_card, fingerprint
    from chunkq.settings.trust import moment

    name = settings.site_name
    card, mark = encode_card(ring.keys, name), fingerprint(card_of(ring.keys, name))
    line = ring.statement.line if ring.statement else ""
    if options.json:
        fields = {"name": name, "card": card, "fingerprint": mark, "statement": line}
        console.emit("keys", {**fields, "until_ms": ring.until_ms, "told": told, "new": changed})
        return
    if not line:
        console.out(f"{name}'s keys were never changed: there is nothing to tell")
        return
    if changed:
        console.out(f"{name} has new keys.\n\nIts card, for new peers:\n\n{card}\n")
        console.out(f"Its fingerprint:  {mark}\n")
    console.out(f"The succession, for peers that do not hear of it (no secret):\n\n{line}\n")
    report_told(told)
    if options.quiet:
        return
    until = moment(ring.until_ms).strftime("%Y-%m-%d %H:%M UTC")
    console.out(
        f"""
Requests by the old keys, and to them, count until {until}.
Peers follow when they hear of it: whenever they ask this site or are asked.
Others need the line:  chunkq peer follow LINE
Were the old keys stolen?  chunkq revoke --retired"""
    )


def _consent(options: Options, settings: Settings, card: str, grace_ms: int, *, yes: bool) -> None:
    """Sign that other keys may succeed these."""
    from chunkq.errors import UsageError
    from chunkq.protocol.identity import CARD_PREFIX, decode_card, fingerprint
    from chunkq.settings.trust import MAX_CARD_LENGTH
    from chunkq.storage.keys import change_ring

    line = read_line(
        card,
        prefixes=(CARD_PREFIX,),
        what="card",
        printed_by="`chunkq id` on the new machine",
        largest=MAX_CARD_LENGTH,
    )
    to, name = decode_card(line), settings.site_name
    if to.name != name:
        raise UsageError(
            f"the card is of a site called {to.name}, this is {name}",
            hint=f"on the new machine: chunkq init --name {name}",
        )
    mark = fingerprint(to)
    confirm(f"whoever has the keys of {mark} becomes {name} to every peer", yes=yes)
    now_ms = wall_ms()
    _, ring = change_ring(
        settings.directories.keys_file, lambda ring: ring.consent_to(to, now_ms, grace_ms)
    )
    assert ring.consented is not None
    consent = ring.consented.consent_line
    if options.json:
        console.emit("consent", {"name": name, "to": mark, "consent": consent})
        return
    console.out(consent)
    if not options.quiet:
        console.note(
            "Stop the workers here, then on the new machine: chunkq takeover LINE\n"
            "From then on it is this site; this machine's keys only serve to revoke."
        )
