"""`chunkq get`: files and directories from a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from signal import Signals
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.protocol.priority import PriorityWord
from chunkq.storage.wallclock import wall_ms

if TYPE_CHECKING:
    from chunkq.api.batch import Placed
    from chunkq.api.site import Site
    from chunkq.api.transfer import Transfer
    from chunkq.cli.progress import Meter, Screen
    from chunkq.errors import ChunkqError
    from chunkq.runtime.progress import Result
    from chunkq.settings import Settings

EXAMPLES: Final = """\b
Examples:
  chunkq get bob:docs/report.pdf            to ./report.pdf
  chunkq get bob:docs/report.pdf /srv/in/   into that directory
  chunkq get bob:docs/2026/ reports         a directory, into ./reports
  chunkq get bob:docs/a bob:docs/b /srv/in/ several in one command
  chunkq get bob:docs/x.iso eve:pub/x.iso   one file, from both at once
  chunkq get --queue bob:images/vm.img      leave it to `chunkq work`
\b
Stopped, killed or out of power: the same command goes on where it was.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def get(
    ctx: typer.Context,
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="SITE:SHARE/PATH... [DEST]", help="With a slash: a directory."),
    ],
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is at the destination.")
    ] = False,
    links: Annotated[
        bool, typer.Option("--links", help="Carry symbolic links that stay inside the tree.")
    ] = False,
    patience: Annotated[
        str | None, typer.Option(help="Give up after so long without an answer, e.g. 10m.")
    ] = None,
    priority: Annotated[
        PriorityWord, typer.Option(help="urgent overtakes what is under way, all overtakes bulk.")
    ] = "normal",
    queue: Annotated[
        bool, typer.Option("--queue", help="Leave a job for `chunkq work` and return.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Get files or directories from a peer, verified; resumes where it stopped."""
    from chunkq.api.batch import place, split_arguments

    options = Options.of(ctx, json=json)
    loaded = options.load(
        requester__patience=patience, log__level=None if options.verbose else "error"
    )
    sources, destination = split_arguments(arguments)
    placed = place(sources, destination)
    _check_peers(placed, loaded.settings)
    if queue:
        wishes = {"overwrite": overwrite, "links": links, "priority": priority}
        return _leave_job(loaded.settings, placed, wishes, json=json)
    from chunkq.cli.logs import configure

    configure(loaded.settings)
    getting = Getting(loaded.settings, options, overwrite=overwrite, links=links, priority=priority)
    return asyncio.run(getting.run(placed))


def _check_peers(placed: list[Placed], settings: Settings) -> None:
    """A typo in a peer's name is found before anything is begun."""
    from chunkq.settings import Registry

    registry = Registry(settings.directories)
    for each in placed:
        for source in each.sources:
            registry.peer(source.peer).check_trusted()


def _leave_job(
    settings: Settings,
    placed: list[Placed],
    wishes: Mapping[str, str | bool],
    *,
    json: bool,
) -> int:
    from chunkq.api.site import origin_of
    from chunkq.settings import Registry
    from chunkq.settings.actor import actor
    from chunkq.storage.jobs import JobStore

    store = JobStore(settings.directories.state)
    registry = Registry(settings.directories)
    for each in placed:
        job = store.add(
            tuple(map(str, each.sources)),
            str(each.path.absolute()),
            options=wishes,
            created_ms=wall_ms(),
            by=actor(),
            origin=origin_of(registry.peer(each.source.peer)),
        )
        if json:
            fields = {"job": job.job_id, "source": str(each.source), "to": str(each.path)}
            console.emit("queued", fields)
        else:
            console.out(f"queued: {each} -> {each.path} (job {job.job_id})")
    return 0


class Getting:
    """One run of `get`: its transfers one after the other, and how they ended."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        overwrite: bool,
        links: bool,
        priority: PriorityWord,
    ) -> None:
        self._settings = settings
        self._options = options
        self._overwrite = overwrite
        self._links = links
        self._priority: PriorityWord = priority
        self._line = "before anything came"
        self._stopped = self._cut_short = False
        self._current: tuple[Transfer, Meter, Screen] | None = None
        #: Sources of which nothing came, and files of trees, with why.
        self._lost: list[ChunkqError] = []
        self._lost_in_trees = 0
        self._files = 0

    async def run(self, placed: list[Placed]) -> int:
        from chunkq.api.site import Site
        from chunkq.cli.interrupt import stopping
        from chunkq.errors import Stopped

        with stopping(self._on_stop, self._on_status):
            async with Site.open(self._settings, role="get") as site:
                for each in placed:
                    if self._stopped:
                        self._cut_short = True
                        break
                    await self._one(site, each, alone=len(placed) == 1)
                self._tell_keys(site)
        if self._cut_short:
            raise Stopped(f"stopped: {self._line}", hint="run the same command to go on")
        return self._end()

    async def _one(self, site: Site, placed: Placed, *, alone: bool) -> None:
        from chunkq.cli.progress import Meter, Screen, render
        from chunkq.errors import ChunkqError
        from chunkq.settings.actor import actor

        options = self._options
        screen = Screen(
            as_json=options.json,
            quiet=options.quiet,
            interval_s=self._settings.progress.interval_s,
        )
        source, *mirrors = map(str, placed.sources)
        transfer = site.fetch(
            source,
            placed.path,
            mirrors=mirrors,
            overwrite=self._overwrite,
            links=self._links,
            priority=self._priority,
            by=actor(),
            durable=True,
        )
        meter = Meter()
        self._current = transfer, meter, screen
        try:
            async for progress in transfer:
                screen.show(progress, meter, time.monotonic())
                if progress.phase != "stopped":  # by then nothing is known of it any more
                    self._line = render(progress, meter, 60)
        finally:
            screen.clear()
        try:
            self._report(await transfer)
        except ChunkqError as error:
            _say_where(error, placed)
            self._lost.append(error)
            if not alone:
                self._tell(source, error)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            self._cut_short = True

    def _tell_keys(self, site: Site) -> None:
        """A peer's change of keys is a notice for people, whatever is logged."""
        from chunkq.protocol.identity import fingerprint

        for news, peer in site.trust.news:
            mark = fingerprint(peer.card)
            if self._options.json:
                fields = {"alias": peer.alias, "news": news, "fingerprint": mark}
                console.emit("peer_keys", fields)
            elif news == "succession":
                text = f"{peer.alias} has new keys, signed by the old ones; fingerprint: {mark}"
                console.note(text)
            else:
                console.warn(f"{peer.alias}: {peer.detail or 'its old keys count no more'}")

    def _on_stop(self, _: Signals) -> None:
        self._stopped = True
        if self._current is not None:
            self._current[0].cancel()

    def _on_status(self) -> None:
        from chunkq.cli.progress import render

        if self._current is None:
            console.note("opening")
            return
        transfer, meter, screen = self._current
        screen.clear()
        console.note(render(transfer.progress(), meter, 200))

    def _report(self, result: Result) -> None:
        from chunkq.cli.progress import origins_text, size_text

        self._files += result.files + result.unchanged
        for path, error in result.failures:
            self._lost_in_trees += 1
            if path not in error.message:
                error.message = f"{path}: {error.message}"
            self._tell(path, error)
        if self._options.json:
            console.emit("result", _fields(result))
        elif not self._options.quiet:
            what = size_text(result.size_bytes)
            if result.content_digest:
                state = "already there" if result.unchanged else what
                line = f"{result.destination}  {state}  blake3:{result.content_digest}"
            else:
                kept = f", {result.unchanged} already there" if result.unchanged else ""
                left = f", links left out: {result.links_left}" if result.links_left else ""
                files = f"{result.files} file" + ("" if result.files == 1 else "s")
                line = f"{result.destination}  {files}, {what}{kept}{left}"
            console.out(console.clean(line))
            if len(result.origins) + len(result.left) > 1:
                console.note(console.clean(origins_text(result.origins, result.left)))

    def _tell(self, path: str, error: ChunkqError) -> None:
        """One of several that failed, as soon as that is known."""
        if self._options.json:
            fields = {"path": path, "error": type(error).__name__, "message": error.message}
            console.emit("failed", fields)
        else:
            console.warn(error.message)

    def _end(self) -> int:
        """0, or the error that tells the whole."""
        from chunkq.errors import ExitCode, PartialFailure

        failed = len(self._lost) + self._lost_in_trees
        if not failed:
            return ExitCode.OK
        same = len({error.exit_code for error in self._lost}) == 1
        if same and not self._files and not self._lost_in_trees:
            raise self._lost[0]
        raise PartialFailure(
            f"{failed} of {self._files + failed} files failed",
            hint="they are named above; run the same command to try them again",
        )


def _say_where(error: ChunkqError, placed: Placed) -> None:
    """Name the source as it was given; and the place, where that is what is wrong."""
    from chunkq.errors import NotFound, StorageError

    source = placed.source
    what = str(placed.path) if isinstance(error, StorageError) else str(source)
    message = error.message.removeprefix(f"{source.path}: ")
    error.message = message if what in message else f"{what}: {message}"
    if isinstance(error, NotFound) and not source.tree:
        share = f"{source.peer}:{source.share}"
        error.hint = f"chunkq ls {share} shows what is there; a directory is named with a slash"


def _fields(result: Result) -> dict[str, object]:
    return {
        "source": result.source,
        "destination": result.destination,
        "size_bytes": result.size_bytes,
        "new_bytes": result.new_bytes,
        "blake3": result.content_digest,
        "resumed_chunks": result.resumed_chunks,
        "duplicate_chunks": result.duplicate_chunks,
        "files": result.files,
        "unchanged": result.unchanged,
        "links_left": result.links_left,
        "failed": len(result.failures),
        "origins": dict(result.origins),
        "left": dict(result.left),
    }
