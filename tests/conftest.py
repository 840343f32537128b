"""Fixtures that any test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from tests.support.broker import Broker
from tests.support.rabbitmq import Sites

#: A broker of your own in place of the private one, where a test only needs to send and receive.
URL_VARIABLE = "CHUNKQ_TEST_AMQP_URL"


def pytest_configure() -> None:
    """No example has a deadline, and commands started as processes keep their byte code.

    On a busy machine an example may take long, which says nothing about the code. Compiling the
    product anew costs each process half a second of CPU, more than all else that most of them do.
    """
    settings.register_profile("busy", deadline=None)
    settings.load_profile("busy")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests of a group share what is costly to start: none may be torn apart unnoticed."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        torn = [item.nodeid for item in grouped if "@" not in item.nodeid]
        assert not torn, f"pytest-xdist does not know the group of {torn[0]}"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A private RabbitMQ, one to a test process; started when the first test asks for it.

    Fails, and never skips, where RabbitMQ is not installed.
    """
    started = Broker.start(tmp_path_factory.mktemp("rabbitmq") / "node")
    yield started
    started.stop()


@pytest.fixture
def vhost(broker: Broker) -> Iterator[str]:
    """A virtual host of the private broker for this test alone."""
    name = broker.add_vhost()
    yield name
    broker.delete_vhost(name)


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """Where to send and receive: CHUNKQ_TEST_AMQP_URL if set, else a fresh virtual host."""
    if given := os.environ.get(URL_VARIABLE):
        return given
    private: Broker = request.getfixturevalue("broker")
    return private.url(vhost=request.getfixturevalue("vhost"))


@pytest.fixture
async def sites(broker: Broker, vhost: str) -> AsyncIterator[Sites]:
    """Opens RabbitMQ transports on this test's virtual host of the private broker."""
    opened = Sites(broker.url(vhost=vhost))
    yield opened
    await opened.close()
