"""The benchmarks run to their end and say what they promise; no figure is judged here."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as command
from tests.bench import librabbitmq, registry
from tests.bench.measure import PeerMissing, Report, Settings, alternate, ratio
from tests.bench.peer import Peer
from tests.bench.peers import PEERS
from tests.support.broker import Broker

#: What each must tell, and arguments that make it short.
KEYS = {
    "throughput": {"mb_per_s", "ratio_stock_pika", "ratio_librabbitmq"},
    "peers": {"ratio_nats", "ratio_nncp", "ratio_libtorrent", "ratio_rsync"},
    "spool": {"ratio_bare", "ratio_cp"},
    "smallfiles": {"ratio_rsync_fsync", "ratio_rsync"},
    "memory": {"rss_mib_max", "rss_ratio"},
    "overhead": {"overhead_64k", "overhead_256k"},
    "link": {"share_600ms_50mbit", "share_30s_2mbit", "share_600ms_loss", "share_600ms_drop"},
    "slowlink": {"share_of_link"},
    "workers": set[str](),
    "multisource": {"share_of_sum"},
    "commit": {"ratio"},
    "fairness": {"ratio_greedy", "ratio_deaf", "ratio_rapid"},
    "growth": set[str](),
    "profile": {"requester_us_per_chunk", "origin_us_per_chunk"},
}
SLICES = {name: ["--size", "16"] for name in KEYS} | {
    "smallfiles": ["--count", "200"],
    "growth": ["--size", "8", "--count", "12"],
    "slowlink": ["--size", "1"],
    "fairness": ["--size", "8"],
    "workers": ["--size", "8", "--count", "2"],
}


#: What `make bench` installs and `make test` does not.
PEER_PROGRAMS = ("nats-server", "nncp-", "rsync", "perf", "py-spy")
PEER_MODULES = ("nats", "libtorrent")


def hide_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has none of them: what runs here shall not depend on it."""
    which = shutil.which

    def without(name: str, *arguments: Any, **options: Any) -> str | None:
        return None if name.startswith(PEER_PROGRAMS) else which(name, *arguments, **options)

    monkeypatch.setattr(shutil, "which", without)
    for module in PEER_MODULES:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def one_broker(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker of this test process serves all benchmarks; each has its own virtual host."""
    monkeypatch.setattr(Broker, "start", lambda _path: broker)
    monkeypatch.setattr(broker, "stop", lambda: None)


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("one_broker")
@pytest.mark.parametrize("name", registry.names())
def test_a_benchmark_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table, then one line of JSON with the promised keys, and no directory left behind.

    A key without a figure says what to install, and then the exit code says so too.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if name in {"peers", "profile"}:
        hide_peers(monkeypatch)
    code = command.main([name, "--json", *SLICES[name], "--pairs", "1", "--settle", "0"])
    table, last = capsys.readouterr().out.strip().rsplit("\n", 1)
    figures = json.loads(last)
    missing = figures.get("missing", {})
    assert table.startswith(f"{name}: ")
    assert set() == KEYS[name] - figures.keys()
    assert [] == [key for key in KEYS[name] - missing.keys() if not figures[key] > 0]
    assert [] == [why for why in missing.values() if "install" not in why]
    assert (command.EXIT_MISSING if missing else 0) == code
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "how"),
    [
        ("nats", "nats-server is not installed; apt-get install nats-server"),
        ("nncp", "nncp-cfgnew is not installed; apt-get install nncp"),
        ("libtorrent", "libtorrent is not installed; pip install libtorrent"),
        ("rsync", "rsync is not installed; apt-get install rsync"),
    ],
)
def test_a_missing_peer_says_how_to_install_it(
    key: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything of it is started or written."""
    hide_peers(monkeypatch)
    with pytest.raises(PeerMissing) as raised:
        PEERS[key][1](tmp_path, tmp_path / "file").__enter__()

    assert how == str(raised.value)
    assert [] == list(tmp_path.iterdir())


def test_nats_without_its_python_client_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server alone is not enough."""
    monkeypatch.setattr(shutil, "which", lambda name, **_options: f"/usr/sbin/{name}")
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(PeerMissing) as raised:
        PEERS["nats"][1](tmp_path, tmp_path / "file").__enter__()

    assert "nats.py is not installed; pip install nats-py" == str(raised.value)


@pytest.mark.parametrize(
    "complaint",
    [
        "librabbitmq.c:12:10: fatal error: amqp.h: No such file or directory",
        "/usr/bin/ld: cannot find -lrabbitmq: No such file or directory",
    ],
)
def test_librabbitmq_without_its_library_is_missing(
    complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler and the linker say of it is understood."""
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissing) as raised:
        librabbitmq.compiled(tmp_path)

    assert f"librabbitmq is not installed; {librabbitmq.INSTALL}" == str(raised.value)


def test_librabbitmq_without_a_compiler_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled anywhere else than in the benchmark's own directory."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissing) as raised:
        librabbitmq.compiled(tmp_path)

    assert f"no C compiler; {librabbitmq.INSTALL}" == str(raised.value)


def test_another_fault_of_the_compiler_is_not_a_missing_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own program's errors are shown as they are."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'error: expected ;' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError) as raised:
        librabbitmq.compiled(tmp_path)

    assert "error: expected ;" in str(raised.value)


def test_what_there_is_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """A name and a sentence each, and nothing is run."""
    assert 0 == command.main(["--list"])
    lines = capsys.readouterr().out.splitlines()

    assert registry.names() == [line.split()[0] for line in lines]
    assert "spool" in registry.names()


def test_all_gives_one_object_of_objects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name; a figure that could not be had is null, with its reason, in the exit code too."""

    def load(name: str) -> object:
        def run(settings: Settings) -> Report:
            report = Report(f"{name}: nothing")
            report.figure("ratio", "ratio", 2)
            if name == "two":
                report.absent("ratio_peer", "peer", "apt-get install peer")
            return report

        return run

    monkeypatch.setattr(registry, "names", lambda: ["one", "two"])
    monkeypatch.setattr(registry, "load", load)

    assert command.EXIT_MISSING == command.main(["--json"])
    table, last = capsys.readouterr().out.strip().rsplit("\n", 1)
    found = json.loads(last)
    assert "missing: apt-get install peer" in table
    assert ["one", "two"] == list(found)
    assert 2 == found["one"]["ratio"]
    assert "missing" not in found["one"]
    assert found["two"]["ratio_peer"] is None
    assert {"ratio_peer": "apt-get install peer"} == found["two"]["missing"]
    assert {"machine", "system", "disk", "python"} <= found["one"]["about"].keys()


def test_runs_alternate_and_the_median_of_their_ratios_counts(tmp_path: Path) -> None:
    """A B A B, and a ratio is of neighbours: one noisy round moves nothing."""
    order: list[str] = []
    ours, theirs = iter([1.0, 10.0, 2.0]), iter([2.0, 20.0, 40.0])

    def run(name: str, seconds: object) -> float:
        order.append(name)
        return next(seconds)  # type: ignore[call-overload, no-any-return]

    settings = Settings(root=tmp_path, pairs=3, settle_s=0)
    seconds = alternate({"a": lambda: run("a", ours), "b": lambda: run("b", theirs)}, settings)

    assert order == ["a", "b"] * 3
    assert ratio(seconds, "a", "b") == 2.0


def test_what_a_peer_brought_is_compared_once_and_removed(tmp_path: Path) -> None:
    """A peer that brings something else is not measured."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"whole")
    brought = iter([b"whole", b"not looked at", b"half"])
    tidied: list[bool] = []

    def move() -> float:
        target.write_bytes(next(brought))
        return 2.0

    def made() -> Peer:
        return Peer("1", source, target, move, lambda: tidied.append(target.exists()))

    peer = made()
    assert [2.0, 2.0] == [peer.run(), peer.run()]
    assert [False, False] == tidied
    assert 2 == len(peer.sync_s)
    with pytest.raises(AssertionError, match="not what was sent"):
        made().run()
