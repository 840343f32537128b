"""What is under way in a directory, told from the state files alone and without their locks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from chunkq.errors import StorageError
from chunkq.ports import TransferState
from chunkq.protocol.names import STAGING_NAME
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.locks import is_locked, locked_inodes
from chunkq.storage.mapping import storage_errors
from chunkq.storage.staging import STATE_SUFFIX, TRANSFER_ID
from chunkq.storage.statefile import HEADER_SIZE_BYTES, StateHeader, decode_header, newest_slot

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_EMPTY: Final = StateHeader(ephemeral=bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSummary:
    """One transfer as its state file has it.

    `phase` is None before the first commit. `locked`: a process works on it now. `problem`: why
    nothing more is known, or empty. `instance`, `site`, `share`, `path` are empty if unknown.
    """

    transfer_id: str
    instance: str
    site: str
    share: str
    path: str
    created_ms: int
    modified_ms: int
    locked: bool
    phase: int | None
    generation: int
    chunks_present: int
    chunks_total: int
    bytes_present: int
    size_bytes: int
    problem: str


def list_transfers(directory: str | os.PathLike[str]) -> list[TransferSummary]:
    """The transfers in staging directly below `directory`, oldest first; none if there is none.

    Raises `StorageError` if staging cannot be read.
    """
    path = os.path.join(os.path.abspath(directory), STAGING_NAME)
    with storage_errors("open", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return []
    try:
        with storage_errors("readdir", path):
            names = [name for name in os.listdir(fd) if name.endswith(STATE_SUFFIX)]
        locked = locked_inodes()
        found = [summarise(fd, path, name, locked) for name in names]
    finally:
        close(fd)
    return sorted(
        (each for each in found if each is not None),
        key=lambda each: (each.created_ms, each.transfer_id),
    )


def summarise(
    directory_fd: int, directory: str, name: str, locked: set[tuple[int, int]]
) -> TransferSummary | None:
    """What one state file tells; None for what is no transfer's, or gone meanwhile.

    `directory` is for messages. Raises `StorageError`.
    """
    transfer_id = name.removesuffix(STATE_SUFFIX)
    path = os.path.join(directory, name)
    if not TRANSFER_ID.fullmatch(transfer_id):
        return None
    with storage_errors("open", path):
        try:
            fd = os.open(name, _FLAGS, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
    try:
        status = os.fstat(fd)
        raw = descriptors.read_full(fd, 0, HEADER_SIZE_BYTES)
        header = decode_header(raw, transfer_id)
        state, written = newest_slot(fd, transfer_id, path)
        problem = "neither copy of the state is whole" if written and state is None else ""
    except (OSError, StorageError) as error:
        return _make(transfer_id, _EMPTY, None, status, locked, problem=str(error))
    finally:
        close(fd)
    return _make(transfer_id, header or _EMPTY, state, status, locked, problem=problem)


def read_state(directory: str, transfer_id: str) -> TransferState | None:
    """The newest whole slot of one state file; None if there is none. Raises `StorageError`."""
    path = os.path.join(directory, STAGING_NAME, transfer_id + STATE_SUFFIX)
    with storage_errors("open", path):
        try:
            fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            return None
    try:
        return newest_slot(fd, transfer_id, path)[0]
    finally:
        close(fd)


def _make(
    transfer_id: str,
    header: StateHeader,
    state: TransferState | None,
    status: os.stat_result,
    locked: set[tuple[int, int]],
    *,
    problem: str,
) -> TransferSummary:
    return TransferSummary(
        transfer_id=transfer_id,
        instance=header.instance,
        site=header.site,
        share=header.share,
        path=header.path,
        created_ms=header.created_ms,
        modified_ms=status.st_mtime_ns // 1_000_000,
        locked=is_locked(status, locked),
        phase=state.phase if state else None,
        generation=state.generation if state else 0,
        chunks_present=state.bitmap.present if state else 0,
        chunks_total=state.bitmap.count if state else 0,
        bytes_present=_bytes_present(state) if state else 0,
        size_bytes=state.size_bytes if state else 0,
        problem=problem,
    )


def _bytes_present(state: TransferState) -> int:
    """Exact: the last chunk may be shorter."""
    bitmap = state.bitmap
    whole = bitmap.present * state.chunk_size_bytes
    if not bitmap.count or bitmap.count - 1 not in bitmap:
        return whole
    return whole - (bitmap.count * state.chunk_size_bytes - state.size_bytes)
