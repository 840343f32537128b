"""The benchmarks run to their end and say what they promise; no figure is judged here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import registry
from tests.bench.measure import Report, Settings, alternate, ratio

#: What each must tell, and arguments that make it short. `profile` needs perf: not run here.
KEYS = {
    "throughput": {"mb_per_s", "ratio_stock_pika", "ratio_librabbitmq"},
    "peers": {"ratio_nats", "ratio_nncp", "ratio_libtorrent", "ratio_rsync"},
    "spool": {"ratio_bare", "ratio_cp"},
    "smallfiles": {"ratio_rsync_fsync", "ratio_rsync"},
    "memory": {"rss_mib_max", "rss_ratio"},
    "overhead": {"overhead_64k", "overhead_256k"},
    "link": set[str](),
    "slowlink": {"share_of_link"},
    "workers": set[str](),
    "multisource": {"share_of_sum"},
    "commit": {"ratio"},
    "growth": set[str](),
}
SLICES = {name: ["--size", "16"] for name in KEYS} | {
    "smallfiles": ["--count", "200"],
}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", sorted(set(registry.names()) & KEYS.keys()))
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
