"""A pinned peer that floods an origin with valid requests, driven by `fairness`.

    python -m tests.bench.flood CONFIG_DIR STATE_DIR PEER REQUESTS_PER_S CHUNKS DEAF

Each request asks for CHUNKS chunks of `PEER:files/flood`; with DEAF 1 the replies are left in the
queue, until that is full. Prints `ready`; `begin` begins, `mark` tells how many bytes came of it
so far, `end` ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from chunkq.compose import SystemClock, load_identity, make_transport, ref_of
from chunkq.errors import TransportError
from chunkq.ports import Mailbox
from chunkq.protocol import cbor
from chunkq.protocol.manifest import verify_head
from chunkq.protocol.messages import Chunks, ManifestReply, Open
from chunkq.protocol.packet import RequestId, RequestKind, Suite, parse_reply
from chunkq.protocol.peering import PeerRef
from chunkq.protocol.seal import ReplyOpener, seal_request
from chunkq.settings import Registry, Settings, load

PATH = "flood"
SHARE = "files"
LIFETIME_MS = 600_000
#: Requests on their way to the broker at once.
PUBLISHING = 64


class Flood:
    """Sends until told to stop."""

    def __init__(self, settings: Settings, peer: str) -> None:
        self._settings = settings
        self._peer: PeerRef = ref_of(Registry(settings.directories).peer(peer))
        self._keys = load_identity(settings).ring.keys
        self._clock = SystemClock()
        self._transport = make_transport(settings.links["default"], settings.site_name, self._clock)
        self._epoch = self._clock.wall_ms() << 20
        self._count = 0
        #: A reply queue of its own: nothing of an earlier flood is in it.
        self._instance = os.urandom(6).hex()
        self._ephemeral = b"f" * 32
        self.refused = 0
        #: What came of it, and was not looked at.
        self.taken_bytes = 0

    async def open(self, *, deaf: bool) -> None:
        """Ask for the manifest as anybody does; then take replies, or leave them."""
        await self._transport.open()
        mailbox = Mailbox("rep", self._settings.site_name, self._instance)
        consumer = await self._transport.consume(mailbox, prefetch=1000)
        body = Open(instance=self._instance, share=SHARE, path=PATH, largest_chunk=1 << 18)
        while True:
            await self._send(RequestKind.OPEN, body)
            (delivery, *_) = await consumer.receive()
            consumer.acknowledge(delivery)
            raw = parse_reply(delivery.body)
            opener = ReplyOpener(
                header=raw.header,
                sender=self._keys.site_id,
                recipient=self._peer.card,
                ephemeral_secret=self._ephemeral,
            )
            with suppress(Exception):
                manifest = cbor.decode(ManifestReply, opener.open(raw))
                break
            await asyncio.sleep(0.2)
        self._head = verify_head(self._peer.card, manifest.head, manifest.signature)
        if deaf:
            await consumer.close()
            return

        async def drop() -> None:
            while True:
                deliveries = await consumer.receive()
                self.taken_bytes += sum(len(each.body) for each in deliveries)
                consumer.acknowledge(deliveries[-1])

        self._dropping = asyncio.ensure_future(drop())

    async def run(self, per_s: float, chunks: int) -> None:
        body = Chunks(
            instance=self._instance,
            share=SHARE,
            path=PATH,
            root=self._head.root,
            chunk_size=self._head.geometry.chunk_size_bytes,
            runs=[(0, chunks)],
        )
        began, sent = time.monotonic(), 0
        places = asyncio.Semaphore(PUBLISHING)
        sending: set[asyncio.Task[None]] = set()

        async def one() -> None:
            try:
                await self._send(RequestKind.CHUNKS, body)
            except TransportError:
                self.refused += 1
            finally:
                places.release()

        while True:
            due = int((time.monotonic() - began) * per_s) - sent
            for _ in range(due):
                await places.acquire()
                sending.add(task := asyncio.ensure_future(one()))
                task.add_done_callback(sending.discard)
            sent += due
            await asyncio.sleep(0.01)

    @property
    def sent(self) -> int:
        return self._count

    async def _send(self, kind: RequestKind, body: Open | Chunks) -> None:
        self._count += 1
        now_ms = self._clock.wall_ms()
        packet = seal_request(
            keys=self._keys,
            recipient=self._peer.card,
            kind=kind,
            suite=Suite.AES256GCM,
            request_id=RequestId(self._epoch, self._count),
            issued_ms=now_ms,
            expires_ms=now_ms + LIFETIME_MS,
            ephemeral_secret=self._ephemeral,
            body=cbor.encode(body),
        )
        await self._transport.publish(
            Mailbox("req", self._peer.address), packet, lifetime_s=LIFETIME_MS / 1000
        )


async def main(config: str, state: str, peer: str, *numbers: str) -> None:
    per_s, chunks, deaf = numbers
    settings = load(config_dir=Path(config), state_dir=Path(state)).settings
    flood = Flood(settings, peer)
    await flood.open(deaf=deaf == "1")
    print("ready", flush=True)
    while (await asyncio.to_thread(sys.stdin.readline)).strip() == "begin":
        sending = asyncio.ensure_future(flood.run(float(per_s), int(chunks)))
        while (await asyncio.to_thread(sys.stdin.readline)).strip() == "mark":
            print(json.dumps(flood.taken_bytes), flush=True)
        sending.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
