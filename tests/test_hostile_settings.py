"""Numbers and texts in a site's own files that cannot be meant: said, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkq.errors import ConfigError
from chunkq.settings.files import find_line, parse_toml
from chunkq.settings.load import load
from chunkq.settings.quantity import parse_duration, parse_rate, parse_size
from chunkq.storage.hashjobs import read_progress, take_hash_lock
from chunkq.storage.received import ReceivedLog
from chunkq.transport.rabbitmq.options import RabbitMQOptions

DIGITS = "9" * 400


@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_rate])
@pytest.mark.parametrize(
    "given",
    [DIGITS, f"{DIGITS}.5", f"{DIGITS[:308]} d", 10**400, float("inf"), float("nan"), 1e300],
)
def test_a_quantity_that_nothing_has(parse: object, given: object) -> None:
    """As `ValueError`, which pydantic turns into a sentence, and not repeated whole."""
    with pytest.raises(ValueError) as told:
        parse(given)  # type: ignore[operator]
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        f"[requester]\npatience = {DIGITS}\n",
        f'[requester]\ncommit_size = "{DIGITS}"\n',
        f"[requester]\nconcurrency = {'9' * 5000}\n",
        f"name = {'[' * 3000}\n",
    ],
)
def test_a_configuration_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    """The file is named, and that is all that the user sees."""
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(config_dir=tmp_path, state_dir=tmp_path, environ={})


@pytest.mark.parametrize("value", ["²", "٣", "9" * 5000, "", "-1", "1.5"])
def test_an_option_of_a_url_that_is_no_number(value: str) -> None:
    """Python takes more for digits than it takes for a number."""
    with pytest.raises(ConfigError, match="heartbeat"):
        RabbitMQOptions(url=f"amqp://h/v?heartbeat={value}", site="alice")


def test_the_line_of_a_key_is_found_in_any_text(tmp_path: Path) -> None:
    """Lines of nothing but blanks took the cube of their length."""
    path = tmp_path / "config.toml"
    path.write_text(f"{' ' * 20_000}\n[ {' ' * 20_000}\t a ]\nb = 1\n")
    assert {"a": {"b": 1}} == parse_toml(path, path.read_text())
    assert 3 == find_line(path.read_text(), "a.b")


@pytest.mark.parametrize("text", [b"", b"x y", b"\xff\xfe 5", b"7 5", b"9" * 40, b"1 2 3"])
def test_the_progress_of_another_worker_is_junk(tmp_path: Path, text: bytes) -> None:
    """Then nothing of the hash is done, as far as can be told."""
    directory = os.open(tmp_path, os.O_RDONLY)
    lock = take_hash_lock(directory, str(tmp_path), "key")
    assert lock is not None
    with lock:
        (tmp_path / "key.hashing").write_bytes(text)
        assert (0, 77) == read_progress(directory, str(tmp_path), "key", 77)
        lock.progress(12, 77)
        (tmp_path / "key.hashing").write_bytes(b"12 77".ljust(40))
        assert (12, 77) == read_progress(directory, str(tmp_path), "key", 77)
    os.close(directory)


def test_a_line_of_what_was_received_that_is_lists_in_lists(tmp_path: Path) -> None:
    """As one that is torn: passed over."""
    (tmp_path / "received.jsonl").write_bytes(b"[" * 100_000 + b"\n")
    assert ReceivedLog(tmp_path).find("/a") is None
