"""`chunkq init`: keys and configuration."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import IdentityError, UsageError
from chunkq.protocol.identity import SiteKeys, card_of, encode_card, fingerprint
from chunkq.settings import Directories, check_label, check_link_url
from chunkq.settings.files import write_text
from chunkq.settings.template import render_config
from chunkq.storage.keys import load_keys, save_keys

EXAMPLES: Final = """\b
Examples:
  chunkq init                                     named like this machine
  chunkq init --name alpha
  chunkq init --name alpha --link amqps://alpha:PASSWORD@broker.example/chunkq
  chunkq init --name alpha --link spool:///mnt/stick/chunkq
\b
What is there already is never overwritten.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def init(
    ctx: typer.Context,
    *,
    name: Annotated[
        str | None, typer.Option(help="What the site calls itself: a-z, 0-9 and -.")
    ] = None,
    link: Annotated[
        str | None, typer.Option(metavar="URL", help="How peers are reached by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make this site's keys (readable by you only) and its configuration."""
    options = Options.of(ctx, json=json)
    if name is not None:
        check_label(name, "site")
    if link is not None:
        check_link_url(link)
    directories = options.load().settings.directories
    made = _ensure_config(options, directories, name, link)
    keys, new_keys = _ensure_keys(directories)
    settings = options.load().settings
    site = settings.site_name
    card, mark = encode_card(keys, site), fingerprint(card_of(keys, site))
    made = made or new_keys
    if options.json:
        fields = {"name": site, "card": card, "fingerprint": mark, "made": made}
        console.emit("site", {**fields, "config_dir": str(directories.config)})
        return
    if not made:
        console.out(f"{site} is set up already, in {directories.config}; nothing was changed.")
        return
    console.out(f"{site} is set up, in {directories.config}")
    if options.quiet:
        return
    console.out(
        f"""
Its card, to be given to peers by any way (chunkq id prints it again):

{card}

Its fingerprint, to be compared by another way:  {mark}

Next:
  chunkq peer add CARD                      pin a peer by its card
  chunkq share add docs PATH --to PEER      offer a directory to it
  chunkq serve                              answer its requests
  chunkq get PEER:SHARE/PATH                or get something from it
  chunkq doctor                             check that all is well"""
    )


def _ensure_config(
    options: Options, directories: Directories, name: str | None, link: str | None
) -> bool:
    """Write config.toml if there is none; whether it was. Raises `UsageError` if it disagrees."""
    path = directories.config_file
    if not path.exists():
        write_text(path, render_config(name or _name_of_machine(), link))
        return True
    settings = options.load().settings
    if name not in (None, settings.name):
        raise UsageError(
            f"this site is set up already, and is called {settings.name}, not {name}",
            hint=f"change {path}, or set up another site with --config-dir and --state-dir",
        )
    if link not in (None, settings.links["default"].url):
        raise UsageError(
            "this site is set up already, with another default link", hint=f"change it in {path}"
        )
    return False


def _ensure_keys(directories: Directories) -> tuple[SiteKeys, bool]:
    """The site's keys, made if there are none; whether they were made."""
    path = directories.keys_file
    if os.path.lexists(path):
        return load_keys(path), False
    keys = SiteKeys.generate(os.urandom)
    save_keys(path, keys)
    return keys, True


def _name_of_machine() -> str:
    """The host's name as a label. Raises `IdentityError` if it cannot be one."""
    host = socket.gethostname().partition(".")[0].lower()
    label = re.sub(r"[^a-z0-9-]+", "-", host).strip("-")[:63]
    if not label:
        raise IdentityError(
            f"this machine is called {host!r}, which cannot name a site",
            hint="chunkq init --name NAME",
        )
    return label
