"""The program: global options, dispatch, and the translation of every end into an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from chunkq.cli.lazy import LazyGroup
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import ChunkqError, ExitCode, UsageError

EPILOG = """\b
First steps, on both machines:
  chunkq init --name NAME                 make keys and configuration
  chunkq id                               print the card; send it to the other
  chunkq peer add CARD                    pin the other's card
\b
On the one that has files, and on the one that wants them:
  chunkq share add docs /srv/docs --to PEER && chunkq serve
  chunkq get PEER:docs/report.pdf
\b
Exit codes: 0 ok, 1 error, 2 usage, 3 some files failed, 4 not found or not
permitted, 5 peer or broker unreachable (retry), 6 integrity, 130 stopped and
resumable.
"""

app = typer.Typer(
    name="chunkq", cls=LazyGroup, rich_markup_mode=None, no_args_is_help=True, epilog=EPILOG
)


def _version(wanted: bool) -> None:
    if wanted:
        from chunkq.cli.version import installed

        print(f"chunkq {installed('chunkq')}")
        raise typer.Exit


@app.callback()
def chunkq(
    ctx: typer.Context,
    *,
    config_dir: Annotated[
        Path | None, typer.Option(help="Keys and configuration. [env: CHUNKQ_CONFIG_DIR]")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="What chunkq remembers. [env: CHUNKQ_STATE_DIR]")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more, log more.")] = False,
    json: JsonOption = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Get files from a site that can only be reached through a message queue, or through a
    directory that somebody carries: signed, sealed, verified, resumable.
    """
    ctx.obj = Options(
        config_dir=config_dir, state_dir=state_dir, quiet=quiet, verbose=verbose, json=json
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Never raises, never shows a traceback unasked."""
    args = list(sys.argv[1:] if args is None else args)
    # errors in the options themselves must be JSON, too, so this cannot wait for the parser
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        command = typer.main.get_command(app)
        result = command.main(args=args, prog_name="chunkq", standalone_mode=False)
        sys.stdout.flush()
    except ChunkqError as error:
        return _failed(error, as_json)
    except typer.TyperException as error:
        return _misused(error, as_json)
    except BrokenPipeError:
        _drop_stdout()
        return ExitCode.ERROR
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except typer.Abort:
        return ExitCode.ERROR
    except Exception as error:
        return _crashed(error, as_json)
    return result if isinstance(result, int) else ExitCode.OK


def _failed(error: ChunkqError, as_json: bool) -> int:
    from chunkq.cli import console

    try:
        return console.fail(error, as_json=as_json)
    except BrokenPipeError:
        _drop_stdout()
        return error.exit_code


def _misused(error: typer.TyperException, as_json: bool) -> int:
    """What typer found wrong with the arguments."""
    if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path} --help" if context is not None else None
    return _failed(UsageError(error.format_message(), hint=hint), as_json)


def _crashed(error: Exception, as_json: bool) -> int:
    """A defect of chunkq itself."""
    from chunkq.settings.process import debug_wanted

    if debug_wanted():
        import traceback

        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "run with CHUNKQ_DEBUG=1 for the traceback"
    return _failed(ChunkqError(f"internal error: {what}", hint=hint), as_json)


def _drop_stdout() -> None:
    """Whoever read has gone: give the rest to nobody, so that the exit is quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
