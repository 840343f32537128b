"""The nodes of a broker in one URL."""

from __future__ import annotations

import pytest

from chunkq.protocol.brokerurl import node_urls


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://host", ["amqp://host"]),
        ("amqp://a,b:5673", ["amqp://a", "amqp://b:5673"]),
        (
            "amqps://u:p,w@one:5671,two:5671/v%2Fh?heartbeat=5",
            [
                "amqps://u:p,w@one:5671/v%2Fh?heartbeat=5",
                "amqps://u:p,w@two:5671/v%2Fh?heartbeat=5",
            ],
        ),
        ("amqp://[::1]:5672,[fe80::2]/", ["amqp://[::1]:5672/", "amqp://[fe80::2]/"]),
        ("amqp://u:a@b,c@d,e/v,w", ["amqp://u:a@b,c@d/v,w", "amqp://u:a@b,c@e/v,w"]),
        ("amqp://a,,b", ["amqp://a", "amqp://", "amqp://b"]),
        ("spool:///of/a,b", ["spool:///of/a,b"]),
        ("host,other", ["host,other"]),
        ("", [""]),
    ],
)
def test_each_node_has_a_url_of_its_own(url: str, nodes: list[str]) -> None:
    """Login, virtual host and options are those of all; commas elsewhere separate nothing."""
    assert tuple(nodes) == node_urls(url)
