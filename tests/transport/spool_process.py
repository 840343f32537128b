"""A process of its own on a spool, for the tests that kill one: `ROOT publish|consume|hold ...`.

publish PREFIX COUNT   sends PREFIX-0, PREFIX-1, ..., and prints each once the spool has taken it
consume                prints each packet and acknowledges it, until standard input is closed
hold COUNT ACKNOWLEDGE takes COUNT packets, acknowledges the first so many, prints "held", waits
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from chunkq.ports import Consumer, Delivery, Mailbox
from chunkq.transport.spool import SpoolOptions, SpoolTransport

BOB = Mailbox("req", "bob")
#: Makes a packet large enough that a kill can hit its writing.
PADDING = b"." * 100_000


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return int(time.time() * 1000)


async def publish(spool: SpoolTransport, prefix: str, count: int) -> None:
    async def one(number: int) -> None:
        name = f"{prefix}-{number}"
        await spool.publish(BOB, name.encode() + PADDING)
        print(name, flush=True)

    for start in range(0, count, 10):
        await asyncio.gather(*(one(number) for number in range(start, min(start + 10, count))))


async def consume(consumer: Consumer) -> None:
    while True:
        batch = await consumer.receive()
        for delivery in batch:
            assert delivery.body.endswith(PADDING), "torn"
            print(delivery.body.removesuffix(PADDING).decode(), flush=True)
        consumer.acknowledge(batch[-1])


async def hold(consumer: Consumer, count: int, acknowledge: int) -> None:
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await consumer.receive()
    consumer.acknowledge(taken[acknowledge - 1])
    print("held", flush=True)
    await asyncio.Event().wait()


async def main(root: str, action: str, *arguments: str) -> None:
    spool = SpoolTransport(SpoolOptions(root=Path(root), site="bob"), SystemClock())
    await spool.open()
    if action == "publish":
        await publish(spool, arguments[0], int(arguments[1]))
    elif action == "hold":
        await hold(await spool.consume(BOB, prefetch=100), int(arguments[0]), int(arguments[1]))
    else:
        consuming = asyncio.ensure_future(consume(await spool.consume(BOB, prefetch=7)))
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.wait([consuming, ended], return_when=asyncio.FIRST_COMPLETED)
        if consuming.done():
            consuming.result()
        consuming.cancel()
    await spool.close()


asyncio.run(main(*sys.argv[1:]))
