"""Whether a link carries what it should: a packet of the largest size, sent to oneself."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from chunkq.errors import Unreachable
from chunkq.ports import Mailbox, Transport

#: The reply mailbox that `doctor` sends to itself through; no requester is called so.
INSTANCE: Final = "doctor"
#: The largest packet is 4 MiB: enough for a line of 2 Mbit/s there and back.
TIMEOUT_S: Final = 60.0
_NONCE_SIZE_BYTES: Final = 16


async def probe(transport: Transport, site: str, size_bytes: int) -> None:
    """Connect, make a mailbox, send `size_bytes` to it and take them back.

    Raises `BrokerRefused` (log-in, permission, size), `Unreachable`, `TransportError`. Closes the
    transport.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await transport.open()
            await _send_to_self(transport, Mailbox("rep", site, INSTANCE), size_bytes)
    except TimeoutError:
        raise Unreachable(
            f"nothing came back within {TIMEOUT_S:.0f} s",
            hint="the link is very slow, or the broker is blocked: see its log",
        ) from None
    finally:
        await transport.close()


async def _send_to_self(transport: Transport, mailbox: Mailbox, size_bytes: int) -> None:
    nonce = os.urandom(_NONCE_SIZE_BYTES)
    consumer = await transport.consume(mailbox, prefetch=16)
    try:
        packet = nonce + bytes(size_bytes - len(nonce))
        await transport.publish(mailbox, packet, lifetime_s=TIMEOUT_S)
        found = False
        while not found:
            deliveries = await consumer.receive()
            # an earlier, interrupted run may have left some
            found = any(bytes(each.body[: len(nonce)]) == nonce for each in deliveries)
            consumer.acknowledge(deliveries[-1])
    finally:
        await consumer.close()
