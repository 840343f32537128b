"""Housekeeping that any consumer of a mailbox does: dead consumers' claims, debris, dead letters.

Every call blocks. Descriptors are of directories that were opened without following links; only
names that parse are touched, so that a foreign file in a shared directory
stays as it is.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from chunkq.transport.spool.directories import Places, open_directory
from chunkq.transport.spool.names import (
    CUR,
    DEAD,
    FREE,
    LOCK,
    NEW,
    TMP,
    created_ms,
    is_consumer_id,
    is_packet,
    parse_packet,
)

#: A packet that came back so often is put aside; the limit of the other carriers.
DELIVERY_LIMIT: Final = 20
#: What a crashed publisher left in `tmp/` is removed after so long; no write takes an hour.
DEBRIS_AGE_MS: Final = 3600 * 1000
#: Dead letters kept for a person to look at; the oldest make way.
MOST_DEAD_LETTERS: Final = 1000
#: What is said of a name that is gone, that is or leads to a directory, or that is another user's.
_IN_THE_WAY: Final = frozenset(
    {
        errno.ENOENT,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EEXIST,
        errno.EACCES,
        errno.EPERM,
    }
)


def sweep(places: Places, own_id: str, now_ms: int) -> None:
    """Return dead consumers' claims, remove debris and the oldest dead letters. Raises OSError."""
    for name in os.listdir(places.cur):
        if name != own_id and is_consumer_id(name):
            _sweep_consumer(name, places)
    _remove_debris(places.tmp, now_ms)
    letters = [name for name in os.listdir(places.dead) if is_packet(name)]
    for name in heapq.nsmallest(len(letters) - MOST_DEAD_LETTERS, letters):
        remove_file(name, places.dead)


def move(name: str, to: str, source_fd: int, target_fd: int) -> bool:
    """Rename what has a packet's name; False if it is gone, or is nothing that can be moved there.

    Whoever may write to a spool can put a directory in any place, or a file of another user's.
    """
    try:
        os.rename(name, to, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        return False
    return True


def return_claims(claims_fd: int, places: Places, *, unseen: set[str]) -> None:
    """Move every packet of a claim directory back, or to the dead letters after 20 deliveries.

    Those in `unseen` were never handed out: it does not count as a delivery.
    """
    for name in os.listdir(claims_fd):
        packet = parse_packet(name)
        if packet is None:
            continue
        again = packet if name in unseen else packet.delivered_again()
        target = places.dead if again.deliveries >= DELIVERY_LIMIT else places.new
        move(name, str(again), claims_fd, target)


def remove_empty(name: str, parent_fd: int) -> None:
    """Remove a claim directory and its lock; one with other files in it stays. Raises nothing."""
    with suppress(OSError):
        directory_fd = open_directory(name, parent_fd)
        try:
            with suppress(FileNotFoundError):
                os.unlink(LOCK, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)
        os.rmdir(name, dir_fd=parent_fd)


def has_consumer(places: Places) -> bool:
    """Whether somebody lives who takes from here; the dead are swept first. Raises OSError."""
    for name in os.listdir(places.cur):
        if is_consumer_id(name):
            _sweep_consumer(name, places)
    return any(is_consumer_id(name) for name in os.listdir(places.cur))


def remove_mailbox(path: str) -> None:
    """A fleeting mailbox and what is in it; foreign files stay, and it with them. Raises nothing.

    `tmp` goes first, as publishers look for that; a consumer that comes just now makes it anew.
    """
    with suppress(OSError):
        mailbox_fd = open_directory(path)
        try:
            for place in (TMP, FREE, DEAD, NEW, CUR):
                _remove_place(place, mailbox_fd)
        finally:
            os.close(mailbox_fd)
        os.rmdir(path)


def _remove_place(place: str, mailbox_fd: int) -> None:
    with suppress(FileNotFoundError):
        place_fd = open_directory(place, mailbox_fd)
        try:
            for name in os.listdir(place_fd):
                if is_packet(name):
                    remove_file(name, place_fd)
        finally:
            os.close(place_fd)
        os.rmdir(place, dir_fd=mailbox_fd)


def _sweep_consumer(name: str, places: Places) -> None:
    try:
        claims_fd = open_directory(name, places.cur)
    except OSError:
        return  # swept by another one meanwhile, or not a directory
    try:
        with _dead(claims_fd) as dead:
            if dead:
                return_claims(claims_fd, places, unseen=set())
                remove_empty(name, places.cur)
    finally:
        os.close(claims_fd)


@contextmanager
def _dead(claims_fd: int) -> Iterator[bool]:
    """Whether the owner of a claim directory is gone; if so, its lock is held meanwhile."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(LOCK, flags, dir_fd=claims_fd)
    except FileNotFoundError:
        yield True  # whoever swept it before was killed at the last step
        return
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def _remove_debris(tmp_fd: int, now_ms: int) -> None:
    for name in os.listdir(tmp_fd):
        made_ms = created_ms(name)
        if made_ms is None or now_ms - made_ms < DEBRIS_AGE_MS:
            continue
        if is_consumer_id(name):
            remove_empty(name, tmp_fd)
        else:
            remove_file(name, tmp_fd)


def remove_file(name: str, parent_fd: int) -> None:
    """Unlink it, if it is there and a file that this user may remove."""
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(name, dir_fd=parent_fd)
