"""What befalls a world while its faults last: each kind at times of its own stream."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.disk import NO_FAULTS, DiskFaults
from tests.simulation.intruders import intrude, withdraw
from tests.simulation.loop import NEVER, Running
from tests.simulation.sites_of import ROOMY_PAGES, write_source
from tests.simulation.workload import Source, content

if TYPE_CHECKING:
    from tests.simulation.world import World

#: How long something stays so, in seconds, from the least to the most: mostly short.
SPELL_S = (0.05, 60.0)
#: How far a wall clock jumps, either way.
JUMP_S = (1.0, 40 * 24 * 3600.0)
#: How long after it was asked for chunks a source changes, in seconds: some have come by then.
WHILE_ASKED_S = (0.0, 0.2)
#: And a requester dies so long after it was lied to: what it asked for may be in its queue.
UNDER_WAY_S = (0.0, 0.1)


class Chaos:
    """The faults that come by themselves, not with a packet or a call."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lasts = True
        self._streams: dict[str, Random] = {}
        self._calls: dict[Running, int] = {}
        self._syncs: dict[Running, int] = {}
        self._cuts: dict[Running, int] = {}
        self._changes_when_asked = False

    def _random(self, name: str) -> Random:
        if name not in self._streams:
            self._streams[name] = self._world.streams.of(f"fault {name}")
        return self._streams[name]

    # ------------------------------------------------------------ beginning and end

    def begin(self) -> None:
        """From now on, each fault that the world has drawn."""
        kinds: dict[str, Callable[[Random], None]] = {
            "reset_every": self._reset,
            "restart_every": lambda _: self._world.broker.restart(),
            "block_every": lambda _: self._world.broker.block(),
            "delete_queue_every": lambda _: self._world.broker.delete_queue(),
            "replay_every": self._replay,
            "rot_every": self._rot,
            "full_every": self._fill,
            "wall_jump_every": self._jump,
            "stop_every": self._stop,
            "suspend_every": self._suspend,
            "kill_every": self._kill,
            "power_every": self._cut_power,
            "pause_every": self._pause,
            "change_every": self._change,
            "vanish_every": self._vanish,
            "revoke_every": lambda random: self._world.trust.revoke(self._world, random),
            "intrude_every": lambda random: intrude(self._world, random),
        }
        world = self._world
        for name, fire in kinds.items():
            if getattr(world.faults, name):
                self._arm(name, fire)
        # Most files have come before its first time is due.
        self._changes_when_asked = world.faults.change_every > 0
        if world.faults.wall_wrong:
            random = self._random("wall_wrong")
            for host in world.hosts.values():
                host.offset_s = _either_way(random, JUMP_S)
                world.fault("wall_wrong", f"{host.name} {host.offset_s:.0f}")
        faults = world.faults
        on_disk = DiskFaults(
            write_error=faults.write_error,
            no_space=faults.no_space,
            sync_error=faults.sync_error,
            read_error=faults.read_error,
            short_write=faults.short_write,
            short_read=faults.short_write,
        )
        if on_disk != NO_FAULTS:
            for disk in world.disks.values():
                disk.faults = on_disk
        if world.drawn.mutate or world.drawn.cross_route or world.drawn.replay_every:
            world.broker.adversary = world.adversary.sees

    def end(self) -> None:
        """Everything is well again."""
        world, self._lasts = self._world, False
        for disk in world.disks.values():
            disk.faults = NO_FAULTS
            disk.capacity_pages = ROOMY_PAGES
        for host in world.hosts.values():
            host.offset_s, host.frozen_at_s = 0.0, None
        for process in world.processes:
            process.kill_at = NEVER
            if process.stopped:
                world.loop.go_on(process)
        for source in world.workload.sources:
            if source.gone:
                write_source(world, source)
        world.broker.down_until_s = min(world.broker.down_until_s, world.clock.now_s)
        world.broker.adversary = None
        world.trust.restore()
        withdraw(world)

    def _arm(self, name: str, fire: Callable[[Random], None]) -> None:
        random = self._random(name)
        mean_s = getattr(self._world.drawn, name)

        def due() -> None:
            if self._lasts and not self._world.is_over:
                fire(random)
                self._world.loop.later(random.expovariate(1 / mean_s), due)

        self._world.loop.later(random.expovariate(1 / mean_s), due)

    # ------------------------------------------------------------ processes

    def born(self, process: Running) -> None:
        """A process begins; when it dies may be settled already."""
        if not self._lasts:
            return
        faults = self._world.faults
        if faults.kill_at_event:
            process.kill_at = 1 + int(self._draw("kill_at_event", faults.kill_at_event))
        for name, counts in (
            ("kill_at_call", self._calls),
            ("kill_at_sync", self._syncs),
            ("power_at_sync", self._cuts),
        ):
            mean = getattr(faults, name)
            if mean:
                counts[process] = 1 + int(self._draw(name, mean))

    def _draw(self, name: str, mean: float) -> float:
        return self._random(name).expovariate(1 / mean)

    def ends_here(self, process: Running, call: str) -> bool:
        """A system call is about to be made: whether its process is dead before it."""
        if not self._lasts:
            return False
        world = self._world
        if self._comes_to_zero(self._calls, process):
            world.fault("kill_at_call", f"{process.name} {call}")
            world.kill(process)
            return True
        if not call.endswith("sync"):
            return False
        if self._comes_to_zero(self._syncs, process):
            world.fault("kill_at_sync", f"{process.name} {call}")
            world.kill(process)
            return True
        if self._comes_to_zero(self._cuts, process):
            world.fault("power_at_sync", f"{process.name} {call}")
            world.power_cut(process.host)
            return True
        return False

    @staticmethod
    def _comes_to_zero(counts: dict[Running, int], process: Running) -> bool:
        left = counts.get(process)
        if left is None:
            return False
        counts[process] = left - 1
        return left == 1

    def _kill(self, random: Random) -> None:
        if self._world.processes:
            process = random.choice(self._world.processes)
            self._world.fault("kill_every", process.name)
            self._world.kill(process)

    def lies_are_under_way(self) -> None:
        """An origin has sealed a wrong chunk: whoever asked may be dead when it comes."""
        world, random = self._world, self._random("kill at a lie")
        if world.faults.kill_every and self._lasts and random.random() < 0.3:
            world.loop.later(random.uniform(*UNDER_WAY_S), self._kill_a_requester)

    def _kill_a_requester(self) -> None:
        alive = [each for each in self._world.processes if "-fetch-" in each.name]
        if alive and self._lasts and not self._world.is_over:
            self._world.fault("kill_every", alive[0].name)
            self._world.kill(alive[0])

    def _cut_power(self, random: Random) -> None:
        host = random.choice(list(self._world.hosts))
        self._world.fault("power_every", host)
        self._world.power_cut(host)

    def _stop(self, random: Random) -> None:
        self._halt_for_a_while("stop_every", random, asleep=False)

    def _suspend(self, random: Random) -> None:
        self._halt_for_a_while("suspend_every", random, asleep=True)

    def _halt_for_a_while(self, name: str, random: Random, *, asleep: bool) -> None:
        world = self._world
        awake = [process for process in world.processes if not process.stopped]
        if not awake:
            return
        process, seconds = random.choice(awake), _spell(random)
        world.fault(name, f"{process.name} for {seconds:.2f} s")
        world.loop.stop_process(process, asleep_s=seconds if asleep else 0.0)
        world.loop.later(seconds, self._go_on, process)

    def _go_on(self, process: Running) -> None:
        if process.alive and process.stopped:
            self._world.loop.go_on(process)

    def _pause(self, random: Random) -> None:
        world = self._world
        if world.running:
            job = random.choice(list(world.running))
            world.fault("pause_every", str(job))
            world.paused.add(job)
            world.running[job].cancel()

    # ------------------------------------------------------------ the network

    def _reset(self, random: Random) -> None:
        connections = self._world.broker.connections
        if connections:
            self._world.broker.reset(random.choice(connections))

    def _replay(self, random: Random) -> None:
        world = self._world
        if random.random() < 0.2:
            world.adversary.forge(world.hosts[random.choice(world.workload.origins)])
        else:
            world.adversary.replay(withheld=random.random() < 0.2)

    # ------------------------------------------------------------ clocks and disks

    def _jump(self, random: Random) -> None:
        world = self._world
        host = world.hosts[random.choice(list(world.hosts))]
        if random.random() < 0.3:
            host.frozen_at_s = world.clock.now_s if host.frozen_at_s is None else None
        else:
            host.offset_s = 0.0 if random.random() < 0.3 else _either_way(random, JUMP_S)
        world.fault("wall_jump_every", f"{host.name} to {host.offset_s:.0f}")

    def _rot(self, random: Random) -> None:
        host = random.choice(self._world.workload.requesters)
        if self._world.disks[host].rot(bytes_count=1 + random.randrange(3)):
            self._world.rots(host)
            self._world.fault("rot_every", host)

    def _fill(self, random: Random) -> None:
        host = random.choice(list(self._world.hosts))
        disk = self._world.disks[host]
        room = random.choice((0, 1, 4))
        disk.capacity_pages = disk.used_pages + room + self._world.bounds.floor_pages
        self._world.fault("full_every", f"{host} but {room} pages")
        self._world.loop.later(_spell(random), self._empty, host)

    def _empty(self, host: str) -> None:
        self._world.disks[host].capacity_pages = ROOMY_PAGES

    # ------------------------------------------------------------ sources

    def _change(self, random: Random) -> None:
        """A source changes: at once, or while somebody is getting it."""
        if random.random() < 0.5:
            self._change_source(random, random.choice(self._world.workload.sources))
        else:
            self._changes_when_asked = True

    def asked_for_chunks(self, path: str) -> None:
        """An origin is about to answer a request for chunks."""
        random, sources = self._random("change_every"), self._world.workload.sources
        if self._changes_when_asked and self._lasts and random.random() < 0.5:
            self._changes_when_asked = False
            for source in [each for each in sources if each.path == path]:
                self._world.loop.later(random.uniform(*WHILE_ASKED_S), self._meets, source)

    def _meets(self, source: Source) -> None:
        if self._lasts and not self._world.is_over:
            self._change_source(self._random("change_every"), source)

    def _change_source(self, random: Random, source: Source) -> None:
        """Another version, alike or not; over the old one, or in its place."""
        if source.gone:
            return
        now, kind = source.now, random.random()
        if kind < 0.4 and now:
            at = random.randrange(len(now))
            new = now[:at] + bytes((now[at] ^ 1,)) + now[at + 1 :]
        elif kind < 0.7:
            chunks = 1 + random.randrange(20)
            new = content(random, chunks, 1 + random.randrange(chunks * 4096))
        elif kind < 0.85:
            new = now[: random.randrange(len(now) + 1)]
        else:
            new = now + content(random, 2, 1 + random.randrange(8192))
        if new not in source.versions:
            source.versions.append(new)
            self._world.fault("change_every", f"{source.path} {len(now)} to {len(new)}")
            write_source(self._world, source, in_place=random.random() < 0.5)

    def _vanish(self, random: Random) -> None:
        source: Source = random.choice(self._world.workload.sources)
        if source.gone:
            write_source(self._world, source)
        else:
            self._world.fault("vanish_every", source.path)
            write_source(self._world, source, gone=True)


def _spell(random: Random) -> float:
    low, high = SPELL_S
    return low * float((high / low) ** random.random())


def _either_way(random: Random, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return random.choice((-1, 1)) * low * float((high / low) ** random.random())
