"""Links: a transport each, at its rate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from chunkq.ports import (
    Clock,
    Log,
    Transport,
)
from chunkq.protocol.limits import (
    MIB,
)
from chunkq.settings import Link, Settings
from chunkq.storage.mapping import storage_errors
from chunkq.transport.limited import ByteRate, LimitedTransport

if TYPE_CHECKING:
    from chunkq.transport.rabbitmq import RabbitMQOptions
    from chunkq.transport.spool import SpoolOptions

#: A spool is its owner's, or a group's whose new files stay the group's.
PRIVATE_SPOOL_MODE: Final = 0o700
SHARED_SPOOL_MODE: Final = 0o2770
#: Bytes taken from a broker's socket and not yet by the runtime, which has a backlog of its own.
WAITING_BYTES: Final = 4 * MIB


def make_transport(link: Link, site: str, clock: Clock) -> Transport:
    """The transport of a link at its rate, not yet open. `site`: what this site is called on it."""
    carrier = _make_carrier(link, site, clock)
    if link.slowest_rate_bytes_per_s is None:
        return carrier
    return LimitedTransport(
        carrier,
        clock,
        send=ByteRate.of(link.send_rate_bytes_per_s, link.burst_bytes),
        receive=ByteRate.of(link.receive_rate_bytes_per_s, link.burst_bytes),
    )


async def close_link(link: Link, transport: Transport, log: Log) -> None:
    """Close its transport and log what it has moved."""
    await transport.close()
    moved = transport.traffic
    counters = {"sent_bytes": moved.sent_bytes, "received_bytes": moved.received_bytes}
    log("link_closed", link=link.name, counters=counters)


def _make_carrier(link: Link, site: str, clock: Clock) -> Transport:
    if link.transport == "spool":
        from chunkq.transport.spool import SpoolTransport

        return SpoolTransport(spool_options(link, site), clock)
    from chunkq.transport.rabbitmq import RabbitMQTransport

    return RabbitMQTransport(rabbitmq_options(link, site))


def spool_options(link: Link, site: str) -> SpoolOptions:
    from chunkq.transport.spool import SpoolOptions

    return SpoolOptions(
        root=link.spool_path,
        site=site,
        max_message_bytes=link.max_message_bytes,
        dir_mode=SHARED_SPOOL_MODE if link.shared_group else PRIVATE_SPOOL_MODE,
    )


def rabbitmq_options(link: Link, site: str) -> RabbitMQOptions:
    from chunkq.transport.rabbitmq import RabbitMQOptions, frame_max_for

    return RabbitMQOptions(
        url=link.url,
        site=site,
        waiting_bytes=WAITING_BYTES,
        max_message_bytes=link.max_message_bytes,
        frame_max=frame_max_for(link.slowest_rate_bytes_per_s),
        tls_ca=_text(link.ca),
        tls_cert=_text(link.cert),
        tls_key=_text(link.key),
        external=link.external,
        by_policy=link.by_policy,
    )


def _text(path: os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def make_own_spool(settings: Settings) -> None:
    """Create the spool in the state directory if a link leads to it. Raises `StorageError`.

    Only that one: another directory may be a stick that is not plugged in.
    """
    spool = settings.directories.spool
    links = settings.links.values()
    if any(link.transport == "spool" and link.spool_path == spool for link in links):
        with storage_errors("mkdir", str(spool)):
            spool.mkdir(parents=True, exist_ok=True, mode=PRIVATE_SPOOL_MODE)
