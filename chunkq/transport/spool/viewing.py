"""A spool as an operator sees it: its directories tell everything."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final, TypeVar

from chunkq.errors import BrokerUnreachable, Malformed
from chunkq.ports import Mailbox
from chunkq.ports.viewing import DeadLetter, QueueState
from chunkq.protocol.limits import MAX_REQUEST_SIZE_BYTES
from chunkq.protocol.packet import parse_request
from chunkq.transport.spool.directories import Places, SpoolDirectories, open_directory, translate
from chunkq.transport.spool.names import (
    LOCK,
    PacketName,
    is_consumer_id,
    mailbox_directory,
    parse_packet,
)
from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.sweeping import DELIVERY_LIMIT, move, remove_file

#: Mailboxes of one site that are looked at: more than any site runs requesters.
MAX_MAILBOXES: Final = 256
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_T = TypeVar("_T")


class SpoolViewer:
    """See `ports.viewing.QueueViewer`. Looks without claiming anything."""

    def __init__(self, options: SpoolOptions) -> None:
        self._site = options.site
        self._directories = SpoolDirectories(options)

    async def queues(self, instances: Sequence[str]) -> list[QueueState]:  # noqa: ARG002
        return await self._in_thread(self._queues)

    async def dead_letters(self) -> list[DeadLetter]:
        return await self._in_thread(lambda: [letter for _, letter in self._dead()])

    async def requeue(self, wanted: Callable[[DeadLetter], bool]) -> int:
        return await self._in_thread(lambda: self._each(wanted, _requeue))

    async def discard(self, wanted: Callable[[DeadLetter], bool]) -> int:
        return await self._in_thread(lambda: self._each(wanted, _discard))

    async def close(self) -> None:
        """Nothing is kept open."""

    # ------------------------------------------------------------ blocking

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        def guarded() -> _T:
            if absence := self._directories.absence():
                raise BrokerUnreachable(absence)
            try:
                return work()
            except OSError as error:
                doing = f"looking at the spool {self._directories.root}"
                raise translate(error, doing) from error

        return await asyncio.to_thread(guarded)

    def _mailboxes(self) -> list[str]:
        """This site's directories, that of requests first."""
        requests = mailbox_directory(Mailbox("req", self._site))
        replies = f"rep.{self._site}."
        names = sorted(os.listdir(self._directories.root))
        found = [name for name in names if name == requests]
        found += [name for name in names if name.startswith(replies)]
        return found[:MAX_MAILBOXES]

    def _queues(self) -> list[QueueState]:
        found = []
        for name in self._mailboxes():
            with suppress(FileNotFoundError, NotADirectoryError), self._opened(name) as places:
                found.append(_state(name, places))
        return found

    def _opened(self, name: str) -> AbstractContextManager[Places]:
        return self._directories.opened(name)

    def _dead(self) -> Iterator[tuple[tuple[str, str], DeadLetter]]:
        """The mailbox and the file's name of each, and what it is."""
        for mailbox in self._mailboxes():
            with suppress(FileNotFoundError, NotADirectoryError), self._opened(mailbox) as places:
                for packet in _packets(places.dead):
                    yield (mailbox, str(packet)), _letter(mailbox, packet, places.dead)

    def _each(
        self,
        wanted: Callable[[DeadLetter], bool],
        act: Callable[[PacketName, Places], bool],
    ) -> int:
        count = 0
        for (mailbox, name), letter in list(self._dead()):
            packet = parse_packet(name)
            if packet is None or not wanted(letter):
                continue
            with self._opened(mailbox) as places:
                count += act(packet, places)
        return count


def _requeue(packet: PacketName, places: Places) -> bool:
    """As if it had never been delivered."""
    fresh = PacketName(
        packet.created_ms,
        packet.sequence,
        packet.expires_ms,
        packet.size_bytes,
        0,
        packet.unique,
    )
    return move(str(packet), str(fresh), places.dead, places.new)


def _discard(packet: PacketName, places: Places) -> bool:
    remove_file(str(packet), places.dead)
    return True


def _state(name: str, places: Places) -> QueueState:
    waiting = list(_packets(places.new))
    consumers = unacknowledged = 0
    for consumer in filter(is_consumer_id, os.listdir(places.cur)):
        with suppress(OSError):  # it ended this moment
            claims_fd = open_directory(consumer, places.cur)
            try:
                unacknowledged += sum(1 for _ in _packets(claims_fd))
                consumers += _lives(claims_fd)
            finally:
                os.close(claims_fd)
    return QueueState(
        name=name,
        depth=len(waiting),
        consumers=consumers,
        unacknowledged=unacknowledged,
        oldest_ms=min((each.created_ms for each in waiting), default=None),
        size_bytes=sum(each.size_bytes for each in waiting),
    )


def _lives(claims_fd: int) -> bool:
    """Whether the consumer holds its lock."""
    try:
        lock = os.open(LOCK, _READ_FLAGS, dir_fd=claims_fd)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _letter(mailbox: str, packet: PacketName, dead_fd: int) -> DeadLetter:
    key = b""
    with suppress(OSError, Malformed):
        fd = os.open(str(packet), _READ_FLAGS, dir_fd=dead_fd)
        try:
            key = bytes(parse_request(os.read(fd, MAX_REQUEST_SIZE_BYTES)).header.sender)
        finally:
            os.close(fd)
    often = packet.deliveries + 1 >= DELIVERY_LIMIT
    return DeadLetter(
        queue=mailbox,
        reason="delivery_limit" if often else "rejected",
        key=key,
        at_ms=packet.created_ms,
    )


def _packets(directory_fd: int) -> list[PacketName]:
    found = (parse_packet(name) for name in os.listdir(directory_fd))
    return sorted(filter(None, found), key=lambda packet: (packet.created_ms, packet.sequence))
