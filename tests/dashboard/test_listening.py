"""Where the page may be served, and what `chunkq dashboard` says where it may not."""

from __future__ import annotations

import importlib.util
import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from chunkq.dashboard.listening import Listening
from tests.support.quick import quick, run_inside


@pytest.fixture
def directories(tmp_path: Path) -> list[str]:
    """A site that was set up."""
    found = ["--config-dir", str(tmp_path / "config"), "--state-dir", str(tmp_path / "state")]
    quick(*found, "init", "--name", "alice")
    return found


def told(directories: list[str], *arguments: str) -> str:
    """What `chunkq dashboard` says on stderr when it will not start."""
    done = run_inside(*directories, "dashboard", *arguments)
    assert 2 == done.code
    return done.err


@pytest.mark.parametrize("listen", ["0.0.0.0:8137", "[::]:8137", "192.0.2.1:8137"])
def test_others_need_a_password(directories: list[str], listen: str) -> None:
    """Anything but loopback is refused without authentication."""
    assert "without a password" in told(directories, "--listen", listen)


def test_passwords_need_tls(directories: list[str], tmp_path: Path) -> None:
    """Nobody sends one in the clear by mistake."""
    users = tmp_path / "users"
    users.write_text("erin:correct horse\n")
    users.chmod(0o600)
    given = ["--listen", "0.0.0.0:8137", "--password-file", str(users)]

    assert "in the clear" in told(directories, *given)
    assert "by which name" in told(directories, *given, "--behind-proxy")


@pytest.mark.parametrize("listen", ["8137", "nowhere:1", "127.0.0.1:99999", "127.0.0.1:x", ":1"])
def test_what_is_no_address(directories: list[str], listen: str) -> None:
    """Said with how it is written."""
    assert "127.0.0.1:8137" in told(directories, "--listen", listen)


def test_a_port_that_is_taken(directories: list[str]) -> None:
    """The message says which, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = told(directories, "--listen", f"127.0.0.1:{port}")

    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in said
    assert "--listen" in said


def test_without_the_extra(directories: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed it is told how to."""
    plain = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "uvicorn" else plain(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)

    assert "pip install 'chunkq[dashboard]'" in told(directories)


def test_names_and_origins() -> None:
    """On loopback by its three names; besides only by those that were given."""
    plain = Listening(host="127.0.0.1", port=0)
    proxied = Listening(host="127.0.0.1", port=0, names=("ops.example.org",), behind_proxy=True)

    assert plain.origins(81) == {
        "127.0.0.1:81": "http://127.0.0.1:81",
        "localhost:81": "http://localhost:81",
        "[::1]:81": "http://[::1]:81",
    }
    assert "https://ops.example.org" == proxied.origins(81)["ops.example.org"]
    assert "https://ops.example.org" == proxied.address(81)
