"""`chunkq verify`: are files still what was received? And if not, mend them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.api.verification import Verification, Verified
    from chunkq.errors import ChunkqError
    from chunkq.protocol.checking import Checked
    from chunkq.settings import Settings

EXAMPLES: Final = """\b
Examples:
  chunkq verify report.pdf                  against what was received
  chunkq verify /srv/in                     all that was received below it
  chunkq verify --repair /srv/in            fetch what is damaged or missing
  chunkq verify --repair --overwrite x.iso  also what was changed on purpose
  chunkq verify --forget /srv/in/old        expect it no more
  chunkq verify --blake3 9f2c... other.iso  against a digest you have
\b
Exit code 6 if the content differs, 4 if a file is missing or not known.
Stopped or killed: the same command goes on where it was.
"""

_READ_BYTES: Final = 1 << 20

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def verify(
    ctx: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files or directories that were got.")
    ],
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch the chunks that are bad, and missing files.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --repair: also what was changed on purpose.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Do not go on where an earlier run was stopped.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Expect these paths, and all below them, no more.")
    ] = False,
    blake3: Annotated[
        str | None, typer.Option(help="The digest to compare with, 64 hexadecimal digits.")
    ] = None,
    patience: Annotated[
        str | None, typer.Option(help="Give up after so long without an answer, e.g. 10m.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Compare received files with what their origin signed; repair what is not."""
    from chunkq.errors import UsageError

    options = Options.of(ctx, json=json)
    if sum((repair, forget, blake3 is not None)) > 1 or (overwrite and not repair):
        raise UsageError(
            "--repair, --forget and --blake3 exclude each other; --overwrite goes with --repair"
        )
    if blake3 is not None:
        return _against_digest(paths, blake3, options)
    level = None if options.verbose else "error"
    settings = options.load(requester__patience=patience, log__level=level).settings
    if forget:
        return _forget(settings, paths, options)
    from chunkq.cli.logs import configure

    configure(settings)
    return asyncio.run(
        Verifying(settings, options, repair=repair, overwrite=overwrite, anew=anew).run(paths)
    )


def _against_digest(paths: list[Path], wanted: str, options: Options) -> int:
    from chunkq.errors import IntegrityError, UsageError

    wanted = wanted.lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise UsageError("--blake3 takes 64 hexadecimal digits, as `b3sum` prints them")
    if len(paths) != 1:
        raise UsageError("--blake3 is the digest of one file")
    actual = _digest(paths[0])
    if options.json:
        fields = {"path": str(paths[0]), "blake3": actual, "matches": actual == wanted}
        console.emit("verified", {**fields, "source": ""})
    if actual != wanted:
        raise IntegrityError(f"{paths[0]} is another file: blake3 is {actual}, not {wanted}")
    if not options.json and not options.quiet:
        console.out(console.clean(f"{paths[0]}: ok, blake3:{actual}"))
    return 0


def _digest(path: Path) -> str:
    from blake3 import blake3

    from chunkq.storage.mapping import storage_errors

    hasher = blake3()
    with storage_errors("read", str(path)), path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _forget(settings: Settings, paths: list[Path], options: Options) -> int:
    from chunkq.api.verification import forget

    count = forget(settings.directories.state, [str(path) for path in paths])
    if options.json:
        console.emit("forgotten", {"files": count})
    elif not options.quiet:
        console.out(f"{count} file{'' if count == 1 else 's'} forgotten")
    return 0


class Verifying:
    """One run of `verify`, and how it ended."""

    def __init__(
        self, settings: Settings, options: Options, *, repair: bool, overwrite: bool, anew: bool
    ) -> None:
        from chunkq.cli.verifyline import Line

        self._settings = settings
        self._options = options
        self._repair = repair
        self._overwrite = overwrite
        self._anew = anew
        self._named: set[str] = set()
        self._stopped = False
        self._current: Verification | None = None
        self._line = Line(as_json=options.json, quiet=options.quiet)

    async def run(self, paths: list[Path]) -> int:
        from chunkq.api.site import Site
        from chunkq.api.verification import Verification
        from chunkq.cli.interrupt import stopping

        names = [str(path) for path in paths]
        self._named = {str(path.absolute()) for path in paths}
        with stopping(self._on_stop):
            if not self._repair:
                state_dir = self._settings.directories.state
                return await self._watch(
                    Verification(state_dir, names, anew=self._anew, on_checked=self._tell)
                )
            async with Site.open(self._settings) as site:
                return await self._watch(
                    site.verify(
                        *names,
                        repair=True,
                        overwrite=self._overwrite,
                        anew=self._anew,
                        on_checked=self._tell,
                    )
                )

    async def _watch(self, verification: Verification) -> int:
        from chunkq.errors import Stopped

        self._current = verification
        try:
            async for standing in verification:
                self._line.show(standing, verification.repairing, time.monotonic())
        finally:
            self._line.clear()
        try:
            return self._end(await verification)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            raise Stopped(
                f"stopped: {self._line.last}", hint="run the same command to go on"
            ) from None

    def _on_stop(self, _: Signals) -> None:
        self._stopped = True
        if self._current is not None:
            self._current.cancel()

    def _tell(self, checked: Checked) -> None:
        """Each file as soon as it is compared."""
        from chunkq.cli.verifyline import fields_of, text_of
        from chunkq.protocol.checking import Verdict

        self._line.clear()
        if self._options.json:
            console.emit("verified", fields_of(checked))
        elif checked.verdict is not Verdict.OK:
            console.out(console.clean(text_of(checked)))
        elif not self._options.quiet and (self._options.verbose or checked.path in self._named):
            source = f", from {checked.source}" if checked.source else ""
            console.out(console.clean(f"{checked.path}: ok, blake3:{checked.blake3}{source}"))

    # ------------------------------------------------------------ the end

    def _end(self, found: Verified) -> int:
        """Say what came of it; 0, or the error that tells the whole."""
        for path, error in found.failures:
            if self._options.json:
                fields = {"path": path, "error": type(error).__name__, "message": error.message}
                console.emit("failed", fields)
            else:
                console.warn(f"{path}: {error.message}")
        for checked in found.repaired:
            if self._options.json:
                console.emit("repaired", {"path": checked.path, "source": checked.source})
            elif not self._options.quiet:
                console.out(console.clean(f"{checked.path}: repaired, from {checked.source}"))
        self._summary(found)
        if error_of_all := self._error(found):
            raise error_of_all
        return 0

    def _summary(self, found: Verified) -> None:
        from chunkq.cli.verifyline import summary

        options = self._options
        if options.json:
            for path in found.unknown:
                console.emit("verified", {"path": path, "verdict": "unknown"})
            console.emit("result", _result_fields(found))
            return
        if options.verbose:
            for path in found.unknown:
                console.out(console.clean(f"{path}: not known as received"))
        single = found.files == 1 and not found.unknown and not found.resumed
        if not options.quiet and not (single and not found.repaired):
            console.out(summary(found))

    def _error(self, found: Verified) -> ChunkqError | None:
        from chunkq.errors import IntegrityError, NotFound, PartialFailure, StorageError
        from chunkq.protocol.checking import Verdict

        if not found.wrong:
            return None
        kinds = {checked.verdict for checked in found.wrong}
        if found.failures:
            errors = [error for _, error in found.failures]
            if len({error.exit_code for error in errors}) == 1:
                return errors[0]
            return PartialFailure(
                f"{len(found.wrong)} of {found.files} files are not as received, still",
                hint="they are named above; run the same command to try them again",
            )
        many = f"{len(found.wrong)} of {found.files} files are not as received"
        one = found.wrong[0]
        told = f"{one.path}: {one.detail}" if len(found.wrong) == 1 else many
        hint = self._hint(found)
        if kinds & {Verdict.DAMAGED, Verdict.CHANGED}:
            return IntegrityError(told, hint=hint)
        if Verdict.MISSING in kinds:
            return NotFound(told, hint=hint)
        return StorageError(told, hint="give this user permission to read it")

    def _hint(self, found: Verified) -> str:
        from chunkq.protocol.checking import Verdict

        where = " ".join(sorted(self._named))
        if not self._repair and any(each.verdict is not Verdict.CHANGED for each in found.wrong):
            return f"chunkq verify --repair {where} fetches what is bad, and only that"
        return (
            f"chunkq verify --repair --overwrite {where} makes it what was received;"
            " --forget leaves it as it is"
        )


def _result_fields(found: Verified) -> dict[str, object]:
    return {
        "files": found.files,
        "bytes_total": found.bytes_total,
        **{str(verdict): count for verdict, count in found.counts.items()},
        "unknown": len(found.unknown),
        "resumed": found.resumed,
        "repaired": len(found.repaired),
        "failed": len(found.failures),
        "wrong": len(found.wrong),
        "new_bytes": found.new_bytes,
    }
