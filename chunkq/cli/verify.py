"""`chunkq verify`: is a file still what was received?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

EXAMPLES: Final = """\b
Examples:
  chunkq verify report.pdf                  against what was received
  chunkq verify --blake3 9f2c... other.iso  against a digest you have
\b
Exit code 6 if the content differs. The digest is what `b3sum` prints.
"""

_READ_BYTES: Final = 1 << 20

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that was got.")],
    *,
    blake3: Annotated[
        str | None, typer.Option(help="The digest to compare with, 64 hexadecimal digits.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Read a file and compare it with the digest that its origin signed."""
    from chunkq.errors import IntegrityError, NotFound, UsageError
    from chunkq.storage.received import ReceivedLog

    options = Options.of(ctx, json=json)
    found = None
    if blake3 is None:
        found = ReceivedLog(options.load().settings.directories.state).find(str(file))
        if found is None:
            raise NotFound(
                f"{file} is not known as received here",
                hint="give the digest to compare with: chunkq verify --blake3 DIGEST FILE",
            )
    wanted = (found.blake3 if found else blake3 or "").lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise UsageError("--blake3 takes 64 hexadecimal digits, as `b3sum` prints them")
    actual = _digest(file)
    source = found.source if found else ""
    if options.json:
        matches = actual == wanted
        fields = {"path": str(file), "blake3": actual, "matches": matches, "source": source}
        console.emit("verified", fields)
    if actual != wanted:
        raise IntegrityError(
            f"{file} is not what was received: blake3 is {actual}, was {wanted}",
            hint=f"get it again: chunkq get --overwrite {source} {file}" if source else None,
        )
    if not options.json and not options.quiet:
        console.out(f"{file}: ok, blake3:{actual}" + (f", from {source}" if source else ""))
    return 0


def _digest(path: Path) -> str:
    from blake3 import blake3

    from chunkq.storage.mapping import storage_errors

    hasher = blake3()
    with storage_errors("read", str(path)), path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
