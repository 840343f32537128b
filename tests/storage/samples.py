"""What several storage tests put into files."""

from __future__ import annotations

from chunkq.ports import TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.storage.statefile import StateHeader

KIB = 1024
MIB = 1024 * KIB
CHUNK = 4 * KIB
TRANSFER_ID = "00112233445566778899aabbccddeeff"
OTHER_ID = "ff" * 16
ROOT = bytes(range(32))


def a_header(**changes: object) -> StateHeader:
    fields: dict[str, object] = {
        "ephemeral": b"e" * 32,
        "instance": "abc123abc123",
        "site": "alpha",
        "share": "docs",
        "path": "bücher/ä.bin",
        "created_ms": 1_700_000_000_000,
    }
    return StateHeader(**{**fields, **changes})  # type: ignore[arg-type]


def a_state(
    generation: int, present: tuple[int, ...] = (), *, count: int = 20, phase: int = 2
) -> TransferState:
    """A state of `count` chunks of 4 KiB, of which `present` are there."""
    bitmap = Bitmap(count)
    for index in present:
        bitmap.add(index)
    return TransferState(
        generation=generation,
        phase=phase,
        root=ROOT,
        size_bytes=count * CHUNK,
        chunk_size_bytes=CHUNK,
        bitmap=bitmap,
    )


def geometry(count: int, tail: int = 0) -> Geometry:
    """`count` chunks of 4 KiB and `tail` bytes."""
    return Geometry(count * CHUNK + tail, CHUNK)


def holes(count: int, *indices: int) -> Bitmap:
    found = Bitmap(count)
    for index in indices:
        found.add(index)
    return found
