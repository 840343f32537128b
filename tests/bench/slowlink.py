"""`slowlink`: one file over RabbitMQ, the requester behind 300 ms each way and 10 Mbit/s.

The origin is near the broker; both of the requester's connections share the line, in both ways.
The time is from the call that fetches, in a requester whose link is open, until the file is
published and durable. The file is new to the origin.
"""

from __future__ import annotations

from tests.bench.getting import Getting
from tests.bench.measure import MIB, Report, Settings
from tests.support.broker import Broker
from tests.support.proxied import proxied

#: A minute and more at the full rate, so that what begins and ends it weighs little.
DEFAULT_MIB = 80
DELAY_S = 0.3
RATE_BYTES_S = 10_000_000 / 8


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    broker = Broker.start(settings.root / "node")
    try:
        vhost = broker.add_vhost()
        near = broker.url(vhost=vhost)
        with proxied(broker.ports.amqp, delay_s=DELAY_S, rate_bytes_s=RATE_BYTES_S) as proxy:
            far = broker.url(vhost=vhost, port=proxy.port)
            with Getting.over(settings.root / "sites", near, size, requester_link=far) as getting:
                taken_s = getting.running_unknown()
                process_s = getting.unknown()
    finally:
        broker.stop()
    report = Report(
        f"slowlink: {size // MIB} MiB over RabbitMQ, the requester behind {DELAY_S * 1000:.0f} ms"
        f" each way at {RATE_BYTES_S * 8 / 1e6:.0f} Mbit/s"
    )
    share = size / taken_s / RATE_BYTES_S
    report.figure("share_of_link", "share of the link, from the call to the published file", share)
    report.figure("seconds", "which took", taken_s, " s")
    whole = size / process_s / RATE_BYTES_S
    report.figure("share_of_link_get", "the same by `chunkq get`, start to exit", whole)
    report.figure("get_seconds", "which took", process_s, " s")
    return report
