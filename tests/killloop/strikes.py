"""Doing to the processes, the network and the broker what a plan says, and undoing it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.killloop.plan import Kind, Strike
from tests.killloop.smalldisk import SmallDisk
from tests.killloop.world import VHOST, Carrier, World
from tests.support.pair import Running
from tests.support.rabbitmq import plain_channel

#: What passes on a slow link.
SLOW_BYTES_S = 3 << 20
#: A connection is cut somewhere in this many bytes.
CUT_WITHIN_BYTES = 4 << 20
#: A watermark that every disk is under.
ALL_DISK_BYTES = 1 << 60
DISK_LIMIT_BYTES = 50_000_000

#: What is done to the broker itself. It can be asked then, or not at all.
OF_BROKER = frozenset(
    {
        Kind.KILL_BROKER,
        Kind.STOP_BROKER,
        Kind.MEMORY_ALARM,
        Kind.DISK_ALARM,
        Kind.DELETE_QUEUE,
        Kind.DELETE_EXCHANGE,
    }
)

Undo = Callable[[], None]
NOTHING: Undo = lambda: None  # noqa: E731


class Striker:
    """`begin` a strike; what it returns ends it. `requesters` tells who gets now."""

    def __init__(
        self,
        world: World,
        carrier: Carrier,
        requesters: Callable[[], list[Running]],
        disk: SmallDisk | None,
    ) -> None:
        self._world = world
        self._carrier = carrier
        self._requesters = requesters
        self._disk = disk
        self._alarms = 0

    def begin(self, strike: Strike) -> Undo | None:
        """None if there is nobody whom it could strike."""
        if strike.kind in OF_BROKER and not self._world.broker_is_up:
            return None
        if strike.kind is Kind.STOP_BROKER and self._alarms:
            return None  # nobody could end the alarm
        match strike.kind:
            case Kind.KILL_REQUESTER | Kind.INTERRUPT:
                return self._end_requester(strike)
            case Kind.KILL_WORKER:
                return self._kill_worker(strike.whom)
            case Kind.STOP_REQUESTER | Kind.STOP_WORKER | Kind.STOP_LONG:
                return self._stop(strike)
            case Kind.FULL_DISK:
                return self._fill(strike)
            case Kind.KILL_BROKER | Kind.STOP_BROKER | Kind.MEMORY_ALARM | Kind.DISK_ALARM:
                return self._trouble_broker(strike)
            case Kind.DELETE_QUEUE | Kind.DELETE_EXCHANGE:
                self._delete(strike)
            case _:
                return self._trouble_network(strike)
        return NOTHING

    # ------------------------------------------------------------ processes

    def _requester(self, strike: Strike) -> Running | None:
        alive = [each for each in self._requesters() if each.alive]
        return alive[int(strike.draw * len(alive))] if alive else None

    def _end_requester(self, strike: Strike) -> Undo | None:
        running = self._requester(strike)
        if running is None:
            return None
        running.send(signal.SIGKILL if strike.kind is Kind.KILL_REQUESTER else signal.SIGTERM)
        return NOTHING

    def _kill_worker(self, number: int) -> Undo | None:
        running = self._carrier.workers[number - 1]
        if running is None:
            return None
        running.end()
        self._carrier.workers[number - 1] = None
        return lambda: self._carrier.serve(number)

    def _stop(self, strike: Strike) -> Undo | None:
        worker = self._carrier.workers[strike.whom - 1] if strike.whom else None
        running = worker if strike.whom else self._requester(strike)
        if running is None or not running.alive:
            return None
        running.send(signal.SIGSTOP)
        return lambda: running.send(signal.SIGCONT) if running.alive else None

    def _fill(self, strike: Strike) -> Undo | None:
        """Room for a part of what comes."""
        disk = self._disk
        if disk is None:
            return None
        free = os.statvfs(disk.outside)
        disk.fill(int(free.f_bavail * free.f_frsize * strike.draw * 0.6))
        return disk.make_room

    # ------------------------------------------------------------ broker

    def _trouble_broker(self, strike: Strike) -> Undo:
        world, broker = self._world, self._world.broker
        match strike.kind:
            case Kind.KILL_BROKER:
                world.kill_broker()
                return world.restart_broker
            case Kind.STOP_BROKER:
                world.freeze_broker()
                return world.thaw_broker
            case Kind.MEMORY_ALARM:
                broker.set_memory_alarm(on=True)
                return self._alarmed(lambda: broker.set_memory_alarm(on=False))
            case _:
                broker.set_disk_limit(ALL_DISK_BYTES)
                return self._alarmed(lambda: broker.set_disk_limit(DISK_LIMIT_BYTES))

    def _alarmed(self, undo: Undo) -> Undo:
        """A broker that was killed meanwhile comes back without what is to be undone."""
        self._alarms += 1

        def end() -> None:
            self._alarms -= 1
            if self._world.broker_is_up:
                undo()

        return end

    def _delete(self, strike: Strike) -> None:
        """As an administrator does by mistake."""
        whose = "req" if strike.draw < 0.5 else "rep"
        with plain_channel(self._world.broker.url()) as channel:
            if strike.kind is Kind.DELETE_EXCHANGE:
                channel.exchange_delete(f"cq.{whose}")
                return
            for name in self._world.broker.queues(VHOST):
                if name.startswith(f"cq.{whose}."):
                    channel.queue_delete(name)

    # ------------------------------------------------------------ network

    def _trouble_network(self, strike: Strike) -> Undo:
        network, proxy = self._world.network, self._world.proxies[strike.whom]
        way = proxy.up if strike.draw < 0.5 else proxy.down
        match strike.kind:
            case Kind.RESET:
                network.do(proxy.reset)
            case Kind.FORGET:
                network.do(proxy.forget)
            case Kind.BLACKHOLE:
                network.do(proxy.blackhole)
                return lambda: network.do(proxy.heal)
            case Kind.ONE_WAY:
                network.do(way.blackhole)
                return lambda: network.do(way.heal)
            case Kind.SLOW:
                way.rate_bytes_s = SLOW_BYTES_S

                def free() -> None:
                    way.rate_bytes_s = None

                return free
            case Kind.CUT:
                way.cut_after_bytes = int(CUT_WITHIN_BYTES * 2 * abs(strike.draw - 0.5))

                def whole() -> None:
                    way.cut_after_bytes = None

                return whole
        return NOTHING
