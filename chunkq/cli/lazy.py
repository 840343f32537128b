"""The commands by name, and a group that imports a command's module only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import typer
from typer.core import TyperGroup

#: Command → module and the line that `chunkq --help` shows, in the order of a first acquaintance.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("chunkq.cli.demo", "Show in a few seconds what chunkq does, killed and resumed."),
    "init": ("chunkq.cli.init", "Make this site's keys and configuration."),
    "id": ("chunkq.cli.identity", "Print this site's card, to be given to peers."),
    "peer": ("chunkq.cli.peer", "Pin, list and forget the sites this one deals with."),
    "share": ("chunkq.cli.share", "Offer directories to peers."),
    "grant": ("chunkq.cli.grant", "Let a peer see a share, or no longer."),
    "serve": ("chunkq.cli.serve", "Answer the requests of peers (an origin worker)."),
    "ls": ("chunkq.cli.ls", "List what a peer offers."),
    "get": ("chunkq.cli.get", "Get files or directories from a peer; resumes."),
    "work": ("chunkq.cli.work", "Do the jobs that `get --queue` left (a requester worker)."),
    "status": ("chunkq.cli.status", "Show transfers: running, pending, failed, and why."),
    "history": ("chunkq.cli.history", "Show transfers that ended, and who did what."),
    "dashboard": ("chunkq.cli.dashboard", "Serve the page that shows transfers and steers them."),
    "pause": ("chunkq.cli.pause", "Let transfers rest, with all that has come."),
    "resume": ("chunkq.cli.resume", "Let paused transfers go on."),
    "cancel": ("chunkq.cli.cancel", "Give transfers up."),
    "retry": ("chunkq.cli.retry", "Let transfers be tried again that failed."),
    "prio": ("chunkq.cli.prio", "Give transfers another priority."),
    "link": ("chunkq.cli.link", "Freeze a link for a while, or thaw it."),
    "drain": ("chunkq.cli.drain", "Let workers finish what they have, and end."),
    "verify": ("chunkq.cli.verify", "Check a file that was got against its signed manifest."),
    "bench": ("chunkq.cli.bench", "Measure the link to a peer and say what to configure."),
    "doctor": ("chunkq.cli.doctor", "Check keys, configuration, links, clock and disk."),
    "rotate": ("chunkq.cli.rotate", "Give this site new keys; peers that see it follow."),
    "takeover": ("chunkq.cli.takeover", "Take over from another machine, with its consent."),
    "revoke": ("chunkq.cli.revoke", "End this site's keys, or stop trusting a peer, at once."),
    "config": ("chunkq.cli.config", "Show the settings and where each comes from."),
    "version": ("chunkq.cli.version", "Print the version of chunkq and of what it uses."),
}


class LazyGroup(TyperGroup):
    """The group of `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(importlib.import_module(COMMANDS[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base class does, which knows the nearest name only of loaded commands."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(
                f"no command is called {args[0]!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
