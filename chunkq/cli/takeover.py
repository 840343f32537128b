"""`chunkq takeover`: this machine replaces another one, with its consent."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.confirm import confirm
from chunkq.cli.lines import read_line
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.rotate import report_told, tell_peers
from chunkq.protocol.identity import card_of, encode_card, fingerprint
from chunkq.protocol.succession import CONSENT_PREFIX, MAX_STATEMENT_LENGTH, decode_consent
from chunkq.storage.keys import change_ring

EXAMPLES: Final = """\b
Examples:
  chunkq init --name NAME            on the new machine, the same name
  chunkq id                          there: its card
  chunkq rotate --consent-to CARD    on the old one; and stop its workers
  chunkq peer add CARD               on the new one: the peers, as they were
  chunkq takeover LINE               there: from now on it is the site
\b
No secret travels. Without the old machine's consent a new one is a new site.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def takeover(
    ctx: typer.Context,
    line: Annotated[str, typer.Argument(help="A consent, a file with one, or - for stdin.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Succeed the keys of another machine: its peers follow to the keys made here."""
    from chunkq.errors import UsageError

    options = Options.of(ctx, json=json)
    settings = options.load(log__level=None if options.verbose else "error").settings
    name = settings.site_name
    text = read_line(
        line,
        prefixes=(CONSENT_PREFIX,),
        what="consent",
        printed_by="`chunkq rotate --consent-to CARD` on the old machine",
        largest=MAX_STATEMENT_LENGTH,
    )
    consented = decode_consent(text)
    if consented.name != name:
        raise UsageError(
            f"the consent is of a site called {consented.name}, this is {name}",
            hint="set this one up with that name: chunkq init --name, in a directory of its own",
        )
    old = fingerprint(consented.links[-1].old)
    confirm(f"{name}'s peers will know it by the keys of this machine, no more by {old}", yes=yes)
    _, ring = change_ring(settings.directories.keys_file, lambda ring: ring.take_over(consented))
    assert ring.succession is not None
    statement = ring.succession.line
    told = tell_peers(settings, [statement])
    if options.json:
        fields = {"name": name, "card": encode_card(ring.keys, name), "statement": statement}
        console.emit("keys", {**fields, "until_ms": ring.until_ms, "told": told, "new": True})
        return
    console.out(f"This machine is {name} now.\n")
    console.out(f"Its fingerprint:  {fingerprint(card_of(ring.keys, name))}\n")
    console.out(f"The succession, for peers that do not hear of it (no secret):\n\n{statement}\n")
    report_told(told)
    if not options.quiet:
        console.out("\nAfter pinning the peers here: chunkq rotate --tell")
