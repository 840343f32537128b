"""The state of a transfer on disk: a header, then two slots written in turn.

    header  magic 8 | version u16 | lengths 4 x u16 | transfer id 16 | created_ms u64 | ephemeral 32
            | instance, site, share, path (UTF-8) | zeros | checksum 32
    slot    magic 4 | version u16 | phase u16 | generation u64 | root 32 | size u64 | chunk size u32
            | present u32 | bitmap size u32 | checksum 32 | bitmap

Big-endian. Checksums are BLAKE3 in a domain of their own and cover the transfer id, so a slot of
another transfer is none of ours. The places are as far apart as the largest bitmap needs, so that
a source that changed its size changes nothing about them; the file is sparse.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from chunkq.errors import Malformed, StateInvalid
from chunkq.ports import TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    KEY_SIZE_BYTES,
    KIB,
    MAX_CHUNK_COUNT,
    MIN_CHUNK_SIZE_BYTES,
)
from chunkq.storage import descriptors, linux
from chunkq.storage.closing import close
from chunkq.storage.mapping import storage_errors, translate

VERSION: Final = 1
#: Places begin at multiples of this, so that no two share a page of memory (64 KiB on some ARM).
_ALIGNMENT_BYTES: Final = 64 * KIB
HEADER_SIZE_BYTES: Final = 16 * KIB
SLOT_STRIDE_BYTES: Final = MAX_CHUNK_COUNT // 8 + _ALIGNMENT_BYTES

_HEADER_MAGIC: Final = b"CHUNKQST"
_HEADER: Final = struct.Struct(">8sH4H16sQ32s")
_HEADER_CONTEXT: Final = "chunkq 1 state header"
_SLOT_MAGIC: Final = b"CQSL"
_SLOT: Final = struct.Struct(">4sHHQ32sQIII")
_SLOT_CONTEXT: Final = "chunkq 1 state slot"
_SLOT_HEAD_BYTES: Final = _SLOT.size + DIGEST_SIZE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHeader:
    """What does not change during a transfer.

    `ephemeral`: the requester's X25519 secret, 32 bytes. `instance`: the reply mailbox that its
    requests named. `site`, `share`, `path`: the source, for a person to read.
    """

    ephemeral: bytes = field(repr=False)
    instance: str = ""
    site: str = ""
    share: str = ""
    path: str = ""
    created_ms: int = 0


class StateFile:
    """The state file behind an open, locked descriptor, which it owns. `path` is for messages."""

    def __init__(self, fd: int, transfer_id: str, path: str) -> None:
        self.path = path
        self.transfer_id = transfer_id
        self._fd = fd
        self._durable: int | None = None
        self._reserved_bytes = 0

    # ------------------------------------------------------------ header

    def read_header(self) -> StateHeader | None:
        """The header; None if there is none yet, or one that does not hold or is of another id."""
        with storage_errors("read", self.path):
            raw = descriptors.read_full(self._fd, 0, HEADER_SIZE_BYTES)
        return decode_header(raw, self.transfer_id)

    def write_header(self, header: StateHeader) -> None:
        """Write the header; the first `store` makes it durable. Raises `DiskFull`."""
        raw = _encode_header(header, self.transfer_id)
        with storage_errors("write", self.path, destination=True):
            descriptors.write_full(self._fd, 0, [raw])

    # ------------------------------------------------------------ slots

    def load(self) -> TransferState | None:
        """The newest slot that holds; None if none was ever written.

        Raises `StateInvalid` if slots were written and none holds: what is in the part file has
        to be compared with the manifest again.
        """
        state, written = newest_slot(self._fd, self.transfer_id, self.path)
        if state is None and written:
            raise StateInvalid(
                f"{self.path}: neither copy of the state is whole and of this transfer",
                hint="the part file is checked chunk by chunk",
            )
        self._durable = None if state is None else state.generation
        return state

    def store(self, state: TransferState) -> None:
        """Write slot `generation % 2` and make it durable.

        Raises `DiskFull`, `SyncFailed`; then the slot before it is still whole, and the same
        generation may be stored again.
        """
        self._check_turn(state.generation)
        bitmap, number = bytes(state.bitmap), state.generation % 2
        packed = _SLOT.pack(
            _SLOT_MAGIC,
            VERSION,
            state.phase,
            state.generation,
            state.root,
            state.size_bytes,
            state.chunk_size_bytes,
            state.bitmap.present,
            len(bitmap),
        )
        checksum = _slot_checksum(packed, bitmap, self.transfer_id)
        self._reserve(_SLOT_HEAD_BYTES + len(bitmap))
        with storage_errors("write", self.path, destination=True):
            descriptors.write_full(self._fd, _slot_offset(number), [packed, checksum, bitmap])
        self._sync()
        self._durable = state.generation

    def reset(self) -> None:
        """Forget both slots, durably; the header stays."""
        with storage_errors("ftruncate", self.path, destination=True):
            os.ftruncate(self._fd, HEADER_SIZE_BYTES)
        self._sync()
        self._durable, self._reserved_bytes = None, 0

    def close(self) -> None:
        """Let go of the file and of its lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def _check_turn(self, generation: int) -> None:
        durable = self._durable
        if durable is not None and (generation < durable or (generation - durable) % 2 == 0):
            raise StateInvalid(
                f"{self.path}: generation {generation} does not follow {durable}, the last one"
                " that is durable"
            )

    def _reserve(self, slot_bytes: int) -> None:
        """Take the room for both slots at once, so that no later commit lacks it."""
        if slot_bytes <= self._reserved_bytes:
            return
        try:
            for number in (0, 1):
                linux.reserve(self._fd, _slot_offset(number), slot_bytes)
        except linux.Unsupported:
            pass
        except OSError as error:
            raise translate(error, "fallocate", self.path, destination=True) from error
        self._reserved_bytes = slot_bytes

    def _sync(self) -> None:
        with storage_errors("fdatasync", self.path, sync=True):
            os.fdatasync(self._fd)


# ---------------------------------------------------------------- bytes


def newest_slot(fd: int, transfer_id: str, path: str) -> tuple[TransferState | None, bool]:
    """The newest slot that holds, and whether any was ever written. Takes no lock."""
    newest: TransferState | None = None
    written = False
    for number in (0, 1):
        with storage_errors("read", path):
            head = descriptors.read_full(fd, _slot_offset(number), _SLOT_HEAD_BYTES)
            if not head.strip(b"\0"):
                continue
            written = True
            state = _decode_slot(fd, number, head, transfer_id)
        if state and (newest is None or state.generation > newest.generation):
            newest = state
    return newest, written


def _decode_slot(fd: int, number: int, head: bytes, transfer_id: str) -> TransferState | None:
    if len(head) < _SLOT_HEAD_BYTES:
        return None
    packed, checksum = head[: _SLOT.size], head[_SLOT.size :]
    magic, version, phase, generation, root, size, chunk_size, present, length = _SLOT.unpack(
        packed
    )
    if magic != _SLOT_MAGIC or version != VERSION or generation % 2 != number:
        return None
    if length > MAX_CHUNK_COUNT // 8:
        return None
    bits = descriptors.read_full(fd, _slot_offset(number) + _SLOT_HEAD_BYTES, length)
    if checksum != _slot_checksum(packed, bits, transfer_id):
        return None
    try:
        count = Geometry(size, chunk_size or MIN_CHUNK_SIZE_BYTES).chunk_count
        bitmap = Bitmap(count if chunk_size else 0, bits)
    except Malformed:
        return None
    if bitmap.present != present:
        return None
    return TransferState(
        generation=generation,
        phase=phase,
        root=root,
        size_bytes=size,
        chunk_size_bytes=chunk_size,
        bitmap=bitmap,
    )


def _slot_offset(number: int) -> int:
    return _ALIGNMENT_BYTES + number * SLOT_STRIDE_BYTES


def _slot_checksum(packed: bytes, bitmap: bytes, transfer_id: str) -> bytes:
    hasher = blake3(derive_key_context=_SLOT_CONTEXT)
    return hasher.update(bytes.fromhex(transfer_id)).update(packed).update(bitmap).digest()


def _encode_header(header: StateHeader, transfer_id: str) -> bytes:
    named = (header.instance, header.site, header.share, header.path)
    texts = [each.encode(errors="backslashreplace") for each in named]
    if len(header.ephemeral) != KEY_SIZE_BYTES:
        raise StateInvalid(f"an ephemeral secret has 32 bytes, not {len(header.ephemeral)}")
    body = b"".join(
        [
            _HEADER.pack(
                _HEADER_MAGIC,
                VERSION,
                *map(len, texts),
                bytes.fromhex(transfer_id),
                header.created_ms,
                header.ephemeral,
            ),
            *texts,
        ]
    )
    room = HEADER_SIZE_BYTES - DIGEST_SIZE_BYTES
    if len(body) > room:
        raise StateInvalid(f"the source's name takes {len(body)} bytes, more than {room}")
    body = body.ljust(room, b"\0")
    return body + blake3(body, derive_key_context=_HEADER_CONTEXT).digest()


def decode_header(raw: bytes, transfer_id: str) -> StateHeader | None:
    """The header in `raw`, if it is whole and of `transfer_id`."""
    body, checksum = raw[:-DIGEST_SIZE_BYTES], raw[-DIGEST_SIZE_BYTES:]
    if len(raw) != HEADER_SIZE_BYTES:
        return None
    if blake3(body, derive_key_context=_HEADER_CONTEXT).digest() != checksum:
        return None
    magic, version, *sizes, owner, created_ms, ephemeral = _HEADER.unpack_from(body)
    if magic != _HEADER_MAGIC or version != VERSION or owner != bytes.fromhex(transfer_id):
        return None
    texts, at = [], _HEADER.size
    for size in sizes:
        texts.append(body[at : at + size])
        at += size
    try:
        instance, site, share, path = (text.decode() for text in texts)
    except UnicodeDecodeError:
        return None
    return StateHeader(
        ephemeral=ephemeral,
        instance=instance,
        site=site,
        share=share,
        path=path,
        created_ms=created_ms,
    )
