"""`chunkq status --watch`: drawn again in place on a terminal, else a line for each change."""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Final

from chunkq.cli import console
from chunkq.cli.statustable import cells_of, fields_of, lines_of
from chunkq.errors import ExitCode

if TYPE_CHECKING:
    from chunkq.api.operations import Operations
    from chunkq.api.views import Filter, TransferRow

#: Processes report about once a second.
EVERY_S: Final = 1.0
#: Lines of the terminal that are not rows: the counts, and one for the cursor.
_OTHER_LINES: Final = 2


def watch(
    operations: Operations,
    wanted: Filter,
    *,
    as_json: bool,
) -> int:
    """Until Ctrl-C, and then its exit code."""
    with _interruptible() as interrupted:
        if sys.stdout.isatty() and not as_json:
            _draw(operations, wanted, interrupted)
        else:
            _tell(operations, wanted, interrupted, as_json=as_json)
    return ExitCode.STOPPED


@contextmanager
def _interruptible() -> Iterator[Callable[[float], bool]]:
    """Waits so many seconds, or until Ctrl-C, and says if it was that; a second one ends at once.

    An exception could come where nobody hears of it, as in a destructor, and be lost.
    """
    interrupted = Event()

    def note(_number: int, _frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted.wait
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(
    operations: Operations,
    wanted: Filter,
    interrupted: Callable[[float], bool],
    *,
    as_json: bool,
) -> None:
    shown: Mapping[str, TransferRow] = {}
    while True:
        shown = tell_changes(operations, wanted, shown, as_json=as_json)
        if interrupted(EVERY_S):
            return
        _check_reader()
        operations.refresh()


def _check_reader() -> None:
    """Where nothing changes nothing is written, and so nothing would tell that nobody reads.

    Raises `BrokenPipeError`.
    """
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    if any(what & select.POLLERR for _, what in poller.poll(0)):
        raise BrokenPipeError


def tell_changes(
    operations: Operations,
    wanted: Filter,
    shown: Mapping[str, TransferRow],
    *,
    as_json: bool,
) -> Mapping[str, TransferRow]:
    """A line for each row that is not as it was, and for each that went; the rows now."""
    from chunkq.cli.status import rows_of

    found = {row.id: row for row in rows_of(operations, wanted)}
    for row_id, row in found.items():
        known = shown.get(row_id)
        if as_json:
            if row != known:
                console.emit("transfer", fields_of(row))
        elif known is None or _news(row) != _news(known):
            detail = f"  {console.clean(row.detail)}" if row.detail else ""
            console.out("  ".join(cells_of(row)) + detail)
    for row_id in shown.keys() - found.keys():
        if as_json:
            console.emit("gone", {"id": row_id})
        else:
            console.out(f"{row_id}  is no longer shown")
    sys.stdout.flush()
    return found


def _news(row: TransferRow) -> TransferRow:
    """What is worth a line: not each second's rate."""
    tenth = row.percent // 10
    return replace(
        row, rate_bytes_per_s=0, eta_s=None, done_bytes=tenth, chunks_present=0, progress_ms=0
    )


def _draw(operations: Operations, wanted: Filter, interrupted: Callable[[float], bool]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from chunkq.cli.status import rows_of

    screen = Console()

    def picture() -> Text:
        rows = rows_of(operations, wanted)
        room = max(1, screen.height - _OTHER_LINES)
        lines = [line[: screen.width] for line in lines_of(rows)] if rows else []
        if len(lines) > room:
            hidden = len(lines) - room + 1
            lines = [*lines[: room - 1], f"and {hidden} lines more: make the window higher"]
        counts = operations.counts()
        told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        return Text("\n".join([told or "nothing is under way, and no job waits", *lines]))

    with Live(picture(), console=screen, auto_refresh=False, transient=False) as live:
        while not interrupted(EVERY_S):
            operations.refresh()
            live.update(picture(), refresh=True)
