"""Which reply mailbox a requester process uses: labels in the state directory, locked while in use.

A label outlives its process, so that a restarted requester finds what was sent to it meanwhile.
Several requesters on one state directory have different ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from chunkq.errors import StorageError
from chunkq.storage.closing import close
from chunkq.storage.locks import MAX_ATTEMPTS, lock_file
from chunkq.storage.mapping import storage_errors

DIRECTORY_NAME: Final = "instances"
LABEL_CHARS: Final = 12
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_LABEL: Final = re.compile(rf"[a-z0-9]{{{LABEL_CHARS}}}")
#: 128 bits for 62 that are used: the last digits are as likely as the first.
_ENTROPY_BYTES: Final = 16


class Instance:
    """A label that is this process's until `close` or its end."""

    def __init__(self, label: str, fd: int) -> None:
        self.label = label
        self._fd = fd

    def close(self) -> None:
        """Let go of the label; it stays for the next requester."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def claim_instance(
    state_dir: str | os.PathLike[str],
    prefer: str | None = None,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
    directory: str = DIRECTORY_NAME,
) -> Instance:
    """A free label: `prefer` if it is one and free, else one that was used before, else a new one.

    `directory`: where these labels are, in the state directory.

    Raises `StorageError`.
    """
    path = os.path.join(os.path.abspath(state_dir), directory)
    with storage_errors("mkdir", path):
        os.makedirs(path, mode=0o700, exist_ok=True)
        directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for label in _candidates(directory_fd, path, prefer, entropy):
            fd = lock_file(directory_fd, label, os.path.join(path, label))
            if fd is not None:
                return Instance(label, fd)
    finally:
        close(directory_fd)
    raise StorageError(f"{path}: no free label was found", hint="remove files from that directory")


def instance_labels(state_dir: str | os.PathLike[str]) -> list[str]:
    """The labels of all requesters that ever ran here. Raises `StorageError`."""
    path = os.path.join(os.path.abspath(state_dir), DIRECTORY_NAME)
    with storage_errors("readdir", path):
        try:
            return sorted(name for name in os.listdir(path) if _LABEL.fullmatch(name))
        except FileNotFoundError:
            return []


def _candidates(
    directory_fd: int, path: str, prefer: str | None, entropy: Callable[[int], bytes]
) -> Iterator[str]:
    if prefer is not None and _LABEL.fullmatch(prefer):
        yield prefer
    with storage_errors("readdir", path):
        known = sorted(name for name in os.listdir(directory_fd) if _LABEL.fullmatch(name))
    yield from known
    for _ in range(MAX_ATTEMPTS):
        yield _make_label(entropy)


def _make_label(entropy: Callable[[int], bytes]) -> str:
    number = int.from_bytes(entropy(_ENTROPY_BYTES), "big")
    digits = []
    for _ in range(LABEL_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
