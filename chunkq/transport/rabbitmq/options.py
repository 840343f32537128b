"""How a site reaches its broker: one options object, checked and turned into what pika wants."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

import pika
from pika.credentials import ExternalCredentials, PlainCredentials

from chunkq.errors import ConfigError
from chunkq.protocol.brokerurl import check_whole, node_urls, split_url
from chunkq.protocol.limits import KIB, MAX_REPLY_BODY_SIZE_BYTES, MIB

#: A reply's largest body and its header: under the 16 MiB that RabbitMQ 4 takes by default.
DEFAULT_MAX_MESSAGE_BYTES: Final = MAX_REPLY_BODY_SIZE_BYTES + 4 * KIB
#: RabbitMQ 4 refuses connections that negotiate less.
MIN_FRAME_MAX: Final = 8192
#: The receive buffer must hold two.
MAX_FRAME_MAX: Final = 512 * KIB
#: Names that go into routing keys and permissions, as ports.Mailbox says.
NAME: Final = re.compile(r"[a-z0-9-]{1,63}")
#: What pika and RabbitMQ take by default: larger ones were not faster.
DEFAULT_FRAME_MAX: Final = 128 * KIB
#: Seconds or bytes in a URL's options.
_SMALL_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_PORTS: Final = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQOptions:
    """`url` is `amqp://` or `amqps://user:password@host:port/vhost[?heartbeat=30&frame_max=8192]`.

    A cluster's nodes are named one after the other, as `host:port,host:port`: they are tried in
    that order, and when one is lost, the next.
    `site` is the name this site goes by on the broker: with per-site permissions it must be the
    user's name. `external` logs in by the TLS client certificate. `by_policy` leaves the queues'
    limits to the administrator's policies; otherwise they are arguments of the queues. Raises
    `ConfigError`.
    """

    url: str = field(repr=False)
    site: str
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    #: Bytes handed to the broker and not confirmed; bounds the memory of a publisher. As many as an
    #: origin's replies, which a far broker takes a round trip to confirm.
    unconfirmed_bytes: int = 40 * MIB
    #: Bytes received and not taken by `receive()`; above it the socket is read just enough to keep
    #: the connection, so that the prefetch is what bounds a receiver that stands still.
    waiting_bytes: int = 8 * MIB
    heartbeat_s: int = 30
    #: A packet that is unconfirmed for so long never will be: its queue has lost its leader. Ample
    #: for a full window on a link of half a Mbit/s; does not run while the broker is blocked.
    confirm_timeout_s: float = 300.0
    #: Lower it on slow links, where 128 KiB can take longer than a heartbeat.
    frame_max: int = DEFAULT_FRAME_MAX
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    external: bool = False
    connect_timeout_s: float = 15.0
    #: For exchanges, queue and consumer on an open connection: a few round trips. A cluster without
    #: a majority of its nodes never answers.
    set_up_timeout_s: float = 30.0
    close_timeout_s: float = 5.0
    reconnect_base_s: float = 0.5
    reconnect_cap_s: float = 30.0
    #: How often a consumer renews its bindings: a deleted exchange takes them with it, unannounced.
    #: None: each heartbeat, since who wants to know soon that a link is dead says so there.
    rebind_s: float | None = None
    by_policy: bool = False
    request_queue_bytes: int = 64 * MIB
    reply_queue_bytes: int = 256 * MIB
    #: A reply queue that nobody consumes from for so long is deleted.
    reply_queue_expires_s: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.site):
            raise ConfigError(
                f"{self.site!r} cannot be a site's name on a broker",
                hint="use 1 to 63 of the characters a-z, 0-9 and -",
            )
        if self.external and self.tls_cert is None:
            raise ConfigError("logging in by certificate (external) needs a TLS certificate")
        endpoints(self)

    @property
    def rebind_interval_s(self) -> float:
        """As `rebind_s` says."""
        return self.rebind_s or float(endpoints(self)[0].heartbeat_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to connect, and as whom. `user` is for messages: EXTERNAL's is the certificate's."""

    host: str
    port: int
    tls: bool
    user: str
    vhost: str
    password: str = field(repr=False)
    heartbeat_s: int
    frame_max: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def frame_max_for(bytes_per_s: float | None) -> int:
    """The largest frame, a power of two, that a link of this rate carries in a second.

    Nothing overtakes within a frame, so a heartbeat waits for no longer than that.
    """
    if bytes_per_s is None:
        return DEFAULT_FRAME_MAX
    within = 1 << max(0, int(bytes_per_s).bit_length() - 1)
    return min(max(within, MIN_FRAME_MAX), DEFAULT_FRAME_MAX)


def endpoints(options: RabbitMQOptions) -> tuple[Endpoint, ...]:
    """The nodes that the URL names, at least one. The password is in no message."""
    try:
        check_whole(options.url)
    except ValueError as error:
        raise ConfigError(f"the broker's URL {error}") from None
    return tuple(_endpoint(options, url) for url in node_urls(options.url))


def _endpoint(options: RabbitMQOptions, url: str) -> Endpoint:
    try:
        parts = split_url(url)
    except ValueError as error:
        raise ConfigError(f"the broker's URL {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigError(
            "the broker's URL must begin with amqp:// or amqps:// and name a host",
            hint="amqps://user:password@broker.example.org/vhost",
        )
    numbers = {"heartbeat": options.heartbeat_s, "frame_max": options.frame_max}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in numbers or not _SMALL_NUMBER.fullmatch(value):
            raise ConfigError(
                f"the broker's URL has the option {name}={value}, which is unknown or no number",
                hint=f"known: {', '.join(numbers)}",
            )
        numbers[name] = int(value)
    if not MIN_FRAME_MAX <= numbers["frame_max"] <= MAX_FRAME_MAX:
        raise ConfigError(f"frame_max must be {MIN_FRAME_MAX} to {MAX_FRAME_MAX} bytes")
    if numbers["heartbeat"] < 1:
        raise ConfigError("heartbeat must be at least 1 s: without it a dead link is never noticed")
    if (options.tls_ca or options.tls_cert) and parts.scheme != "amqps":
        raise ConfigError("TLS files are given, but the broker's URL does not begin with amqps://")
    return Endpoint(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        tls=parts.scheme == "amqps",
        user=options.site if options.external else unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        heartbeat_s=numbers["heartbeat"],
        frame_max=numbers["frame_max"],
    )


def pika_parameters(
    options: RabbitMQOptions, where: Endpoint, purpose: str
) -> pika.ConnectionParameters:
    """`purpose` names the connection in the broker's own listings."""
    return pika.ConnectionParameters(
        host=where.host,
        port=where.port,
        virtual_host=where.vhost,
        credentials=(
            ExternalCredentials()
            if options.external
            else PlainCredentials(where.user, where.password)
        ),
        heartbeat=where.heartbeat_s,
        frame_max=where.frame_max,
        client_properties={
            "product": "chunkq",
            "information": "",
            "connection_name": f"chunkq {options.site} {purpose}",
        },
    )


def tls_context(options: RabbitMQOptions, where: Endpoint) -> ssl.SSLContext | None:
    """The host's name is always checked. Raises `ConfigError` for files that cannot be used."""
    if not where.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_cert is not None:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(p for p in (options.tls_ca, options.tls_cert, options.tls_key) if p)
        raise ConfigError(
            f"the TLS files {named or 'of this system'} cannot be used: {error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
