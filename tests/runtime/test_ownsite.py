"""Reports to who listens and commands to one process, over a carrier that loses and repeats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from chunkq.errors import NotFound
from chunkq.ports import STATUS_INSTANCE, LinkHealth, Mailbox
from chunkq.protocol import cbor
from chunkq.protocol.control import Command
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import MIB
from chunkq.protocol.packet import RequestKind
from chunkq.protocol.report import Report
from chunkq.runtime.identity import identity_of
from chunkq.runtime.listening import StatusListener
from chunkq.runtime.ownsite import (
    CONTROL_LIFETIME_S,
    RETRY_S,
    ControlDesk,
    OwnSealer,
    StatusSender,
    listen_for_control,
)
from chunkq.runtime.peer import Requester
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.support.virtual import LoopClock, run_virtual

RANDOM = Random(1)
ALICE = identity_of(SiteKeys.generate(RANDOM.randbytes))
MALLORY = identity_of(SiteKeys.generate(RANDOM.randbytes))
INCARNATION = "ab" * 16
ME = Mailbox("rep", "alice", "abcdefghijkl")


def report(at_ms: int, **fields: Any) -> Report:
    given = {
        "site": "alice",
        "host": "here",
        "pid": 7,
        "role": "requester",
        "instance": ME.instance,
        "incarnation": INCARNATION,
        "software": "1",
        "started_ms": 1,
        "at_ms": at_ms,
    }
    return Report.model_validate(given | fields, strict=True)


def silent(event: str, /, *, level: str = "info", **fields: object) -> None:
    """No log."""


class Link:
    """A carrier, alice's end of it, and what she hears."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.carrier = MemoryCarrier(self.clock)
        self.transport = MemoryTransport(self.carrier, "alice")
        self.sealer = OwnSealer(ALICE, "alice", self.clock, RANDOM.randbytes)
        self.heard: list[tuple[int, str]] = []
        self.listener = StatusListener(
            ALICE,
            "alice",
            self.clock,
            heard=lambda report, link: self.heard.append((report.at_ms, link)),
            log=silent,
        )
        self.sender = StatusSender(self.sealer, self.clock)

    def send(self, at_ms: int) -> None:
        self.sender.send(report(at_ms), [("default", self.transport)])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.listener.listen("default", self.transport))
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def test_reports_are_heard_by_who_listens() -> None:
    """Nobody listening is no error; from then on each is heard, and after it none lies about."""

    async def scenario() -> None:
        link = Link()
        link.send(1)
        await asyncio.sleep(RETRY_S)
        async with link.listening():
            for at_ms in (2, 3):
                link.send(at_ms)
                await asyncio.sleep(1)
            assert [(2, "default"), (3, "default")] == link.heard
        link.send(4)
        await asyncio.sleep(1)
        assert 0 == await link.transport.depth(Mailbox("rep", "alice", STATUS_INSTANCE))

    run_virtual(scenario())


def test_where_nobody_listens_it_is_tried_now_and_then() -> None:
    """Not each second: a publish, however cheap, is worth nothing there."""

    async def scenario() -> None:
        link = Link()
        tries: list[float] = []
        publish = link.transport.publish

        async def counted(*args: Any, **fields: Any) -> None:
            tries.append(asyncio.get_running_loop().time())
            await publish(*args, **fields)

        link.transport.publish = counted  # type: ignore[method-assign]
        for at_ms in range(31):
            link.send(at_ms)
            await asyncio.sleep(1)
        assert [RETRY_S] * 6 == [b - a for a, b in pairwise(tries)]

    run_virtual(scenario())


def test_a_link_with_a_rate_is_not_filled_with_reports() -> None:
    """They take a small part of it; a carrier that takes nothing has one of them at most."""

    async def scenario() -> None:
        link = Link()
        link.sender = StatusSender(link.sealer, link.clock, lambda _: 2048)
        async with link.listening():
            for at_ms in range(100):
                link.send(at_ms)
                await asyncio.sleep(1)
            assert link.transport.traffic.sent_bytes <= 2048 * 100 * 0.03
            assert len(link.heard) >= 3

            async def stuck(*args: Any, **fields: Any) -> None:
                stuck_ones.append(1)
                await asyncio.sleep(3600)

            stuck_ones: list[int] = []
            link.transport.publish = stuck  # type: ignore[method-assign]
            for at_ms in range(100, 200):
                link.send(at_ms)
                await asyncio.sleep(1)
            assert [1] == stuck_ones
        await link.sender.close()

    run_virtual(scenario())


def test_a_link_that_is_away_is_not_spoken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits there would be old when it is back."""

    async def scenario() -> None:
        link = Link()
        monkeypatch.setattr(
            MemoryTransport, "health", LinkHealth(ok=False, reason="broker_unreachable")
        )
        async with link.listening():
            link.send(1)
            await asyncio.sleep(10)
        assert [] == link.heard

    run_virtual(scenario())


def test_what_others_put_into_the_mailbox_is_not_heard() -> None:
    """Rubbish, another site's report in this one's name, the same again, an older one."""

    async def scenario() -> None:
        link = Link()
        mallory = OwnSealer(MALLORY, "alice", link.clock, RANDOM.randbytes)
        mine = link.sealer.seal(RequestKind.REPORT, cbor.encode(report(5)), 10)
        late = link.sealer.seal(RequestKind.REPORT, cbor.encode(report(4)), 10)
        foreign = link.sealer.seal(RequestKind.REPORT, cbor.encode(report(9, site="eve")), 10)
        forged = mallory.seal(RequestKind.REPORT, cbor.encode(report(6)), 10)
        async with link.listening():
            for packet in (b"", b"rubbish" * 100, forged, mine, mine, late, foreign):
                await link.transport.publish(Mailbox("rep", "alice", STATUS_INSTANCE), packet)
            await asyncio.sleep(1)
        assert [(5, "default")] == link.heard
        assert {
            "malformed": 2,
            "misaddressed": 1,
            "replayed": 1,
            "late": 1,
            "unsupported": 1,
        } == link.listener.drops

    run_virtual(scenario())


def test_a_restarted_process_is_heard_though_its_clock_was_set_back() -> None:
    """Older than the last is only what the same start has said."""

    async def scenario() -> None:
        link = Link()
        async with link.listening():
            for each in (report(100), report(50, incarnation="cd" * 16)):
                packet = link.sealer.seal(RequestKind.REPORT, cbor.encode(each), 10)
                link.listener.take(packet, "default")
        assert [100, 50] == [at_ms for at_ms, _ in link.heard]

    run_virtual(scenario())


def command(action: str = "drain", **fields: Any) -> Command:
    given = {"incarnation": INCARNATION, "action": action, "by": "op@there"} | fields
    return Command.model_validate(given, strict=True)


async def test_commands_are_done_in_turn_and_once() -> None:
    """Those for another start are not; one that fails holds up no other."""
    done: list[str] = []
    logged: list[str] = []

    def apply(command: Command) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if command.action == "drain":
            raise NotFound("no such thing")
        done.append(f"{command.action} {command.transfers}")

    link = Link()
    link.clock.monotonic_s = lambda: 1.0  # type: ignore[method-assign]
    desk = ControlDesk(
        ALICE, INCARNATION, link.clock, apply=apply, log=lambda event, **_: logged.append(event)
    )
    wanted = [
        command("pause", transfers=["1"]),
        command("drain"),
        command("resume", transfers=["1"]),
        command("pause", transfers=["2"], incarnation="cd" * 16),
    ]
    packets = [
        link.sealer.seal(RequestKind.CONTROL, cbor.encode(each), CONTROL_LIFETIME_S)
        for each in wanted
    ]
    for packet in (*packets, *packets, b"CKQ1 rubbish"):
        desk.take(packet)
    await desk.close()

    assert ["pause ['1']", "resume ['1']"] == done
    assert 1 == logged.count("control_failed")
    assert 1 == logged.count("control_stale")
    assert {"control_replayed": 4, "control_malformed": 1} == desk.drops.totals


@pytest.mark.parametrize("role", ["origin", "requester"])
async def test_a_command_reaches_its_process_among_other_packets(role: str) -> None:
    """In the mailbox for replies of a requester, and in one of an origin's own."""
    done: list[Command] = []
    link = Link()
    desk = ControlDesk(ALICE, INCARNATION, link.clock, apply=done.append, log=silent)
    requester = Requester(
        keys=ALICE,
        site="alice",
        instance=ME.instance,
        transport=link.transport,
        clock=link.clock,
        entropy=RANDOM.randbytes,
        log=silent,
    )
    requester.commanded = desk.take
    if role == "requester":
        await requester.start(10)
        task = asyncio.ensure_future(asyncio.sleep(0))
    else:
        task = asyncio.ensure_future(listen_for_control(link.transport, ME, desk))
        await asyncio.sleep(0)
    wanted = command("freeze", value="peer:bob")
    packet = link.sealer.seal(RequestKind.CONTROL, cbor.encode(wanted), CONTROL_LIFETIME_S)
    for body in (b"CKQR" + bytes(200), bytes(MIB), packet, b"CKQ1"):
        await link.transport.publish(ME, body)
    async with asyncio.timeout(30):
        while not done or await link.transport.depth(ME):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
    await desk.close()
    await requester.close()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert [wanted] == done
