"""The log carries stable names and listed fields, and nothing else."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from chunkq.telemetry.logs import MAX_VALUE_LENGTH, configure, get_logger, write


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    """The records without their timestamps."""
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    for record in records:
        assert record.pop("timestamp").endswith("Z")
    return records


def test_json_where_there_is_no_terminal() -> None:
    """One object a line, with event and level."""
    stream = io.StringIO()
    configure(stream=stream)

    get_logger(peer="beta").info("transfer.done", bytes=5)

    assert logged(stream) == [
        {"event": "transfer.done", "peer": "beta", "bytes": 5, "level": "info"}
    ]


def test_console_on_a_terminal() -> None:
    """People get a line that is no JSON."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    configure(stream=stream)

    get_logger().warning("link.lost", link="default")

    assert "link.lost" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_the_form_can_be_forced() -> None:
    """`log.format = "console"` holds without a terminal, too."""
    stream = io.StringIO()
    configure(stream=stream, form="console")

    get_logger().info("link.lost")

    assert "{" not in stream.getvalue()
    assert "link.lost" in stream.getvalue()


def test_fields_that_are_not_listed_are_dropped() -> None:
    """No key, no content, no exception with its locals."""
    stream = io.StringIO()
    configure(stream=stream)

    get_logger().error("request.refused", secret="k", body=b"x", reason="stale", exc_info=True)

    assert logged(stream) == [{"event": "request.refused", "reason": "stale", "level": "error"}]


def test_values_that_are_not_plain_are_dropped_even_in_listed_fields() -> None:
    """Bytes may be a key or content, whatever the field is called."""
    stream = io.StringIO()
    configure(stream=stream)

    get_logger().info("a.b", request=b"\x01", chunk=[b"x"], counters={"sent": 1, "key": b"x"})

    assert logged(stream) == [{"event": "a.b", "counters": {"sent": 1}, "level": "info"}]


NAMED = {"path": "a/b", "detail": "cannot open /srv/a/b"}


@pytest.mark.parametrize(("paths", "kept"), [(False, {}), (True, NAMED)])
def test_paths_only_where_configured(paths: bool, kept: dict[str, str]) -> None:
    """Names of files tell what people keep; messages may repeat them."""
    stream = io.StringIO()
    configure(stream=stream, paths=paths)

    write("source_unreadable", level="error", **NAMED)

    assert logged(stream) == [{"event": "source_unreadable", **kept, "level": "error"}]


@pytest.mark.parametrize("event", ["got /home/x", "Transfer.done", "a..b", "", "done\n"])
def test_an_event_that_is_a_sentence_is_not_logged(event: str) -> None:
    """Text put together at run time could carry anything."""
    stream = io.StringIO()
    configure(stream=stream)

    get_logger().info(event)

    assert logged(stream) == [{"event": "unnamed", "level": "info"}]


def test_control_characters_and_length() -> None:
    """A peer's text cannot steer a terminal nor fill a disk."""
    stream = io.StringIO()
    configure(stream=stream, paths=True)

    get_logger().info("a.b", detail="x\x1b[2J" + "y" * 1000)

    (record,) = logged(stream)
    assert record["detail"].startswith("x�[2Jy")
    assert len(record["detail"]) == MAX_VALUE_LENGTH + 1


def test_level() -> None:
    """Records below the level are not written."""
    stream = io.StringIO()
    configure(stream=stream, level="warning")

    get_logger().info("a.b")
    get_logger().warning("c.d")

    assert [record["event"] for record in logged(stream)] == ["c.d"]


@pytest.mark.parametrize(("level", "count"), [("info", 0), ("debug", 1)])
def test_what_libraries_say_is_kept_for_debugging(
    level: Any, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """pika's own warnings go neither to stderr by themselves nor into the log by default."""
    stream = io.StringIO()
    configure(stream=stream, level=level)

    logging.getLogger("pika.connection").warning("something about %s", "it")

    assert [record["event"] for record in logged(stream)] == ["library.message"] * count
    assert capfd.readouterr().err == ""


def test_structlog_is_loaded_with_the_first_record() -> None:
    """A command that logs nothing does not wait for it; what is below the level is nothing."""
    code = """
import sys
from chunkq.telemetry.logs import configure, write
configure(level="warning", stream=sys.stdout)
write("link.back")
print("structlog" in sys.modules)
write("link.lost", level="warning", link="default")
write("link.back")
print("structlog" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    before, record, after = ended.stdout.splitlines()
    assert ("False", "True") == (before, after)
    assert {"event": "link.lost", "link": "default", "level": "warning"}.items() <= json.loads(
        record
    ).items()


def test_a_program_that_has_structlog_is_configured_at_once() -> None:
    """What it asks of structlog itself afterwards counts."""
    configure(stream=io.StringIO())
    theirs = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(theirs))

    write("link.lost")

    assert "link.lost" in theirs.getvalue()
