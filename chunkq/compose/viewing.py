"""What looks at the queues of a link."""

from __future__ import annotations

from chunkq.compose.links import rabbitmq_options, spool_options
from chunkq.ports.viewing import QueueViewer
from chunkq.settings import Link


def make_viewer(link: Link, site: str) -> QueueViewer:
    """For `link`, on which this site is called `site`; it connects when it is asked."""
    if link.transport == "spool":
        from chunkq.transport.spool.viewing import SpoolViewer

        return SpoolViewer(spool_options(link, site))
    from chunkq.transport.rabbitmq.management import Management
    from chunkq.transport.rabbitmq.viewing import RabbitMQViewer

    management = None if link.management is None else Management(link.management)
    return RabbitMQViewer(rabbitmq_options(link, site), management)
