"""The origin's answer to a request for small files: bundles, each read and signed in turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Final

from chunkq.errors import UnsafeName
from chunkq.ports import Directory, PeerRef, Share, SmallFile, SmallFiles
from chunkq.protocol.bundle import (
    OVERHEAD_SIZE_BYTES,
    RECORD_SIZE_BYTES,
    BundleBuilder,
    asked_digest,
)
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import (
    MAX_BUNDLE_SIZE_BYTES,
    MAX_BYTES_PER_REQUEST,
    MAX_SMALL_FILE_SIZE_BYTES,
)
from chunkq.protocol.messages import Files, RefusalReason
from chunkq.protocol.names import check_name, check_path

#: Where there is no room for a single byte of content beside its record, nothing can be sent.
_LEAST_BYTES: Final = OVERHEAD_SIZE_BYTES + RECORD_SIZE_BYTES


@dataclass(slots=True)
class _Run:
    """Names of one directory, next to each other in the request, that one share offers, or none."""

    first: int
    share: Share | None
    directory: str
    names: list[str]


def bundles(
    directory: Directory, keys: SiteKeys, peer: PeerRef, body: Files, link_bytes: int
) -> Generator[bytes, None, None]:
    """The bodies of the replies; to make one blocks. What the peer may see is settled now.

    `link_bytes`: the largest body that this origin's link carries. Making one raises `StorageError`
    if a share is gone.
    """
    return _bundles(list(_runs(directory, peer, body)), keys, body, link_bytes)


def _bundles(
    runs: list[_Run], keys: SiteKeys, body: Files, link_bytes: int
) -> Generator[bytes, None, None]:
    largest = min(body.largest, link_bytes, MAX_BUNDLE_SIZE_BYTES)
    asked = asked_digest(body.share, body.groups)
    builder, read_bytes = BundleBuilder(asked, largest), 0

    def enough() -> bool:
        return read_bytes >= MAX_BYTES_PER_REQUEST

    for index, found in _read(runs, min(MAX_SMALL_FILE_SIZE_BYTES, largest), enough):
        answer = found
        if isinstance(answer, SmallFile):
            size = len(answer.content)
            read_bytes += size
            if size > largest - _LEAST_BYTES:
                answer = RefusalReason.TOO_LARGE
            elif read_bytes > MAX_BYTES_PER_REQUEST:
                answer = RefusalReason.BUSY
        if len(builder) and not builder.fits(
            len(answer.content) if isinstance(answer, SmallFile) else 0
        ):
            yield builder.sign(keys)
            builder = BundleBuilder(asked, largest)
        if isinstance(answer, SmallFile):
            builder.add(index, answer.mode, answer.mtime_ns, answer.content)
        else:
            builder.refuse(index, answer)
    yield builder.sign(keys)


def _read(
    runs: list[_Run], largest: int, enough: Callable[[], bool]
) -> Iterator[tuple[int, SmallFile | RefusalReason]]:
    """Every file asked for, by its index; what comes after `enough` is not even read."""
    for run in runs:
        indices = range(run.first, run.first + len(run.names))
        if run.share is None:
            for index in indices:
                yield index, RefusalReason.NOT_FOUND
        elif isinstance(run.share, SmallFiles):
            found = run.share.read_small(run.directory, run.names, largest)
            for index in indices:
                yield index, RefusalReason.BUSY if enough() else next(found)
        else:  # it may offer them one by one
            for index in indices:
                yield index, RefusalReason.UNSUPPORTED


def _runs(directory: Directory, peer: PeerRef, body: Files) -> Iterator[_Run]:
    """What was asked for, each path with the share that offers it to this peer."""
    index = 0
    for where, names in body.groups:
        run: _Run | None = None
        safe = _is_safe(check_path, where)
        for name in names:
            share = None
            if safe and _is_safe(check_name, name):
                share = directory.share(peer, body.share, f"{where}/{name}" if where else name)
            if run is not None and run.share is share:
                run.names.append(name)
            else:
                if run is not None:
                    yield run
                run = _Run(index, share, where, [name])
            index += 1
        if run is not None:
            yield run


def _is_safe(check: Callable[[str], object], name: str) -> bool:
    """What a name may not be is answered as if it were not there."""
    try:
        check(name)
    except UnsafeName:
        return False
    return True
