"""What `peer freeze`, `link freeze` and the two `thaw` have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chunkq.cli import console

if TYPE_CHECKING:
    from chunkq.cli.options import Options
    from chunkq.storage.control import Kind

#: The field of a line of JSON that names the thing.
_FIELD = {"peer": "alias", "link": "link"}


def change(options: Options, kind: Kind, name: str, *, frozen: bool, why: str = "") -> None:
    """Freeze or thaw, and say whether that changed anything. Raises `NotFound` for a typo."""
    from chunkq.settings import Registry
    from chunkq.settings.actor import actor
    from chunkq.storage.control import Control

    settings = options.load().settings
    if frozen:
        # A typo freezes nothing.
        if kind == "peer":
            Registry(settings.directories).peer(name)
        else:
            settings.link(name)
    control, by = Control(settings.directories.state), actor()
    try:
        was = (kind, name) in control.frozen()
        if frozen:
            control.freeze(kind, name, by, why)
        else:
            control.thaw(kind, name, by)
    finally:
        control.close()
    if options.json:
        console.emit(kind, {_FIELD[kind]: name, "frozen": frozen, "changed": was != frozen})
    else:
        word = "frozen" if frozen else "thawed"
        console.out(f"{'already ' if was == frozen else ''}{word}: {name}")
