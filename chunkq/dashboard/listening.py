"""Where the page is served, under which names, and what that takes."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chunkq.errors import UsageError

DEFAULT_LISTEN: Final = "127.0.0.1:8137"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252})(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")
#: Open connections that wait to be taken.
BACKLOG: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An address of this machine, and the names by which browsers may call it.

    `names`: as they stand in the browser's address, with the port unless it is the usual one.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    def origins(self, port: int) -> dict[str, str]:
        """What a browser may send as `Host`, and the origin that goes with it."""
        scheme = "https" if self.tls else "http"
        hosts = [f"{_bracketed(self.host)}:{port}"]
        if self.loopback:
            hosts += [f"{each}:{port}" for each in ("127.0.0.1", "localhost", "[::1]")]
        found = {host: f"{scheme}://{host}" for host in hosts}
        outer = "https" if self.tls or self.behind_proxy else "http"
        return found | {name: f"{outer}://{name}" for name in self.names}

    def address(self, port: int) -> str:
        """What a person opens."""
        origins = self.origins(port)
        return origins[self.names[0] if self.names else f"{_bracketed(self.host)}:{port}"]


def is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`; the host is an address or `localhost`. Raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        number = int(port) if colon and port.isdecimal() else -1
        if host != "localhost":
            ipaddress.ip_address(host)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise UsageError(
            f"{text!a} is no address to listen on", hint=f"write it as {DEFAULT_LISTEN}"
        )
    return host, number


def check(listening: Listening) -> None:
    """Raises `UsageError` for what would let in whom it should not."""
    for name in listening.names:
        if _NAME.fullmatch(name) is None:
            raise UsageError(f"{name!a} is no name of a host", hint="write --host ops.example.org")
    if (listening.tls_cert is None) != (listening.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together: give both or neither")
    if listening.loopback:
        return
    if not listening.passwords:
        raise UsageError(
            f"other machines reach {listening.host}: nobody may look without a password",
            hint="give --password-file FILE, with lines user:password; or listen on 127.0.0.1",
        )
    if not (listening.tls or listening.behind_proxy):
        raise UsageError(
            f"on {listening.host} passwords would cross the network in the clear",
            hint="give --tls-cert and --tls-key, or --behind-proxy if a proxy there does TLS",
        )
    if ipaddress.ip_address(listening.host).is_unspecified and not listening.names:
        raise UsageError(
            f"{listening.host} is every address of this machine: say by which name it is called",
            hint="give --host NAME, as it stands in the browser's address",
        )


def bound_socket(listening: Listening) -> socket.socket:
    """A listening socket. Raises `UsageError`, saying what is in the way."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # a server that was killed may start again at once
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((listening.host, listening.port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        where = f"{_bracketed(listening.host)}:{listening.port}"
        raise UsageError(
            f"cannot listen on {where}: {(error.strerror or str(error)).lower()}",
            hint="another dashboard may run there; choose another with --listen 127.0.0.1:PORT",
        ) from error
    return made
