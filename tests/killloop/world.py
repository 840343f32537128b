"""The broker, the sites, the processes and the proxies before them. They outlast the rounds."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from chunkq.errors import ExitCode
from tests.killloop.plan import HEARTBEAT_S
from tests.killloop.sources import SHARE, Pool
from tests.support.broker import Broker
from tests.support.pair import Pair, Running
from tests.support.proxied import ProxyThread
from tests.support.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
VHOST = "/"
WORKERS = 2
#: Runs the workers so that they tell what memory they use.
GAUGED = str(ROOT / "tests" / "killloop" / "gauged.py")
#: Ended by a signal; by SIGTERM before it had begun to listen to it.
SIGNALLED = frozenset({-signal.SIGKILL, -signal.SIGTERM})
#: So that a large file takes one to two seconds, and faults meet it under way.
WORKER_RATE = "13MiB/s"
#: So that what is killed has something to go on from.
COMMIT_SIZE = "1MiB"
#: How long `get` waits for an origin that says nothing: longer than any fault here.
PATIENCE = "30s"


class Failure(AssertionError):
    """A round that did not go as it must, said to a person."""


def _check_end(running: Running, at_work: str) -> None:
    """A worker may end for want of a broker before it is at work, and else by signals alone."""
    code = running.process.returncode
    if code in SIGNALLED or code == ExitCode.OK:
        return
    if code != ExitCode.UNREACHABLE or at_work in running.err:
        raise Failure(f"a worker ended by itself: {code}: {running.err[-4000:]}")


@dataclass
class Carrier:
    """A pair of sites on one link: two origin workers, and sometimes a worker for jobs.

    `urls` are the link as each process sees it: the requester first, then the workers.
    """

    pair: Pair
    urls: tuple[str, ...]
    workers: list[Running | None] = field(default_factory=lambda: [None] * WORKERS)
    work: Running | None = None

    def serve(self, number: int) -> None:
        """Start worker 1 or 2, which is not running."""
        bob = self.pair.bob
        program = str(ROOT / "workers" / "origin.py")
        self.workers[number - 1] = bob.launch(
            [sys.executable, GAUGED, str(self.figures), program],
            CHUNKQ_CONFIG_DIR=str(bob.config),
            CHUNKQ_STATE_DIR=str(bob.state),
            CHUNKQ_LINK_URL=self.urls[number],
            CHUNKQ_LINK_SEND_RATE=WORKER_RATE,
            CHUNKQ_LOG_FORMAT="json",
        )

    def worker(self, number: int) -> Running:
        running = self.workers[number - 1]
        assert running is not None
        return running

    def get(self, *arguments: str, prefix: list[str] | None = None) -> Running:
        """Start `chunkq get`."""
        alice = self.pair.alice
        command = [sys.executable, "-m", "chunkq.cli.main", *alice.arguments, "get"]
        return alice.launch(
            [*(prefix or []), *command, "--patience", PATIENCE, *arguments],
            cwd=ROOT,
            CHUNKQ_LINK_URL=self.urls[0],
            CHUNKQ_REQUESTER_COMMIT_SIZE=COMMIT_SIZE,
        )

    def start_work(self) -> None:
        """Start the requester worker, which is not running."""
        alice = self.pair.alice
        self.work = alice.launch(
            [sys.executable, GAUGED, str(self.figures), str(ROOT / "workers" / "requester.py")],
            CHUNKQ_CONFIG_DIR=str(alice.config),
            CHUNKQ_STATE_DIR=str(alice.state),
            CHUNKQ_LINK_URL=self.urls[0],
            CHUNKQ_REQUESTER_COMMIT_SIZE=COMMIT_SIZE,
            CHUNKQ_REQUESTER_PATIENCE=PATIENCE,
            CHUNKQ_LOG_FORMAT="json",
        )

    def revive(self) -> int:
        """Start again what has ended, as a service manager does; returns how many that were.

        Raises `Failure` if it ended by itself after it was at work.
        """
        count = 0
        for number, worker in enumerate(self.workers, start=1):
            if worker is not None and not worker.alive:
                _check_end(worker, '"serving"')
                self.serve(number)
                count += 1
        if self.work is not None and not self.work.alive:
            _check_end(self.work, '"job_started"')
            self.start_work()
            count += 1
        return count

    @property
    def figures(self) -> Path:
        """Where workers tell what memory they use."""
        return self.pair.root / "figures"

    @property
    def kept(self) -> list[Running]:
        """The processes that outlast a round."""
        return [running for running in (*self.workers, self.work) if running is not None]

    @property
    def proxied(self) -> bool:
        return len(set(self.urls)) > 1


class World:
    """`with World(directory) as world:`; leaves no process behind, however it ends."""

    def __init__(self, root: Path, pool: Pool) -> None:
        self.root = root
        self.pool = pool
        self.proxies: list[Proxy] = []
        self.network = ProxyThread()
        self._returning: threading.Thread | None = None
        self._broker_is_up = True
        self.broker: Broker
        self.rabbitmq: Carrier
        self.spool: Carrier

    def __enter__(self) -> Self:
        self.network.__enter__()
        try:
            self.broker = Broker.start(self.root / "broker")
            self.proxies = [self.network.open(self.broker.ports.amqp) for _ in range(1 + WORKERS)]
            urls = tuple(
                self.broker.url(port=proxy.port) + f"?heartbeat={HEARTBEAT_S}"
                for proxy in self.proxies
            )
            self.rabbitmq = self._carrier("over-rabbitmq", urls)
            spool = f"spool://{self.root / 'over-spool' / 'spool'}"
            self.spool = self._carrier("over-spool", (spool,) * (1 + WORKERS))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for carrier in self.carriers:
            carrier.pair.close()
        if self._returning is not None:
            self._returning.join()
        if hasattr(self, "broker"):
            self.broker.stop()
        self.network.__exit__()

    @property
    def carriers(self) -> list[Carrier]:
        return [getattr(self, name) for name in ("rabbitmq", "spool") if hasattr(self, name)]

    def _carrier(self, name: str, urls: tuple[str, ...]) -> Carrier:
        carrier = Carrier(Pair(self.root / name, urls[0]), urls)
        carrier.pair.bob.quick("share", "add", SHARE, str(self.pool.root), "--to", "alice")
        for number in range(1, 1 + WORKERS):
            carrier.serve(number)
        for number in range(1, 1 + WORKERS):
            carrier.worker(number).until_said('"serving"')
        return carrier

    def kill_broker(self) -> None:
        self._broker_is_up = False
        self.broker.kill()

    def freeze_broker(self) -> None:
        self._broker_is_up = False
        self.broker.freeze()

    def thaw_broker(self) -> None:
        self.broker.thaw()
        self._broker_is_up = True

    def restart_broker(self) -> None:
        """Start the broker again, in a thread: it takes 5 to 8 s."""

        def restart() -> None:
            self.broker.restart()
            self._broker_is_up = True

        self._returning = threading.Thread(target=restart)
        self._returning.start()

    @property
    def broker_is_up(self) -> bool:
        """Whether it can be asked: it is neither killed, nor stopped, nor on its way back."""
        return self._broker_is_up

    def calm(self) -> None:
        """End every trouble of the network that there may be; what was lost stays lost."""

        def calm() -> None:
            for proxy in self.proxies:
                proxy.heal()
                for way in (proxy.up, proxy.down):
                    way.rate_bytes_s = way.cut_after_bytes = None

        self.network.do(calm)
