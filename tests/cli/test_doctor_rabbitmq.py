"""`chunkq doctor` with a real broker: what it finds, and what it says to type."""

from __future__ import annotations

import socket

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


def test_each_node_of_a_cluster_is_looked_at(site: Site, broker: Broker, vhost: str) -> None:
    """One that is away is a warning while another carries packets; all away is unreachable."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        own, dead = broker.ports.amqp, held.getsockname()[1]
        url = broker.url(vhost=vhost).replace(f":{own}/", f":{dead},127.0.0.1:{own}/")
        assert site.run("init", "--name", "alpha", "--link", url).code == 0
        result = site.run("doctor", "--json")
        found = {each["subject"]: each for each in result.objects if "link" in each["subject"]}
        assert {
            f"link default at 127.0.0.1:{dead}": "warn",
            f"link default at 127.0.0.1:{own}": "ok",
        } == {subject: each["status"] for subject, each in found.items()}
        assert 0 == result.code
        assert "guest:guest" not in result.out

        text = site.config_file.read_text().replace(f"127.0.0.1:{own}", f"127.0.0.1:{dead}")
        site.config_file.write_text(text)
        result = site.run("doctor", "--json")
        failed = [each["status"] for each in result.objects if "link" in each["subject"]]
        assert (5, ["fail", "fail"]) == (result.code, failed)
