"""Alert rules and the Grafana dashboard: valid, tried out, and about figures that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from chunkq.api.figures import Host, figures
from tests.runtime.test_reporting import Now, reporter_of

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
BOARD = DEPLOY / "grafana" / "chunkq.json"
#: What Prometheus itself, and its library in each process, add.
OTHERS = {
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
    "process_cpu_seconds_total": set(),
}
ADDED_LABELS = {"instance", "job"}

NAME = re.compile(r"\b(?:chunkq|process)_[a-z_]+\b")
SELECTED = re.compile(r"\b((?:chunkq|process)_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|on|without) \(([^)]*)\)")


def exported() -> dict[str, set[str]]:
    """The labels of each metric that a process tells, by its whole name."""
    told = figures(reporter_of(Now()), [], Host())
    names = {
        f"chunkq_{each.name}" + ("_total" if each.kind == "counter" else ""): set(each.labels)
        for each in told
    }
    assert len(names) > 20
    return names | OTHERS


def rules() -> list[dict[str, Any]]:
    found = YAML(typ="safe").load(RULES.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [each for each in json.loads(BOARD.read_text())["panels"] if each["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels() for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_figures_that_are_asked_for_are_told(expression: str) -> None:
    """Each metric by its whole name, with labels that it has."""
    known = exported()
    names = NAME.findall(expression)
    assert names
    assert [] == [name for name in names if name not in known]
    for name, selection in SELECTED.findall(expression):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selection))
        assert asked <= known[name] | ADDED_LABELS
    told = set.union(*(known[name] for name in names)) | ADDED_LABELS
    for labels in GROUPED.findall(expression):
        assert {label.strip() for label in labels.split(",")} - {""} <= told


def test_no_figure_is_forgotten() -> None:
    """Whatever a process tells stands on the dashboard or in a rule."""
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    assert set() == set(exported()) - used


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid() -> None:
    """By Prometheus' own judgement, and as part of the configuration that goes with them."""
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_rules_tell_what_they_should() -> None:
    """Each is tried with figures at which it speaks, and most with some at which it does not."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    tried = RULES.with_name("alerts_test.yml").read_text()
    spoke = set(re.findall(r"alertname: (\w+)\n +exp_alerts", tried))
    assert {rule["alert"] for rule in rules()} == spoke


def test_rules_are_for_people() -> None:
    """A severity, a sentence, and what to do."""
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """No data source of ours in it, unique ids, a unit and a sentence on each panel, no overlap."""
    board = json.loads(BOARD.read_text())
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert "datasource" == variables["datasource"]["type"]
    assert "${datasource}" == variables["instance"]["datasource"]["uid"]
    assert {"title", "uid", "schemaVersion", "time", "panels"} <= set(board)
    ids = [each["id"] for each in board["panels"]]
    assert sorted(set(ids)) == ids
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        sources = [panel["datasource"], *(each["datasource"] for each in panel["targets"])]
        assert {"${datasource}"} == {source["uid"] for source in sources}
        refs = [each["refId"] for each in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


def test_expressions_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    """As rules they pass Prometheus' own parser, with Grafana's variables filled in."""
    lines = ["groups:", "- name: board", "  rules:"]
    for number, target in enumerate(each for panel in panels() for each in panel["targets"]):
        filled = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        lines += [f"  - record: board:panel{number}", f"    expr: {json.dumps(filled)}"]
    path = tmp_path / "board.yml"
    path.write_text("\n".join(lines) + "\n")
    assert "SUCCESS" in promtool("check", "rules", str(path))
