"""chunkq: signed, sealed, crash-resumable file transfer through a queue nobody has to trust.

The library is these names; everything else may change:

    Site        open it, then fetch, list and serve
    Transfer    a fetch under way: iterate for `Progress`, await for its `Result`
    Share       what a program offers by itself (a Protocol): `open` and `list`
    SourceFile  one open file of such a share (a Protocol)
    Entry       one name in a listing
    SiteKeys, Settings  for a program that keeps its own keys and configuration
    ChunkqError the root of all errors; the others are in `chunkq.errors`

They are loaded when first used, so that `import chunkq` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from chunkq.api.site import Site
    from chunkq.api.transfer import Transfer
    from chunkq.errors import ChunkqError
    from chunkq.ports import Share, SourceFile
    from chunkq.protocol.identity import SiteKeys
    from chunkq.protocol.messages import Entry
    from chunkq.runtime.progress import Progress, Result
    from chunkq.settings import Settings

_HOMES: Final = {
    "ChunkqError": "chunkq.errors",
    "Entry": "chunkq.protocol.messages",
    "Progress": "chunkq.runtime.progress",
    "Result": "chunkq.runtime.progress",
    "Settings": "chunkq.settings",
    "Share": "chunkq.ports",
    "Site": "chunkq.api.site",
    "SiteKeys": "chunkq.protocol.identity",
    "SourceFile": "chunkq.ports",
    "Transfer": "chunkq.api.transfer",
}

__all__ = [
    "ChunkqError",
    "Entry",
    "Progress",
    "Result",
    "Settings",
    "Share",
    "Site",
    "SiteKeys",
    "SourceFile",
    "Transfer",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'chunkq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
