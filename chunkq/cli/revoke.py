"""`chunkq revoke`: the end of keys, one's own or a peer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.confirm import confirm
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.rotate import report_told, tell_peers
from chunkq.protocol.succession import Reason
from chunkq.storage.wallclock import wall_ms

if TYPE_CHECKING:
    from chunkq.protocol.keyring import KeyRing
    from chunkq.settings import Settings

EXAMPLES: Final = """\b
Examples:
  chunkq revoke --reason compromised  this site's keys were stolen: the end
  chunkq revoke --retired             only the keys before the last change
  chunkq revoke --peer bob            nothing of bob counts here any more
\b
Whoever holds a key can revoke it. Nothing that the key signs afterwards, or
says that it signed before, has an effect on a peer that has heard of it.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def revoke(
    ctx: typer.Context,
    *,
    peer: Annotated[
        str | None, typer.Option(metavar="PEER", help="Distrust a peer, here, at once.")
    ] = None,
    retired: Annotated[
        bool, typer.Option("--retired", help="End the keys before the present ones now.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="For people: unspecified, compromised or retired.")
    ] = "unspecified",
    no_tell: Annotated[bool, typer.Option("--no-tell", help="Tell nobody.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """End this site's keys for good and tell the peers; or stop trusting a peer."""
    options = Options.of(ctx, json=json)
    settings = options.load(log__level=None if options.verbose else "error").settings
    if peer is not None:
        _distrust(options, settings, peer)
        return
    word = _reason(reason)
    chain, lines = _sign(settings, word, retired=retired, yes=yes)
    # a peer that did not hear of the last change has to, before it can make sense of the end
    told = {} if no_tell or not lines else tell_peers(settings, [*chain, *lines])
    name = settings.site_name
    if options.json:
        console.emit("revoked", {"name": name, "statements": lines, "told": told})
        return
    if not lines:
        console.out(f"{name} has no retired keys that still count; nothing was done")
        return
    what = f"{name}'s old keys count no more" if retired else f"{name}'s keys are revoked"
    console.out(f"{what}.\n\nFor peers that do not hear of it (no secret):\n")
    for line in lines:
        console.out(f"{line}\n")
    _report(told, retired=retired, quiet=options.quiet)


def _reason(given: str) -> Reason:
    from chunkq.errors import UsageError

    try:
        return Reason[given.upper()]
    except KeyError:
        words = ", ".join(each.name.lower() for each in Reason)
        raise UsageError(f"--reason {given} is none of: {words}") from None


def _sign(
    settings: Settings, reason: Reason, *, retired: bool, yes: bool
) -> tuple[list[str], list[str]]:
    """The succession, and what the keys say of their own end, which is kept before it is told."""
    from chunkq.storage.keys import change_ring

    name, path = settings.site_name, settings.directories.keys_file
    now_ms = wall_ms()
    if not retired:
        confirm(f"{name}'s keys end for good; every peer has to pin a new card", yes=yes)
        _, ring = change_ring(path, lambda ring: ring.revoke(name, reason, now_ms))
        assert ring.revocation is not None
        return _chain(ring), [ring.revocation.line]
    confirm(f"what {name}'s old keys sign, or is sealed to them, counts no more", yes=yes)
    lines: list[str] = []

    def end(ring: KeyRing) -> KeyRing:
        ended, said = ring.revoke_retired(name, reason, now_ms)
        lines.extend(each.line for each in said)
        return ended if said else ring

    _, ring = change_ring(path, end)
    return _chain(ring), lines


def _chain(ring: KeyRing) -> list[str]:
    return [ring.succession.line] if ring.succession else []


def _report(told: dict[str, bool], *, retired: bool, quiet: bool) -> None:
    report_told(told)
    if quiet:
        return
    console.out("Others need the line:  chunkq peer follow LINE")
    if not retired:
        console.out(
            "`chunkq serve` goes on telling whoever asks, and answers nothing else.\n"
            "For a new identity: move site.keys away, then `chunkq init`."
        )


def _distrust(options: Options, settings: Settings, alias: str) -> None:
    from chunkq.settings import Registry

    now_ms = wall_ms()
    registry = Registry(settings.directories)
    changed = registry.distrust_peer(alias, now_ms, "distrusted here, by `chunkq revoke --peer`")
    if options.json:
        console.emit("peer_distrusted", {"alias": alias, "changed": changed})
        return
    if changed:
        console.out(f"{alias} is not trusted any more: nothing is asked of it or answered to it")
    else:
        console.out(f"{alias} was not trusted already: {registry.peer(alias).detail}")
