"""Figures for Prometheus, and whether a process is alive and ready, over HTTP.

The server runs in threads of its own; what it tells is asked of the process's loop for each
request, so a loop that does not turn shows.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from chunkq.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client.metrics_core import Metric

#: A connection that says nothing for so long is closed.
IDLE_S: Final = 10.0
PREFIX: Final = "chunkq_"
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(slots=True)
class Figure:
    """One metric: its name without prefix, and without `_total` where it only rises.

    `samples`: values by their labels' values, in the order of `labels`. Units are base units.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    samples: dict[tuple[str, ...], float] = field(default_factory=dict)


class Told(Protocol):
    """What the server tells of the process. All are called on threads of the server."""

    def figures(self) -> Sequence[Figure]:
        """Raises `TimeoutError` where the loop does not turn."""
        ...

    def alive(self) -> bool: ...

    def unready(self) -> Sequence[str]:
        """Why it is not ready, or nothing. Raises as `figures`."""
        ...


class Exposition:
    """A server, from `start` to `close`. Raises `ConfigError` where its library is missing."""

    def __init__(self, told: Told) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ImportError:
            raise ConfigError(
                "metrics need the package prometheus-client, which is not installed",
                hint="pip install 'chunkq[metrics]', or leave out --metrics and [metrics] listen",
            ) from None
        self._told = told
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Collector(told))
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which is another one where 0 was asked for.

        Raises `UsageError` if it cannot be had.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            kind = type("_Server", (_Server,), {"address_family": family})
            self._server = make_server(host, port, self._answer, kind, _Handler)
        except OSError as error:
            raise _unavailable(error, host, port) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="chunkq-metrics", daemon=True
        )
        self._thread.start()
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening. Blocks for a moment."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    # ------------------------------------------------------------ answering

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _say(start, HTTPStatus.METHOD_NOT_ALLOWED, "only GET\n")
        try:
            match environ["PATH_INFO"]:
                case "/metrics":
                    return self._metrics(environ, start)
                case "/healthz":
                    alive = self._told.alive()
                    if not alive:
                        raise TimeoutError
                    return _say(start, HTTPStatus.OK, "ok\n")
                case "/readyz":
                    reasons = self._told.unready()
                    if not reasons:
                        return _say(start, HTTPStatus.OK, "ready\n")
                    text = "".join(f"{reason}\n" for reason in reasons)
                    return _say(start, HTTPStatus.SERVICE_UNAVAILABLE, text)
                case _:
                    return _say(start, HTTPStatus.NOT_FOUND, "/metrics, /healthz or /readyz\n")
        except TimeoutError:
            return _say(start, HTTPStatus.SERVICE_UNAVAILABLE, "its loop does not turn\n")

    def _metrics(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        from prometheus_client import make_wsgi_app

        answer: Iterable[bytes] = make_wsgi_app(self._registry)(environ, start)
        return answer


class _Collector:
    """Figures as the library has them."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the process when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: Mapping[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for figure in self._told.figures():
            family = families[figure.kind](PREFIX + figure.name, figure.help, labels=figure.labels)
            for values, number in figure.samples.items():
                family.add_metric(list(values), number)
            yield family


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection; none of them keeps the process from ending."""

    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Without the look-up of our own name that the standard library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever hangs up is no news."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base has it
        """Nothing: scrapes are no events."""

    def address_string(self) -> str:
        """Without a look-up of the name."""
        return str(self.client_address[0])


def _say(start: StartResponse, status: HTTPStatus, text: str) -> Iterable[bytes]:
    body = text.encode()
    headers = [("Content-Type", _PLAIN), ("Content-Length", str(len(body)))]
    start(f"{status.value} {status.phrase}", headers)
    return [body]


def _unavailable(error: OSError, host: str, port: int) -> UsageError:
    where = f"metrics cannot be told at {host}:{port}: {error.strerror or error}"
    hint = "give another address: --metrics HOST:PORT"
    if error.errno == errno.EADDRINUSE:
        hint = "another process is there, perhaps another worker; give each its own: --metrics"
    return UsageError(where, hint=hint)


@contextlib.contextmanager
def exposed(told: Told, host: str, port: int) -> Iterator[int]:
    """A server for the time of a `with`; the port. Raises `ConfigError`, `UsageError`."""
    exposition = Exposition(told)
    port = exposition.start(host, port)
    try:
        yield port
    finally:
        exposition.close()
