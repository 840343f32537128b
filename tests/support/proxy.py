"""A TCP proxy on 127.0.0.1 that makes a network bad: the kernel here has no `netem`.

`up` is the way from the client to the server, `down` the way back; each has its own delay, rate,
blackhole and cut. Settings may be changed at any time and hold for all connections.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Self

#: What one read takes: small, so that a rate is even.
READ_BYTES = 64 * 1024
#: Reads that may be under way in one direction while they are delayed.
IN_FLIGHT_READS = 256

#: `tcpi_bytes_acked` and `tcpi_bytes_received` in the kernel's `struct tcp_info` (linux/tcp.h).
_TCP_INFO_BYTES = struct.Struct("=QQ")
_TCP_INFO_OFFSET = 120


class Direction:
    """One way through the proxy.

    `delay_s`: how long each byte is under way. `rate_bytes_s`: how many pass in a second, all
    connections together; None: no limit. `cut_after_bytes`: the connection whose count passes it
    is closed there, in mid-frame; with a TCP reset if `cut_resets`. `spoil_next`: of what
    passes next all bits are set, once. `seen`: everything that came in, a byte string for each
    connection, if `recording`.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.rate_bytes_s: float | None = None
        self.cut_after_bytes: int | None = None
        self.cut_resets = False
        self.spoil_next = False
        self.recording = False
        self.seen: list[bytearray] = []
        #: When the line is free again, if it has a rate.
        self._free_at = 0.0
        self._open = asyncio.Event()
        self._open.set()

    def blackhole(self) -> None:
        """Let nothing through any more; senders notice nothing."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    def fresh(self) -> Direction:
        """An open one of the same delay and rate."""
        other = Direction()
        other.delay_s, other.rate_bytes_s = self.delay_s, self.rate_bytes_s
        return other

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Callable[[], None]
    ) -> None:
        """Carry one connection's bytes until it ends."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT_READS)
        record = bytearray()
        if self.recording:
            self.seen.append(record)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(reader, under_way, record))
            group.create_task(self._give(under_way, writer, cut))

    async def _take(
        self,
        reader: asyncio.StreamReader,
        under_way: asyncio.Queue[tuple[float, bytes]],
        record: bytearray,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except OSError:
                data = b""
            if self.recording:
                record += data
            await under_way.put((loop.time() + self.delay_s, data))
            if not data:
                return

    async def _give(
        self,
        under_way: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        cut: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        count = 0
        while True:
            due, data = await under_way.get()
            await self._open.wait()
            if (early_s := due - loop.time()) > 0:
                await asyncio.sleep(early_s)
            most = self.cut_after_bytes
            if most is not None and count + len(data) > most:
                writer.write(data[: max(0, most - count)])
                cut()
                return
            count += len(data)
            if self.spoil_next and data:
                data, self.spoil_next = b"\xff" * len(data), False
            await self._through_the_line(due, len(data))
            try:
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()
            except OSError:
                return

    async def _through_the_line(self, from_s: float, size: int) -> None:
        """Wait until the line has carried what was there from then on.

        A line does not wait for a busy machine: where this runs late, the bytes go on at once.
        """
        if self.rate_bytes_s is None:
            return
        self._free_at = max(from_s, self._free_at) + size / self.rate_bytes_s
        if (early_s := self._free_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(early_s)


class Proxy:
    """`async with Proxy(port) as proxy:` and connect to `proxy.port`."""

    def __init__(self, target_port: int) -> None:
        self.up = Direction()
        self.down = Direction()
        #: Any free port if 0.
        self.listen_on = 0
        self.connections = self.ended = 0
        #: By the kernel's count of TCP payload, of `ended` connections: from clients, and to them.
        self.kernel_up_bytes = self.kernel_down_bytes = 0
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", self.listen_on)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def blackhole(self) -> None:
        """Both ways."""
        self.up.blackhole()
        self.down.blackhole()

    def heal(self) -> None:
        self.up.heal()
        self.down.heal()

    def forget(self) -> None:
        """Lose the connections that there are, as a firewall does: nothing of them passes any
        more, not even their end. New ones are carried.
        """
        self.blackhole()
        self.up, self.down = self.up.fresh(), self.down.fresh()

    def reset(self) -> None:
        """End every connection with a TCP reset."""
        for writer in list(self._writers):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    def _count(self, writer: asyncio.StreamWriter) -> None:
        """Add what the kernel counted for a connection that the client has ended."""
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            acked, received = _TCP_INFO_BYTES.unpack_from(info, _TCP_INFO_OFFSET)
            self.kernel_up_bytes += received
            self.kernel_down_bytes += acked
            self.ended += 1

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far_writer)
            self._writers.add(far_writer)

            def cut() -> None:
                for end in ends:
                    if self.up.cut_resets or self.down.cut_resets:
                        self._reset(end)
                    else:
                        end.close()

            async with asyncio.TaskGroup() as group:
                carried = group.create_task(self.up.carry(reader, far_writer, cut))
                carried.add_done_callback(lambda _: self._count(writer))
                group.create_task(self.down.carry(far_reader, writer, cut))
        except (OSError, asyncio.CancelledError):
            # The server is gone, or the proxy ends: the client sees its connection end.
            pass
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()
