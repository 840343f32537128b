"""The program as a whole: help, start-up cost, errors and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from chunkq.cli import console
from chunkq.cli import main as program
from chunkq.cli.lazy import COMMANDS, LazyGroup
from chunkq.cli.main import main
from chunkq.errors import BrokerUnreachable
from tests.cli.site import Site
from tests.support.pair import Pair

HEAVY = ("pydantic", "nacl", "pika", "structlog", "rich", "asyncio", "blake3", "cbor2", "tomllib")


def imported_by(*args: str) -> set[str]:
    """The top-level modules that a run of the program has imported at its end."""
    code = (
        "import sys, json; from chunkq.cli.main import main; main(sys.argv[1:]);"
        "sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(ended.stderr.splitlines()[-1])}


def test_help_imports_nothing_heavy() -> None:
    """`chunkq --help` costs typer and nothing else."""
    assert set() == imported_by("--help") & set(HEAVY)


@pytest.mark.parametrize("command", ["status", "get --patience 0.1s bob:docs/x"])
def test_a_command_that_logs_nothing_loads_no_logging(pair: Pair, command: str) -> None:
    """structlog and rich would be a sixth of its start."""
    loaded = imported_by(*pair.alice.arguments, *command.split())

    assert "pydantic" in loaded
    assert set() == loaded & {"structlog", "rich"}


def test_help_lists_every_command_with_its_line(site: Site) -> None:
    """The table of commands is what help shows, in that order."""
    shown = site.run("--help").out.split("Commands:")[1].split("\n\n")[0].split("\n")

    assert [line.split(maxsplit=1) for line in shown if line] == [
        [name, text] for name, (_, text) in COMMANDS.items()
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(site: Site, name: str) -> None:
    """Help teaches: what it does and how it is typed, in 80 columns."""
    result = site.run(name, "--help")

    assert result.code == 0
    assert f"Usage: chunkq {name}" in result.out
    assert [line for line in result.out.splitlines() if len(line) > 80] == []
    assert name == "version" or f"chunkq {name}" in result.out.split("Options:")[1]


def test_nothing_to_do_shows_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that a pipe gets nothing."""
    code = main([])

    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert "Commands:" in said.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sahre"], "no command is called 'sahre'; did you mean share?"),
        (["--jsn"], "No such option: --jsn"),
        (["grant", "beta"], "Missing argument"),
        (["peer", "remove", "x"], "No such command 'remove'"),
    ],
)
def test_usage_errors_exit_2(site: Site, args: list[str], message: str) -> None:
    """One line of error, one of hint, no usage text in between."""
    result = site.run(*args)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {message}")
    assert "hint: see: chunkq" in result.err


def test_usage_errors_are_json_with_json(site: Site) -> None:
    """Also where the parser never got as far as the option."""
    result = site.run("grant", "--json", "beta")

    assert result.code == 2
    assert [(each["type"], each["exit_code"]) for each in result.objects] == [("error", 2)]


def with_command(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Put a command `version` in place that does `act`."""
    import typer

    app = typer.Typer(rich_markup_mode=None)
    app.command("version")(act)
    command = typer.main.get_command(app)
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)


def test_errors_of_chunkq_carry_their_exit_code_and_hint(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree of errors decides, not the command."""

    def act() -> None:
        raise BrokerUnreachable("no broker at 127.0.0.1:1", hint="start it")

    with_command(monkeypatch, act)

    plain, as_json = site.run("version"), site.run("--json", "version")

    assert (plain.code, plain.out) == (5, "")
    assert plain.err == "error: no broker at 127.0.0.1:1\nhint: start it\n"
    assert as_json.objects == [
        {
            "type": "error",
            "error": "BrokerUnreachable",
            "message": "no broker at 127.0.0.1:1",
            "hint": "start it",
            "retry": True,
            "exit_code": 5,
        }
    ]


def test_a_defect_is_one_line_without_traceback(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CHUNKQ_DEBUG=1 shows the traceback."""

    def act() -> None:
        raise KeyError("odd\nthing")

    with_command(monkeypatch, act)

    plain = site.run("version")
    monkeypatch.setenv("CHUNKQ_DEBUG", "1")
    debug = site.run("version")

    assert (plain.code, debug.code) == (1, 1)
    assert plain.err.splitlines() == [
        r"error: internal error: KeyError: 'odd\nthing'",
        "hint: run with CHUNKQ_DEBUG=1 for the traceback",
    ]
    assert "Traceback" in debug.err


def test_interrupt_exits_130(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a command that does not handle it itself."""

    def act() -> None:
        raise KeyboardInterrupt

    with_command(monkeypatch, act)

    assert site.run("version").code == 130


def test_what_a_command_returns_is_the_exit_code(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that failed in part says so by returning."""
    with_command(monkeypatch, lambda: 3)

    assert site.run("version").code == 3


def test_a_reader_that_goes_away_is_no_traceback(alpha: Site) -> None:
    """`chunkq config show | true`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        ended = subprocess.run(
            [sys.executable, "-m", "chunkq.cli.main", *alpha._directories, "config", "show"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (1, "")


def test_messages_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names in messages may come from a peer."""
    console.fail(BrokerUnreachable("x\x1b[2Jy\x07"), as_json=False)

    assert capsys.readouterr().err == "error: x�[2Jy�\n"


def test_no_colour_without_a_terminal(site: Site) -> None:
    """Nor with NO_COLOR, which is rich's to heed."""
    result = site.spawn("sahre", FORCE_COLOR="1")

    assert result.code == 2
    assert "\x1b" not in result.err


def test_version(site: Site) -> None:
    """Both spellings; the JSON names the libraries."""
    short = site.run("--version")
    (long,) = site.run("version", "--json").objects

    assert short.code == 0
    assert short.out.startswith("chunkq ")
    assert {"chunkq", "python", "pika", "pynacl"} <= long.keys()


def test_completion_offers_commands(site: Site) -> None:
    """The shell asks through the environment; typer answers."""
    result = site.spawn(_CHUNKQ_COMPLETE="complete_bash", COMP_WORDS="chunkq pe", COMP_CWORD="1")

    assert result.out.split() == ["peer"]


def test_main_is_what_the_console_script_calls() -> None:
    """`chunkq.cli.main:main`, returning the exit code."""
    assert program.main is main
    assert main(["--version"]) == 0
