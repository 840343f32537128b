"""Telling the service manager how this process is, in the datagrams of sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket


class Notifier:
    """Sends to the socket at `address` (`@name`: abstract); does nothing where that is None.

    A manager that does not listen is no reason to fail: errors are dropped.
    """

    def __init__(self, address: str | None) -> None:
        self._address = f"\0{address[1:]}" if address and address[0] == "@" else address

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + line.replace("\n", " "))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            # a full queue at the manager must not stop the work
            sock.setblocking(False)
            sock.sendto(message.encode("utf-8", "replace"), self._address)
