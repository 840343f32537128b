"""System calls that Python 3.11 does not offer: `renameat2`, `fallocate` with its modes, `fstatfs`.

They go through the C library. One that is missing there, or in the kernel, or that the file system
does not know, is told by `Unsupported`, and callers have a way without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from typing import Final

_RENAME_NOREPLACE: Final = 1
_FALLOC_KEEP_SIZE: Final = 1
_FALLOC_PUNCH_HOLE: Final = 2
#: What kernels and file systems answer for a call or a flag that they do not have. FAT says EPERM
#: to links, FUSE says ENOSYS, older network file systems EINVAL.
UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
#: `struct statfs` has 120 bytes or fewer; the type comes first, in a word of the machine.
_STATFS_BYTES: Final = 512
_MAGIC_MASK: Final = 0xFFFFFFFF


class Unsupported(Exception):
    """The call is not available here; never leaves this floor."""


@cache
def _function(name: str, *arguments: type) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    result: Callable[..., int] = function
    return result


def _call(function: Callable[..., int] | None, *arguments: object) -> None:
    """Call it, again after EINTR. Raises `Unsupported` or `OSError`."""
    if function is None:
        raise Unsupported
    while function(*arguments) != 0:
        number = ctypes.get_errno()
        if number in UNSUPPORTED:
            raise Unsupported
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def rename_no_replace(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Rename within two open directories; `FileExistsError` if the target is there."""
    int_, path, flags = ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    function = _function("renameat2", int_, path, int_, path, flags)
    names = os.fsencode(source), os.fsencode(target)
    _call(function, source_fd, names[0], target_fd, names[1], _RENAME_NOREPLACE)


def reserve(fd: int, offset: int, length: int) -> None:
    """Allocate blocks for a run of bytes; what is there keeps its content.

    Not `posix_fallocate`: where the file system cannot, glibc would write to every block.
    """
    _call(_fallocate(), fd, _FALLOC_KEEP_SIZE, offset, length)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make a run of bytes read as zeros and give its blocks back."""
    _call(_fallocate(), fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, offset, length)


def _fallocate() -> Callable[..., int] | None:
    int_, offset = ctypes.c_int, ctypes.c_int64
    return _function("fallocate64", int_, int_, offset, offset) or _function(
        "fallocate", int_, int_, offset, offset
    )


def file_system_type(fd: int) -> int:
    """The magic number of the file system that an open file is on (statfs(2)); 0 if unknown."""
    function = _function("fstatfs", ctypes.c_int, ctypes.c_void_p)
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    try:
        _call(function, fd, buffer)
    except (Unsupported, OSError):
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & _MAGIC_MASK
