"""Looking at a simulated disk from outside: as processes see it, or as it is durable.

Written against the documented formats, not with the product's readers: what these get wrong must
not be wrong here in the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from chunkq.protocol.limits import MAX_CHUNK_COUNT
from tests.simulation.disk import Disk
from tests.simulation.inodes import PAGE_BYTES, ZERO_PAGE, Directory, File, Inode

_SLOT = struct.Struct(">4sHHQ32sQIII")
_SLOT_CONTEXT = "chunkq 1 state slot"
_FIRST_SLOT = 64 * 1024
_STRIDE = MAX_CHUNK_COUNT // 8 + 64 * 1024


def find(disk: Disk, path: str, *, durable: bool = False) -> Inode | None:
    """What a path below `/sim/<host>` names."""
    inode: Inode = disk.root
    for name in path.split("/")[3:]:
        if not isinstance(inode, Directory):
            return None
        entries = inode.kept if durable else inode.entries
        if name not in entries:
            return None
        inode = entries[name]
    return inode


def read(inode: Inode | None, *, durable: bool = False) -> bytes | None:
    """All of a regular file; None for anything else."""
    if not isinstance(inode, File):
        return None
    size = inode.kept_size if durable else inode.size
    return read_at(inode, 0, size, durable=durable)


def read_at(file: File, offset: int, length: int, *, durable: bool = False) -> bytes:
    if not durable:
        return file.read(offset, length)
    stop = min(offset + length, file.kept_size)
    if stop <= offset:
        return b""
    first, last = offset // PAGE_BYTES, (stop - 1) // PAGE_BYTES
    whole = b"".join([file.kept.get(each, ZERO_PAGE) for each in range(first, last + 1)])
    begin = offset - first * PAGE_BYTES
    return whole[begin : begin + stop - offset]


def walk(disk: Disk) -> Iterator[tuple[str, Inode]]:
    """Every path and what it names."""
    waiting: list[tuple[str, Directory]] = [("", disk.root)]
    while waiting:
        path, directory = waiting.pop()
        for name in sorted(directory.entries):
            inode = directory.entries[name]
            yield f"{path}/{name}", inode
            if isinstance(inode, Directory):
                waiting.append((f"{path}/{name}", inode))


@dataclass(frozen=True, slots=True)
class Slot:
    """What a state file says. `bits`: which chunks it has."""

    generation: int
    phase: int
    root: bytes
    size_bytes: int
    chunk_size_bytes: int
    bits: frozenset[int]


def newest_slot(file: Inode | None, transfer_id: str, *, durable: bool = False) -> Slot | None:
    """The newest whole slot of a state file."""
    if not isinstance(file, File):
        return None
    slots = [
        slot
        for number in (0, 1)
        if (slot := _slot(file, _FIRST_SLOT + number * _STRIDE, transfer_id, durable=durable))
        and slot.generation % 2 == number
    ]
    return max(slots, key=lambda slot: slot.generation, default=None)


def _slot(file: File, offset: int, transfer_id: str, *, durable: bool) -> Slot | None:
    head = read_at(file, offset, _SLOT.size + 32, durable=durable)
    if len(head) < _SLOT.size + 32 or head[:4] != b"CQSL":
        return None
    packed, checksum = head[: _SLOT.size], head[_SLOT.size :]
    _, _, phase, generation, root, size, chunk_size, _, length = _SLOT.unpack(packed)
    bits = read_at(file, offset + _SLOT.size + 32, length, durable=durable)
    hasher = blake3(derive_key_context=_SLOT_CONTEXT)
    hasher.update(bytes.fromhex(transfer_id)).update(packed).update(bits)
    if hasher.digest() != checksum:
        return None
    count = -(-size // chunk_size) if chunk_size else 0
    present = frozenset(each for each in range(count) if bits[each >> 3] & (1 << (each & 7)))
    return Slot(generation, phase, root, size, chunk_size, present)
