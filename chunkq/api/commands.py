"""Command lines that do what the page can, to be pasted into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from chunkq.api.rows import STAGED
from chunkq.api.views import TransferRow
from chunkq.protocol.condition import State
from chunkq.settings.places import Directories


class Commands:
    """`chunkq` with the directories of this site, where those are not the usual ones."""

    def __init__(self, directories: Directories) -> None:
        usual = Directories.standard()
        self._program = ["chunkq"]
        if directories.config != usual.config:
            self._program += ["--config-dir", str(directories.config)]
        if directories.state != usual.state:
            self._program += ["--state-dir", str(directories.state)]

    def line(self, *words: str) -> str:
        """Quoted for a POSIX shell."""
        return shlex.join([*self._program, *words])

    def of(self, row: TransferRow) -> Mapping[str, str]:
        """What can be done with a transfer as it stands: the action's name, and its line."""
        found = {"status": self.line("status", row.id)}
        if row.id.startswith(STAGED):
            return found | self._of_staged(row)
        if not row.state.ended and row.state is not State.PAUSED:
            found["pause"] = self.line("pause", row.id)
        if row.state is State.PAUSED:
            found["resume"] = self.line("resume", row.id)
        if row.state in (State.FAILED, State.CANCELLED):
            found["retry"] = self.line("retry", row.id)
        if row.state not in (State.DONE, State.CANCELLED):
            found["cancel"] = self.line("cancel", row.id)
            found["cancel and drop"] = self.line("cancel", "--drop", row.id)
            for word in ("urgent", "normal", "bulk"):
                if word != row.priority:
                    found[f"priority {word}"] = self.line("prio", word, row.id)
        if row.sources and row.destination:
            found["get"] = self.line("get", *row.sources, row.destination)
        return found

    def _of_staged(self, row: TransferRow) -> dict[str, str]:
        if not row.sources or not row.destination:
            return {}
        return {"resume": self.line("get", *row.sources, row.destination)}
