"""The one place where OSError becomes ours."""

from __future__ import annotations

import errno

import pytest

from chunkq.errors import DestinationUnusable, DiskFull, StorageError, SyncFailed
from chunkq.storage.mapping import storage_errors, translate


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, StorageError),
        (errno.EROFS, DestinationUnusable),
        (errno.EACCES, DestinationUnusable),
        (errno.ENOENT, DestinationUnusable),
        (errno.ENOTDIR, DestinationUnusable),
        (errno.ELOOP, DestinationUnusable),
        (errno.EXDEV, DestinationUnusable),
        (errno.EFBIG, StorageError),
    ],
)
def test_each_error_number_has_its_kind(number: int, kind: type[StorageError]) -> None:
    """What a person has to do differs, so the class does."""
    found = translate(OSError(number, "x"), "write", "/a/b", destination=True)

    assert kind is type(found)
    assert found.hint


def test_a_path_that_is_no_destination_is_a_storage_error() -> None:
    """Only where the user chose the path is it his to mend."""
    assert StorageError is type(translate(OSError(errno.EACCES, "x"), "open", "/a"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_whatever_fsync_says_is_sync_failed(number: int) -> None:
    """ENOSPC from fsync means lost pages as much as EIO does."""
    assert SyncFailed is type(translate(OSError(number, "x"), "fsync", "/a", sync=True))


def test_the_message_names_call_path_and_reason() -> None:
    """A person can act on it."""
    with pytest.raises(StorageError) as caught, storage_errors("mkdir", "/some/where"):
        raise OSError(errno.EIO, "ignored")

    assert "mkdir /some/where: Input/output error" == caught.value.message
    assert isinstance(caught.value.__cause__, OSError)
