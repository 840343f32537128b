"""What a worker tells Prometheus and its service manager over HTTP."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import chunkq
from chunkq.api.metrics import telling, telling_of_host
from chunkq.errors import UsageError
from chunkq.protocol.identity import encode_card
from chunkq.settings import Settings
from chunkq.settings.model import MetricsSettings
from chunkq.storage.jobs import JobStore
from chunkq.telemetry.exposition import Exposition
from tests.api.hub import Hub

#: Ids of jobs and of staging, and what a path looks like.
SECRET = re.compile(r"[0-9]{13}-[0-9a-f]{8}|[0-9a-f]{32}|/")


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    def asked() -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(asked)


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by name, and by the values of their labels, in the order of the labels' names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@asynccontextmanager
async def told(site: chunkq.Site) -> AsyncIterator[int]:
    listening = site.settings.model_copy(
        update={"metrics": site.settings.metrics.model_copy(update={"listen": "127.0.0.1:0"})}
    )
    site.settings = listening
    async with telling(site) as port:
        assert port
        yield port


async def test_a_process_tells_its_figures(tmp_path: Path) -> None:
    """Bytes, requests, refusals, transfers by state and reason, links, disk, jobs, queue; in base
    units, counters as such, and no id or path in any label.
    """
    (tmp_path / "spool").mkdir()
    link = f"spool://{tmp_path}/spool"
    silent = encode_card(chunkq.SiteKeys.generate(secrets.token_bytes), "silent")
    async with (
        Hub.start("south", tmp_path, link) as south,
        Hub.start("north", tmp_path, link) as north,
        told(north.site) as port,
        told(south.site) as theirs,
    ):
        north.befriend(south)
        south.befriend(north)
        north.cards["silent"] = silent
        store = JobStore(tmp_path / "north" / "state")
        store.add(("south:docs/a",), str(tmp_path / "a"), created_ms=1)
        store.close()
        await south.post("north", "look", secrets.token_bytes(300_000))
        waiting = north.site.fetch("silent:files/x", tmp_path / "never")
        await north.fetch(await north.inbox.get(), tmp_path / "here")
        await north.site.fetch("south:files/other", tmp_path / "none").ended()

        status, text = await ask(port, "/metrics")
        ours = samples(text)
        assert 200 == status
        assert 300_000 == ours["chunkq_received_bytes_total"]["south",]
        assert 1 == ours["chunkq_transfers_ended_total"]["", "done"]
        assert 1 == ours["chunkq_transfers_ended_total"]["not_found", "failed"]
        assert 1 == sum(
            count for (_, state), count in ours["chunkq_transfers"].items() if state == "opening"
        )
        assert 0 == ours["chunkq_transfers"]["", "stalled"]
        assert {("default", "spool"): 1.0} == ours["chunkq_link_up"]
        assert ours["chunkq_link_received_bytes_total"]["default",] > 300_000
        states = ("pending", "running", "done", "failed")
        assert dict.fromkeys(((state,) for state in states), 1.0) == ours["chunkq_jobs"]
        assert {("default",): 0.0} == ours["chunkq_request_queue_packets"]
        assert {("state",), ("destinations",)} == set(ours["chunkq_disk_free_bytes"])
        assert 0 < ours["chunkq_round_trip_seconds"]["south",] < 60
        assert ours["process_resident_memory_bytes"][()] > 10_000_000
        assert 1 == ours["chunkq_ready"][()]
        assert {"embedded"} == {role for role, _ in ours["chunkq_build_info"]}

        served = samples((await ask(theirs, "/metrics"))[1])
        assert served["chunkq_served_requests_total"]["north",] >= 3
        assert served["chunkq_served_bytes_total"]["north",] >= 300_000
        assert 1 == served["chunkq_refusals_total"]["north", "not_found"]
        assert served["chunkq_peer_heard_timestamp_seconds"]["north",] > 1e9
        for labels in (*ours.values(), *served.values()):
            assert [] == [value for key in labels for value in key if SECRET.search(value)]
        waiting.cancel()


async def test_health_and_readiness(tmp_path: Path) -> None:
    """Ready once requests are taken and until it drains; why not is said, one reason a line."""
    (tmp_path / "spool").mkdir()
    async with (
        Hub.start("south", tmp_path, f"spool://{tmp_path}/spool") as south,
        told(south.site) as port,
    ):
        reporter = south.site.reporting.reporter
        assert reporter is not None
        assert (200, "ok\n") == await ask(port, "/healthz")
        assert (200, "ready\n") == await ask(port, "/readyz")
        reporter.draining = True
        assert (503, "it is draining\n") == await ask(port, "/readyz")
        reporter.draining, reporter.ready = False, False
        assert (503, "it does not take requests on every link yet\n") == await ask(port, "/readyz")
        assert 404 == (await ask(port, "/"))[0]
        assert 405 == (await ask(port, "/metrics", "POST"))[0]


async def test_a_link_that_is_away_makes_a_worker_unready(tmp_path: Path) -> None:
    """Nothing listens at that port: it is alive, and says what it waits for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        name="south",
        directories={"config": tmp_path / "c", "state": tmp_path / "s"},
        links={"default": {"url": f"amqp://south:x@127.0.0.1:{port}/"}},
    )
    keys = chunkq.SiteKeys.generate(secrets.token_bytes)
    async with (
        chunkq.Site.open(settings, keys=keys, peers={}, role="origin") as site,
        told(site) as listening,
    ):
        serving = asyncio.ensure_future(site.serve(lambda *_: None))
        async with asyncio.timeout(60):
            while (  # noqa: ASYNC110 - it is asked over HTTP
                "link default" not in (await ask(listening, "/readyz"))[1]
            ):
                await asyncio.sleep(0.05)
        assert 200 == (await ask(listening, "/healthz"))[0]
        found = samples((await ask(listening, "/metrics"))[1])
        assert {("default", "rabbitmq"): 0.0} == found["chunkq_link_up"]
        assert {("default", "broker_unreachable"): 1.0} == found["chunkq_link_trouble"]
        serving.cancel()


class Stuck:
    """A process whose loop does not turn."""

    def figures(self) -> list[object]:
        raise TimeoutError

    def alive(self) -> bool:
        raise TimeoutError

    def unready(self) -> list[str]:
        raise TimeoutError


async def test_a_loop_that_does_not_turn_shows() -> None:
    """On each of the three, and without waiting for it for ever."""
    exposition = Exposition(Stuck())  # type: ignore[arg-type]
    port = exposition.start("127.0.0.1", 0)
    try:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (503, "its loop does not turn\n") == await ask(port, path)
    finally:
        exposition.close()


def test_a_port_in_use_is_said() -> None:
    """With what to do about it, before anything else is begun."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}") as caught:
            Exposition(Stuck()).start("127.0.0.1", port)  # type: ignore[arg-type]

    assert "--metrics" in str(caught.value.hint)


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
from chunkq.cli.main import main
places = ["--config-dir", sys.argv[1], "--state-dir", sys.argv[2]]
main([*places, "init", "--name", "south"])
sys.exit(main([*places, "serve", "--metrics", "127.0.0.1:0"]))
"""


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path) -> None:
    """A worker that was to tell its metrics and cannot does not start."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "c"), str(tmp_path / "s")],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert 2 == done.returncode, done.stderr
    assert "pip install 'chunkq[metrics]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:9753", ("127.0.0.1", 9753)),
        ("[::1]:9753", ("::1", 9753)),
        ("metrics.example:0", ("metrics.example", 0)),
        ("9753", None),
        (":9753", None),
        ("127.0.0.1", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.1:http", None),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, expected: tuple[str, int] | None) -> None:
    """IPv6 in brackets; what is none is refused where it stands."""
    if expected is None:
        with pytest.raises(ValueError, match="HOST:PORT"):
            MetricsSettings(listen=listen)
        return

    assert expected == MetricsSettings(listen=listen).address


async def test_a_process_that_moves_nothing_tells_of_its_host(tmp_path: Path) -> None:
    """The dashboard: disks and jobs; a worker would be counted twice if it told of transfers."""
    settings = Settings(
        name="south",
        directories={"config": tmp_path / "c", "state": tmp_path / "s"},
        metrics={"listen": "127.0.0.1:0"},
    )
    store = JobStore(tmp_path / "s")
    store.add(("north:docs/a",), str(tmp_path / "a"), created_ms=1)
    store.close()
    async with telling_of_host(settings) as port:
        assert port
        found = samples((await ask(port, "/metrics"))[1])
        assert (200, "ready\n") == await ask(port, "/readyz")
    assert {("pending",): 1.0} == found["chunkq_jobs"]
    assert {"dashboard"} == {role for role, _ in found["chunkq_build_info"]}
    assert {("state",)} == set(found["chunkq_disk_free_bytes"])
    assert "chunkq_transfers" not in found
