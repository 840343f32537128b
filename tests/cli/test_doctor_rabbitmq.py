"""`chunkq doctor` with a real broker: what it finds, and what it says to type."""

from __future__ import annotations

import pytest

from tests.cli.site import Site
from tests.support.broker import Broker

pytestmark = pytest.mark.rabbitmq


def examine(site: Site, url: str) -> tuple[int, str, str, str]:
    """Exit code, and status, text and mend of the default link."""
    assert site.run("init", "--name", "alpha", "--link", url).code == 0
    result = site.run("doctor", "--json")
    (link,) = [each for each in result.objects if each["subject"] == "link default"]
    return result.code, link["status"], link["text"], link["mend"]


def test_a_packet_goes_through_the_broker(site: Site, broker: Broker, vhost: str) -> None:
    """Log-in, permissions, routing and size are all tried at once."""
    code, status, text, _ = examine(site, broker.url(vhost=vhost))

    assert (code, status) == (0, "ok")
    assert "4160KiB" in text


def test_wrong_password(site: Site, broker: Broker, vhost: str) -> None:
    """The user is named, the password is not."""
    url = broker.url(vhost=vhost).replace("guest:guest", "guest:wr0ng")
    code, status, text, mend = examine(site, url)

    assert (code, status) == (1, "fail")
    assert "'guest'" in text
    assert "change_password" in mend
    assert "wr0ng" not in text + mend


def test_a_permission_that_is_missing_is_named(site: Site, broker: Broker, vhost: str) -> None:
    """With the command that grants it."""
    broker.add_user("alpha", "secret", vhost, configure="^$")

    code, status, text, mend = examine(site, broker.url("alpha", "secret", vhost))

    assert (code, status) == (1, "fail")
    assert "'alpha'" in text
    assert "set_permissions" in mend


def test_chunks_larger_than_the_broker_takes(site: Site, broker: Broker, vhost: str) -> None:
    """Found here, before a transfer is begun; both numbers are named."""
    broker.eval("application:set_env(rabbit, max_message_size, 1048576).")
    try:
        code, status, text, mend = examine(site, broker.url(vhost=vhost))
    finally:
        broker.eval("application:set_env(rabbit, max_message_size, 134217728).")

    assert (code, status) == (1, "fail")
    assert "1048576" in text + mend
