"""What is seen of a transfer: a terminal, a pipe, JSON, silence."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from chunkq.cli.progress import Meter, origins_text, render, size_text, time_text
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.progress import Progress
from tests.support.pair import OFTEN, Pair, contents, part_way, until

MIB = 1 << 20
KIB = 1 << 10


def moment(present: int, total: int = 100 * MIB, **other: object) -> Progress:
    fields: dict[str, object] = {
        "source": "bob:docs/f",
        "peer": "bob",
        "phase": "running",
        "bytes_present": present,
        "bytes_total": total,
        "new_bytes": present,
        "chunks_present": present // (256 * KIB),
        "chunks_total": total // (256 * KIB),
    }
    return Progress(**{**fields, **other})  # type: ignore[arg-type]


# ---------------------------------------------------------------- the line


def test_a_line_has_what_matters() -> None:
    """Bytes, rate of new bytes, what is left, pieces, peer."""
    meter = Meter()
    meter.add(0.0, moment(0))
    meter.add(1.0, moment(10 * MIB))

    line = render(moment(10 * MIB), meter, 200)

    assert " 10%  10.0 MiB of 100.0 MiB  10.0 MiB/s  9 s left  40/400 chunks  from bob" == line


def test_a_line_of_several_origins_has_their_shares() -> None:
    """In 79 columns for three; bytes for two words at the end, and who was of no use."""
    meter = Meter()
    meter.add(0.0, moment(0))
    meter.add(1.0, moment(10 * MIB))
    origins = {"bob": 7 * MIB, "carol": 2 * MIB, "dave": MIB}

    line = render(moment(10 * MIB, origins=origins), meter, 79)

    assert line.endswith("  10.0 MiB/s  9 s left  bob 70% carol 20% dave 10%")
    left = {"eve": "it has another version"}
    assert "from bob 7.0 MiB; not from eve: it has another version" == origins_text(
        {"bob": 7 * MIB, "eve": 0}, left
    )
    assert "not from eve: it has another version" == origins_text({}, left)


@pytest.mark.parametrize("width", [10, 40, 60, 79])
def test_a_line_is_never_longer_than_the_terminal(width: int) -> None:
    """What does not fit is left out, from the right."""
    meter = Meter()
    for second in range(3):
        meter.add(float(second), moment(second * MIB, 100 << 40))
    waiting = Waiting("preparing", done=1, total=2)

    lines = [
        render(moment(2 * MIB, 100 << 40), meter, width),
        render(moment(2 * MIB, 100 << 40, waiting=waiting), meter, width),
        render(moment(0, 0, phase="opening"), meter, width),
    ]

    assert [line for line in lines if len(line) > width or not line] == []


def test_it_never_runs_backwards() -> None:
    """Chunks found bad are fetched again: the number shown stays."""
    meter = Meter()
    meter.add(0.0, moment(50 * MIB))
    meter.add(1.0, moment(20 * MIB))

    assert render(moment(20 * MIB), meter, 200).startswith(" 50%  50.0 MiB of 100.0 MiB")


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        (Waiting("preparing", done=25, total=100), "the origin is hashing the file (25% of"),
        (Waiting("peer_silent"), "no answer from the peer"),
        (Waiting("disk_full"), "no room on this disk"),
        (Waiting("broker_unreachable"), "the broker cannot be reached"),
    ],
)
def test_the_reason_of_a_wait(waiting: Waiting, words: str) -> None:
    """In words, in place of the rate."""
    line = render(moment(0, 0, waiting=waiting), Meter(), 200)

    assert line.startswith("bob:  waiting: ")
    assert words in line


def test_sizes_and_times_for_people() -> None:
    """With their units, also where rounding reaches the next one."""
    assert ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "2.0 TiB"] == [
        size_text(size) for size in (0, 1023, 1024, 3 * MIB // 2, 2 << 40)
    ]
    assert ["0 s", "59 s", "1:00 min", "1:05 min", "2:03 h"] == [
        time_text(seconds) for seconds in (0.2, 59.4, 59.6, 65, 7384)
    ]


# ---------------------------------------------------------------- no terminal


def test_no_terminal_is_quiet(served: Pair, tmp_path: Path) -> None:
    """Only the result, on stdout."""
    served.offer("quiet", b"x" * MIB)

    done = served.get("bob:docs/quiet", str(tmp_path / "quiet"))

    assert (0, "", 1) == (done.code, done.err, len(done.out.splitlines()))


def test_q_says_nothing(served: Pair, tmp_path: Path) -> None:
    """But what is wrong."""
    served.offer("q", b"x" * MIB)

    good = served.alice.run("-q", "get", "bob:docs/q", str(tmp_path / "q"))
    bad = served.alice.run("-q", "get", "bob:docs/nothing", str(tmp_path / "n"))

    assert (0, "", "") == (good.code, good.out, good.err)
    assert (4, "") == (bad.code, bad.out)
    assert bad.err.startswith("error: ")


def percents(told: str) -> list[int]:
    """How far each line says that it is."""
    return [int(found[1]) for line in told.splitlines() if (found := re.match(r" *(\d+)%", line))]


def test_a_line_now_and_then(pair: Pair) -> None:
    """CHUNKQ_PROGRESS_INTERVAL: whole lines on stderr, without control characters."""
    pair.offer("big", os.urandom(8 * MIB))
    worker = pair.serve()
    getting = pair.alice.start(
        "get", "bob:docs/big", str(pair.inbox), CHUNKQ_PROGRESS_INTERVAL="0.2s", **OFTEN
    )
    part_way(pair, worker, getting)
    until(lambda: len(percents(getting.err)) >= 3)
    worker.send(18)

    done = getting.wait()

    assert done.code == 0
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    shown = percents(done.err)
    assert len(shown) >= 3
    assert sorted(shown) == shown


def test_json_lines_all_parse(pair: Pair) -> None:
    """Each with a type, on stdout; nothing on stderr; the numbers only rise."""
    content = os.urandom(8 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    first = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, worker, first)
    first.end()
    worker.send(18)

    done = pair.get("--json", "bob:docs/big", str(pair.inbox))

    assert (0, "") == (done.code, done.err)
    kinds = [each["type"] for each in done.objects]
    assert {"progress", "resuming", "result"} == set(kinds)
    assert "result" == kinds[-1]
    present = [each["bytes_present"] for each in done.objects if each["type"] == "progress"]
    assert sorted(present) == present
    result = done.objects[-1]
    assert result["resumed_chunks"] > 0
    assert result["size_bytes"] == 8 * MIB
    assert {"big": content} == contents(pair.inbox)


def test_json_of_failures(served: Pair, tmp_path: Path) -> None:
    """What failed, and how the whole ended."""
    served.offer("one", b"1")

    done = served.get("--json", "bob:docs/nothing", "bob:docs/one", str(tmp_path))

    assert (3, "") == (done.code, done.err)
    kinds = [each["type"] for each in done.objects if each["type"] != "progress"]
    assert ["failed", "result", "error"] == kinds
    failed = next(each for each in done.objects if each["type"] == "failed")
    assert ("bob:docs/nothing", "NotFound") == (failed["path"], failed["error"])
    assert 3 == done.objects[-1]["exit_code"]


def test_a_reader_that_goes_away(served: Pair, tmp_path: Path) -> None:
    """`chunkq --json get … | head -1`: no traceback, and the transfer is resumable or done."""
    served.offer("piped", os.urandom(MIB))
    command = [sys.executable, "-m", "chunkq.cli.main", *served.alice.arguments, "--json"]
    with subprocess.Popen(
        [*command, "get", "bob:docs/piped", str(tmp_path / "piped")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read()
        process.wait(30)

    assert b"" == said
    assert process.returncode in {0, 1}
    assert served.get("bob:docs/piped", str(tmp_path / "piped")).code == 0


# ---------------------------------------------------------------- a terminal


def on_terminal(pair: Pair, *args: str, columns: int, **environ: str) -> tuple[int, str]:
    """Run a command on a terminal of that width: its exit code and all that it wrote there."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "chunkq.cli.main", *pair.alice.arguments, *args]
    clean = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other,
        env={**clean, "TERM": "xterm", **OFTEN, **environ},
    )
    os.close(other)
    said = bytearray()

    def read() -> None:
        while True:
            try:
                block = os.read(main, 65536)
            except OSError:  # the other end is closed
                return
            if not block:
                return
            said.extend(block)

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(60)
    reader.join(60)
    os.close(main)
    return code, said.decode()


def test_in_place_on_a_terminal(served: Pair, tmp_path: Path) -> None:
    """One line, rewritten: never wider than the terminal, never backwards, gone at the end."""
    served.offer("terminal", os.urandom(96 * MIB))

    code, said = on_terminal(
        served, "get", "bob:docs/terminal", str(tmp_path / "terminal"), columns=80
    )

    assert code == 0
    drawn, _, rest = said.rpartition("\r\x1b[K")
    lines = [line.removesuffix("\x1b[K") for line in drawn.split("\r") if line]
    assert len(lines) >= 2
    assert [line for line in lines if len(line) > 79 or "\n" in line] == []
    percents = [int(found[1]) for line in lines if (found := re.match(r" *(\d+)%", line))]
    assert percents
    assert sorted(percents) == percents
    # the result is wider than the terminal and is not cut: it is for copying
    assert "blake3:" in rest


def test_colours_and_no_color(served: Pair, tmp_path: Path) -> None:
    """Errors are coloured on a terminal, and not with NO_COLOR."""
    coloured = on_terminal(served, "get", "bbo:docs/x", str(tmp_path / "x"), columns=80)
    plain = on_terminal(served, "get", "bbo:docs/x", str(tmp_path / "x"), columns=80, NO_COLOR="1")

    assert (4, 4) == (coloured[0], plain[0])
    assert "\x1b[1;31m" in coloured[1]
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain[1])
    assert "error: no peer is called 'bbo'" in plain[1].replace("\x1b[1m", "").replace(
        "\x1b[0m", ""
    )
