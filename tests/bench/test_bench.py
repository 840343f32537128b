"""The benchmarks run to their end and say what they promise; no figure is judged here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench.measure import Settings, alternate, ratio

KEYS = {
    "throughput": {"mb_per_s", "ratio_stock_pika"},
    "spool": {"ratio_bare", "ratio_cp"},
}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", sorted(command.BENCHMARKS))
def test_a_benchmark_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table, then one line of JSON with the promised keys, and no directory left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert command.main([name, "--json", "--size", "16", "--pairs", "1", "--settle", "0"]) == 0
    table, last = capsys.readouterr().out.strip().rsplit("\n", 1)
    figures = json.loads(last)
    assert table.startswith(f"{name}: 16 MiB")
    assert set() == KEYS[name] - figures.keys()
    assert [] == [key for key, value in figures.items() if value <= 0]
    assert [] == list(tmp_path.iterdir())


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
