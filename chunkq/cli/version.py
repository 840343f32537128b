"""`chunkq version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

#: What decides how chunkq behaves, besides itself.
LIBRARIES: Final = (
    "pika",
    "pynacl",
    "blake3",
    "cbor2",
    "pydantic",
    "structlog",
    "typer",
    "zstandard",
)
NOT_INSTALLED: Final = "not installed"

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command("version")
def show_version(ctx: typer.Context, *, json: JsonOption = False) -> None:
    """Print the version of chunkq, of Python and of the libraries in use."""
    versions = {"chunkq": installed("chunkq"), "python": platform.python_version()}
    versions.update((name, installed(name)) for name in LIBRARIES)
    if Options.of(ctx, json=json).json:
        console.emit("version", versions)
        return
    for name, number in versions.items():
        console.out(f"{name} {number}")


def installed(name: str) -> str:
    """The version of an installed distribution; a source tree that is not installed has none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED
