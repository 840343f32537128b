"""`chunkq id`: this site's card."""

from __future__ import annotations

from typing import Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.protocol.identity import card_of, encode_card, fingerprint
from chunkq.storage.keys import load_keys

EXAMPLES: Final = """\b
Examples:
  chunkq id > alpha.card                  to be sent to a peer, by any way
  ssh beta chunkq id | chunkq peer add -
\b
The card holds no secret. The fingerprint goes to stderr, to be compared by
another way than the one the card travels.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command("id", epilog=EXAMPLES)
def show_card(ctx: typer.Context, *, json: JsonOption = False) -> None:
    """Print this site's card: one line, on stdout."""
    options = Options.of(ctx, json=json)
    settings = options.load().settings
    name = settings.site_name
    keys = load_keys(settings.directories.keys_file)
    card = encode_card(keys, name)
    mark = fingerprint(card_of(keys, name))
    if options.json:
        console.emit("card", {"name": name, "card": card, "fingerprint": mark})
        return
    console.out(card)
    if not options.quiet:
        console.note(f"fingerprint: {mark}")
