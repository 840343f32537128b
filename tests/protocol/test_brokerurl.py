"""The nodes of a broker in one URL."""

from __future__ import annotations

import pytest

from chunkq.protocol.brokerurl import check_whole, mask_url, node_urls, split_url


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:s3cret@h/v", "amqp://u:***@h/v"),
        ("AMQPS://u:s3cret@h", "AMQPS://u:***@h"),
        (" amqp://u:s3cret@h", " amqp://u:***@h"),
        ("amqp:/u:s3cret@h", "amqp:/u:***@h"),
        ("amqp:u:s3cret@h", "amqp:u:***@h"),
        ("u:s3cret@h", "u:***@h"),
        ("http://u:s3cret@h", "http://u:***@h"),
        ("amqp://us/er:s3cret@h", "amqp://us/er:***@h"),
        ("amqp://u:s3/cr?e#t@h/v", "amqp://u:***@h/v"),
        ("amqp://u:s3\ncret@h", "amqp://u:***@h"),
        ("amqp://u@h:5672/v", "amqp://u@h:5672/v"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("spool:///a:b@c", "spool:///a:b@c"),
        ("", ""),
    ],
)
def test_a_password_is_masked_however_the_url_is_written(url: str, shown: str) -> None:
    """It is a person who wrote it: a blank before it, a slash too few, nothing encoded."""
    assert shown == mask_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:s3cret/@h",
        "amqp://u:s3cret?@h",
        "amqp://u:s3cret#x@h",
        "amqp://u:12/s3cret@h",
        "amqp://u:a,b/s3cret@h",
        "amqp://u:1?s3cret=1@h/v",
        "amqp://u:s3cret℀@h",
        "amqp://u:s3cret@[h",
        "amqp:/u:s3cret@h",
        " amqp://u:s3cret@h",
        "amqp://u:s3cret@h\n",
        "amqp://u:s3\tcret@h",
    ],
)
def test_a_url_that_is_another_than_it_seems_is_refused(url: str) -> None:
    """Half of a password would be a port, a host or an option; nothing of it is said."""
    with pytest.raises(ValueError, match=r"written|blank") as told:
        check_whole(url)
    assert "s3" not in str(told.value)


def test_a_port_that_is_none_is_not_repeated() -> None:
    """It may be the beginning of a password."""
    with pytest.raises(ValueError, match="a port is a number") as told:
        split_url("amqp://u:s3cret")
    assert "s3" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    ["amqp://u:p@h/v", "amqp://u:p@a,b:1/v", "amqp://u:a@b:c@h/v", "spool:///a b/c@d", "amqp://h"],
)
def test_a_url_whose_parts_are_where_they_seem_to_be_is_taken(url: str) -> None:
    """Nothing is refused that means what it says."""
    check_whole(url)
