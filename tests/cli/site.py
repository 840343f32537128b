"""A site for the tests of the command line: directories, and a way to run commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chunkq.protocol.identity import SiteKeys, encode_card
from tests.support.quick import Done, run_inside


@dataclass(frozen=True, slots=True)
class Site:
    """`run` calls the program's `main` in this process, `spawn` starts it as one of its own."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    def run(self, *args: str) -> Done:
        return run_inside(*self._directories, *args)

    def spawn(self, *args: str, stdin: str = "", **environ: str) -> Done:
        ended = subprocess.run(
            [sys.executable, "-m", "chunkq.cli.main", *self._directories, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environ},
            check=False,
        )
        return Done(ended.returncode, ended.stdout, ended.stderr)

    @property
    def _directories(self) -> list[str]:
        return ["--config-dir", str(self.config), "--state-dir", str(self.state)]


def make_card(name: str, seed: int = 7) -> str:
    """The card of a site whose keys follow from `seed`."""
    return encode_card(SiteKeys.generate(lambda size: bytes([seed]) * size), name)
