"""Three private RabbitMQ nodes in one cluster: one port mapper, one cookie, 127.0.0.1 only.

`Cluster.start(directory)` takes 10 to 20 s: all three are started at once and find each other.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.support.broker import START_TIMEOUT_S, Broker, Epmd, find_scripts, free_ports, new_cookie

NODES = 3

#: A node that is suspended is to count as gone after 60 s, as everywhere; tests are over by then.
CONFIG = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_partition_handling = pause_minority
"""


class Cluster:
    """The nodes, and which of them holds what. Calls block."""

    def __init__(self, nodes: tuple[Broker, ...], epmd: Epmd) -> None:
        self.nodes = nodes
        self._epmd = epmd

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start the nodes; returns once each of them sees all."""
        scripts, epmd, cookie = find_scripts(), Epmd(*free_ports(1)), new_cookie()
        nodes = tuple(
            Broker(directory / str(number), scripts, epmd=epmd, cookie=cookie)
            for number in range(NODES)
        )
        cluster = cls(nodes, epmd)
        config = CONFIG + "".join(
            f"cluster_formation.classic_config.nodes.{number} = {node.node}\n"
            for number, node in enumerate(nodes, 1)
        )
        try:
            with ThreadPoolExecutor(NODES) as pool:
                list(pool.map(lambda node: node.launch(config), nodes))
            cluster.until_whole()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        """End everything. Test data needs no orderly end."""
        for node in self.nodes:
            if node.running:
                node.kill()
        self._epmd.stop()

    def until_whole(self) -> None:
        """Wait until every node sees all of them running."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while any(self._seen_by(node) < NODES for node in self.nodes):
            assert time.monotonic() < deadline, "the nodes did not form a cluster"
            time.sleep(0.2)

    def mend(self) -> None:
        """Start what was killed, and wait until all is well again."""
        for node in self.nodes:
            if not node.running:
                node.restart()
        self.until_whole()

    def url(self, vhost: str = "/", *, first: Broker | None = None) -> str:
        """One URL with the addresses of all nodes; `first` is tried first."""
        ordered = sorted(self.nodes, key=lambda node: node is not first)
        own = [f"127.0.0.1:{node.ports.amqp}" for node in ordered]
        return ordered[0].url(vhost=vhost).replace(own[0], ",".join(own))

    def leader(self, vhost: str, queue: str) -> Broker:
        """The node that leads a quorum queue, or is the home of a classic one."""
        asked = next(node for node in self.nodes if node.running)
        name = asked.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, '
            f'<<"{queue}">>)), amqqueue:qnode(Q).'
        ).strip("'")
        return next(node for node in self.nodes if node.node == name)

    def _seen_by(self, node: Broker) -> int:
        # The function had another name before 3.11.
        found = node.eval(
            "length(case erlang:function_exported(rabbit_nodes, list_running, 0) of "
            "true -> rabbit_nodes:list_running(); false -> rabbit_nodes:all_running() end)."
        )
        return int(found)
