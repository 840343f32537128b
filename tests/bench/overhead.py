"""`overhead`: bytes on the wire over bytes of the file, for each of two chunk sizes.

Over RabbitMQ. What a site's two connections move in both ways (frames, requests, manifest, leaves,
acknowledgements, opening and closing) is taken from its transport, which logs it at the close, and
from the kernel, whose sockets a proxy before the broker asks (TCP_INFO, payload). The larger one
of requester and origin counts. TCP's and IP's own headers are in neither: 40 bytes a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import MIB, Report, Settings
from tests.e2e.processes import Pair, Process, random_file, same, wait_until
from tests.support.broker import Broker
from tests.support.proxied import proxied
from tests.support.proxy import Proxy

DEFAULT_MIB = 64
CHUNK_SIZES = ("64KiB", "256KiB")


@dataclass(frozen=True)
class Moved:
    """Bytes of one site's connections, both ways."""

    counted: int
    kernel: int


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    report = Report(f"overhead: {size // MIB} MiB over RabbitMQ, bytes on the wire over the file's")
    broker = Broker.start(settings.root / "node")
    try:
        for chunk_size in CHUNK_SIZES:
            url = _urls(broker)
            moved = _get(settings.root / chunk_size, broker.ports.amqp, url, chunk_size, size)
            _tell(report, chunk_size.removesuffix("iB").lower(), moved, size)
    finally:
        broker.stop()
    return report


def _urls(broker: Broker) -> Callable[[int], str]:
    vhost = broker.add_vhost()
    return lambda port: broker.url(vhost=vhost, port=port)


def _get(
    root: Path, port: int, url: Callable[[int], str], chunk_size: str, size: int
) -> dict[str, Moved]:
    """One file, each site behind a proxy of its own; all processes have ended."""
    with proxied(port) as alices, proxied(port) as bobs:
        pair = Pair.make(root, url(alices.port), url(bobs.port))
        try:
            cut = ("--chunk-size", chunk_size, "--to", "alice")
            pair.bob.quick("share", "add", "cut", str(pair.files), *cut)
            random_file(pair.files / "file", size)
            serving = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
            wait_until(lambda: any(each.get("event") == "serving" for each in serving.events))
            getting = pair.alice.start(
                "-v", "get", "bob:cut/file", str(pair.inbox / "file"), CHUNKQ_LOG_FORMAT="json"
            )
            assert getting.wait() == 0, getting.log.read_text()
            assert same(pair.files / "file", pair.inbox / "file"), "what arrived is another file"
            assert serving.stop() == 0, serving.log.read_text()
        finally:
            pair.end()
        ends = (("requester", getting, alices), ("origin", serving, bobs))
        return {who: Moved(_counted(process), _kernel(proxy)) for who, process, proxy in ends}


def _counted(process: Process) -> int:
    """What its transport says that it has moved."""
    (closed,) = (event for event in process.events if event.get("event") == "link_closed")
    counters: dict[str, Any] = closed["counters"]
    return int(counters["sent_bytes"] + counters["received_bytes"])


def _kernel(proxy: Proxy) -> int:
    """What the kernel says, once it has seen both connections end."""
    wait_until(lambda: proxy.ended == proxy.connections == 2, deadline_s=30)
    return proxy.kernel_up_bytes + proxy.kernel_down_bytes


def _tell(report: Report, key: str, moved: dict[str, Moved], size: int) -> None:
    most = max(each.counted for each in moved.values())
    report.figures[f"overhead_{key}"] = round(most / size - 1, 5)
    report.row(f"chunks of {key}", f"{100 * (most / size - 1):.3f} % over the file")
    for who, each in moved.items():
        apart = 100 * (each.counted / each.kernel - 1)
        report.row(
            f"  {who}, counted by the transport", f"{each.counted} ({_over(each.counted, size)})"
        )
        report.row(
            f"  {who}, counted by the kernel",
            f"{each.kernel} ({_over(each.kernel, size)}; {apart:+.4f} % apart)",
        )
        report.figures[f"overhead_{key}_kernel_{who}"] = round(each.kernel / size - 1, 5)


def _over(moved: int, size: int) -> str:
    return f"{100 * (moved / size - 1):+.3f} %"
