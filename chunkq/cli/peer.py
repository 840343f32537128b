"""`chunkq peer`: pin, list and forget peers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from chunkq.cli import console, peer_follow, peer_freeze, peer_set, peer_show
from chunkq.cli.lines import read_line
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import NotFound, UsageError
from chunkq.protocol.identity import CARD_PREFIX, decode_card, fingerprint
from chunkq.protocol.succession import is_statement
from chunkq.settings import DEFAULT_LINK, Peer, Registry, Settings, check_label
from chunkq.settings.trust import MAX_CARD_LENGTH
from chunkq.storage.replays import ReplayStore

EXAMPLES: Final = """\b
Examples:
  chunkq peer add chunkq-card:1:beta:...    a card as text
  chunkq peer add beta.card --as backup     a card in a file, called backup
  ssh beta chunkq id | chunkq peer add -    a card from a pipe
  chunkq peer ls
  chunkq peer show backup                   its card, keys, grants and quotas
  chunkq peer set backup --bytes-per-day 50GiB
  chunkq peer follow chunkq-succession:...  it has new keys, signed by the old
  chunkq peer freeze backup                 nothing is asked of it for a while
  chunkq peer rm backup                     revoked at once
"""

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXAMPLES,
    help="Pin, list and forget the sites this one deals with.",
)


@app.command("add", epilog=EXAMPLES)
def add(
    ctx: typer.Context,
    card: Annotated[str, typer.Argument(help="A card, a file with one, or - for stdin.")],
    *,
    alias: Annotated[
        str | None, typer.Option("--as", help="What to call it here. Default: its own name.")
    ] = None,
    link: Annotated[str, typer.Option(help="The link it is reached by.")] = DEFAULT_LINK,
    address: Annotated[
        str | None, typer.Option(help="Its name on that link. Default: its own name.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Its keys have changed: put this card in place.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow", help="Follow its changes of keys when they are heard of."
        ),
    ] = True,
    json: JsonOption = False,
) -> None:
    """Pin a peer by its card, and show the card's fingerprint.

    Nothing is taken on trust: compare the fingerprint with the peer's owner by another way than
    the one the card came.
    """
    options = Options.of(ctx, json=json)
    settings = options.load().settings
    line = _read_card(card)
    decoded = decode_card(line)
    _check_link(settings, link)
    name = check_label(alias or decoded.name, "peer")
    peer = Peer(
        alias=name,
        card=decoded,
        card_line=line,
        link=link,
        address=check_label(address or decoded.name, "site on a link"),
        added_at=datetime.now(UTC),
        follow=follow,
    )
    registry = Registry(settings.directories)
    stranger = registry.peer_by_key(decoded.verify_key) is None
    added = registry.add_peer(peer, replace_card=replace)
    if stranger:
        # no request of its was ever taken; a record of an earlier pinning stays as it is
        ReplayStore(settings.directories.replays).create(decoded.verify_key)
    mark = fingerprint(decoded)
    if options.json:
        fields = {"alias": name, "name": decoded.name, "fingerprint": mark, "added": added}
        console.emit("peer", fields)
        return
    console.out(f"{'pinned' if added else 'already pinned'}: {name}")
    console.out(f"fingerprint: {mark}")
    if added and not options.quiet:
        console.note(
            f"Compare it with what `chunkq id` shows on {decoded.name}, by telephone or in person."
        )


@app.command("ls")
def ls(ctx: typer.Context, *, json: JsonOption = False) -> None:
    """List the pinned peers."""
    options = Options.of(ctx, json=json)
    registry = Registry(options.load().settings.directories)
    rows = []
    for alias, peer in sorted(registry.peers.items()):
        shares = sorted({name for name, _ in registry.granted(alias)})
        mark = fingerprint(peer.card)
        if options.json:
            fields = {"alias": alias, "name": peer.card.name, "link": peer.link}
            console.emit(
                "peer",
                {
                    **fields,
                    "address": peer.address,
                    "fingerprint": mark,
                    "may_see": shares,
                    "keys": peer_show.state_of(peer),
                },
            )
        may_see = ", ".join(shares) or "-"
        rows.append((alias, peer.link, peer.address, may_see, peer_show.state_of(peer), mark))
    for problem in registry.problems:
        console.warn(problem.message)
    if rows and not options.json:
        console.table(("PEER", "LINK", "ADDRESS", "MAY SEE", "KEYS", "FINGERPRINT"), rows)
    if not rows and not options.quiet:
        console.note("No peer is pinned. Pin one with: chunkq peer add CARD")


app.command("show")(peer_show.show)
app.command("set", epilog=peer_set.EXAMPLES)(peer_set.set_)
app.command("freeze", epilog=peer_freeze.EXAMPLES)(peer_freeze.freeze)
app.command("thaw", epilog=peer_freeze.EXAMPLES)(peer_freeze.thaw)
app.command("follow", epilog=peer_follow.EXAMPLES)(peer_follow.follow)


@app.command("rm")
def rm(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    json: JsonOption = False,
) -> None:
    """Forget a peer, at once.

    From now on its requests have no effect, and its grants are gone.
    """
    options = Options.of(ctx, json=json)
    registry = Registry(options.load().settings.directories)
    dropped = registry.remove_peer(alias)
    shares = sorted({name for name, _ in dropped})
    if options.json:
        console.emit("peer_removed", {"alias": alias, "grants_dropped": shares})
        return
    console.out(f"removed: {alias}")
    if shares:
        console.out(f"it may no longer see: {', '.join(shares)}")


def _read_card(given: str) -> str:
    """The card as one line. Raises `UsageError`, `NotFound`."""
    if is_statement(given):
        raise UsageError(
            "this is no card, but what a peer says of its keys",
            hint="chunkq peer follow LINE",
        )
    return read_line(
        given,
        prefixes=(CARD_PREFIX,),
        what="card",
        printed_by="`chunkq id`",
        largest=MAX_CARD_LENGTH,
    )


def _check_link(settings: Settings, link: str) -> None:
    try:
        settings.link(link)
    except NotFound as error:
        raise UsageError(error.message, hint=error.hint) from None
