"""`chunkq share`: offer directories and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import NotFound, UsageError
from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from chunkq.settings import Directories, Grant, Registry, ShareConfig, make_share
from chunkq.settings.places import expand_home
from chunkq.settings.quantity import parse_size, show_size

EXAMPLES: Final = """\b
Examples:
  chunkq share add docs /srv/docs --to beta     offer it, and let beta see it
  chunkq share add images /srv/vm --chunk-size 1MiB
  chunkq share ls
  chunkq share rm docs                          offered no more, at once
"""

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXAMPLES,
    help="Offer directories to peers.",
)


@app.command("add", epilog=EXAMPLES)
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What peers call it: a-z, 0-9 and -.")],
    path: Annotated[Path, typer.Argument(help="The directory, or one file.")],
    *,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="A peer that may see all of it; repeatable.")
    ] = None,
    chunk_size: Annotated[
        str, typer.Option(help="The piece that files are cut into: 4KiB to 4MiB.")
    ] = show_size(DEFAULT_CHUNK_SIZE_BYTES),
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Offer what links inside the tree lead to."),
    ] = False,
    hidden: Annotated[
        bool, typer.Option("--hidden/--no-hidden", help="Offer names that begin with a dot.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Offer a directory under a name. Only peers with a grant see it."""
    options = Options.of(ctx, json=json)
    directories = options.load().settings.directories
    try:
        size = parse_size(chunk_size)
    except ValueError as error:
        raise UsageError(f"--chunk-size: {error}") from None
    share = make_share(
        name,
        _check_path(path, directories),
        chunk_size_bytes=size,
        follow_links=follow_links,
        hidden=hidden,
        grants=tuple(Grant(peer) for peer in to or ()),
    )
    registry = Registry(directories)
    added = registry.add_share(share)
    share = registry.share(name)
    if options.json:
        console.emit("share", {**_describe(share), "added": added})
        return
    console.out(f"{'offered' if added else 'already offered'}: {name} ({share.path})")
    if share.grants:
        console.out(f"seen by: {', '.join(_who(grant) for grant in share.grants)}")
    elif not options.quiet:
        console.note(f"Nobody sees it yet. Let a peer see it with: chunkq grant PEER {name}")


@app.command("ls")
def ls(ctx: typer.Context, *, json: JsonOption = False) -> None:
    """List what is offered, and to whom."""
    options = Options.of(ctx, json=json)
    registry = Registry(options.load().settings.directories)
    rows = []
    for name, share in sorted(registry.shares.items()):
        if options.json:
            console.emit("share", _describe(share))
        seen_by = ", ".join(_who(grant) for grant in share.grants)
        rows.append((name, str(share.path), show_size(share.chunk_size_bytes), seen_by or "-"))
    for problem in registry.problems:
        console.warn(problem.message)
    if rows and not options.json:
        console.table(("SHARE", "DIRECTORY", "CHUNK", "SEEN BY"), rows)
    if not rows and not options.quiet:
        console.note("Nothing is offered. Offer a directory with: chunkq share add NAME PATH")


@app.command("rm")
def rm(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The share.")],
    *,
    json: JsonOption = False,
) -> None:
    """Offer it no more. The directory itself stays as it is."""
    options = Options.of(ctx, json=json)
    Registry(options.load().settings.directories).remove_share(name)
    if options.json:
        console.emit("share_removed", {"name": name})
    else:
        console.out(f"no longer offered: {name}")


def _check_path(given: Path, directories: Directories) -> Path:
    """The whole path of what may be offered. Raises `UsageError`, `NotFound`."""
    path = expand_home(given).resolve()
    if not path.exists():
        raise NotFound(f"{path} does not exist", hint="give a directory, or one file")
    if not path.is_dir() and not path.is_file():
        raise UsageError(f"{path} is neither a directory nor a regular file")
    for own in (directories.config.resolve(), directories.state.resolve()):
        if own.is_relative_to(path) or path.is_relative_to(own):
            raise UsageError(
                f"{path} cannot be offered: chunkq keeps its keys or its state in {own}",
                hint="offer a directory that does not hold it",
            )
    return path


def _describe(share: ShareConfig) -> dict[str, object]:
    return {
        "name": share.name,
        "path": str(share.path),
        "chunk_size": share.chunk_size_bytes,
        "follow_links": share.follow_links,
        "hidden": share.hidden,
        "grants": [{"peer": grant.peer, "prefix": grant.prefix} for grant in share.grants],
    }


def _who(grant: Grant) -> str:
    return f"{grant.peer} ({grant.prefix}/)" if grant.prefix else grant.peer
