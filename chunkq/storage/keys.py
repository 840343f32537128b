"""A site's secret keys in a file that only its owner can read.

chunkq-keys 1
signing  <base64 of 32 bytes>
exchange <base64 of 32 bytes>
check    <16 hexadecimal digits: BLAKE3 of both>
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from typing import Final

from blake3 import blake3

from chunkq.errors import DestinationUnusable, IdentityError
from chunkq.protocol.identity import SiteKeys
from chunkq.storage import descriptors
from chunkq.storage.mapping import storage_errors

_FIRST_LINE: Final = "chunkq-keys 1"
_CONTEXT: Final = "chunkq 1 key file"
_CHECK_BYTES: Final = 8
#: The file has about 150 bytes; whatever is larger is another file.
_MAX_FILE_SIZE_BYTES: Final = 4096


def load_keys(path: str | os.PathLike[str]) -> SiteKeys:
    """The keys in `path`.

    Raises `IdentityError` if they are missing, damaged, another user's, or readable by others.
    """
    whole = os.path.abspath(path)
    fd = _open(whole)
    try:
        _check_private(os.stat(os.path.dirname(whole)), os.path.dirname(whole), "700")
        _check_private(os.fstat(fd), whole, "600")
        with storage_errors("read", whole):
            raw = descriptors.read_full(fd, 0, _MAX_FILE_SIZE_BYTES)
    finally:
        os.close(fd)
    keys = _parse(raw)
    if keys is None:
        raise IdentityError(
            f"{whole} is damaged or no key file",
            hint="restore it from a backup; new keys are a new identity for every peer",
        )
    return keys


def save_keys(path: str | os.PathLike[str], keys: SiteKeys) -> None:
    """Write new keys, durably, into a directory that is made private if need be.

    Raises `IdentityError` if there is a file already: keys are never replaced. `StorageError`.
    """
    whole = os.path.abspath(path)
    directory, name = os.path.split(whole)
    with storage_errors("mkdir", directory, destination=True):
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
    _check_private(os.stat(directory), directory, "700")
    with storage_errors("open", directory, destination=True):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    temporary = f"{name}.{os.urandom(8).hex()}{descriptors.TEMPORARY_SUFFIX}"
    try:
        descriptors.write_new(fd, temporary, whole, [_format(keys)], mode=0o600)
        with storage_errors("link", whole, destination=True):
            descriptors.link_no_clobber(fd, temporary, fd, name)
        with storage_errors("fsync", directory, sync=True):
            descriptors.sync_directory(fd)
    except DestinationUnusable as error:
        if isinstance(error.__cause__, FileExistsError):
            raise IdentityError(
                f"{whole} exists; it was left as it is",
                hint="this site has keys already; move them away to begin a new identity",
            ) from error
        raise
    finally:
        descriptors.remove_if_there(fd, temporary)
        os.close(fd)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise IdentityError(
            f"there are no keys at {path}", hint="make them with `chunkq init`"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"open {path}: {os.strerror(error.errno or 0)}",
            hint="keys are a plain file, no link, readable by its owner",
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IdentityError(f"{path} is not a plain file")
    return fd


def _check_private(status: os.stat_result, path: str, mode: str) -> None:
    if status.st_uid != os.geteuid():
        raise IdentityError(
            f"{path} belongs to uid {status.st_uid}, this is uid {os.geteuid()}",
            hint=f"run as its owner, or: chown {os.geteuid()} {path}",
        )
    if status.st_mode & 0o077:
        raise IdentityError(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o})",
            hint=f"chmod {mode} {path}",
        )


def _format(keys: SiteKeys) -> bytes:
    signing, exchange = keys.signing_seed, keys.exchange_secret
    lines = (
        _FIRST_LINE,
        f"signing  {base64.b64encode(signing).decode()}",
        f"exchange {base64.b64encode(exchange).decode()}",
        f"check    {_check(signing, exchange)}",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _parse(raw: bytes) -> SiteKeys | None:
    try:
        fields = dict(line.split() for line in raw.decode("ascii").splitlines())
        keys = SiteKeys(
            base64.b64decode(fields["signing"], validate=True),
            base64.b64decode(fields["exchange"], validate=True),
        )
    except (ValueError, KeyError, binascii.Error, IdentityError):
        return None
    # One text for one pair of keys; only white space is of no account.
    return keys if raw.split() == _format(keys).split() else None


def _check(signing: bytes, exchange: bytes) -> str:
    hasher = blake3(signing + exchange, derive_key_context=_CONTEXT)
    return hasher.digest(length=_CHECK_BYTES).hex()
