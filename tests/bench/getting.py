"""Our side of a comparison: `chunkq serve` runs, `chunkq get` is measured from start to exit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import timed
from tests.e2e.processes import Pair, Process, random_file, same, wait_until


@dataclass
class Getting:
    """One file offered, got as often as asked. `peaks` are the largest resident sizes in MiB."""

    pair: Pair
    worker: Process
    source: Path
    target: Path
    requester_mib: float = 0.0

    @classmethod
    @contextmanager
    def over(cls, root: Path, link: str, size_bytes: int) -> Iterator[Getting]:
        """Two sites on a link, the origin serving with its usual logging."""
        pair = Pair.make(root, link, link)
        try:
            source = pair.files / "file"
            random_file(source, size_bytes)
            worker = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
            wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
            worker.watch_memory()
            yield cls(pair, worker, source, pair.inbox / "file")
        finally:
            pair.end()

    def unknown(self) -> float:
        """Get it as a file that the origin has never seen: it is hashed first."""
        os.utime(self.source)
        return self.known()

    def known(self) -> float:
        """Get it; the origin has its manifest if it was got before."""
        taken = timed(self._get)
        assert same(self.source, self.target), "what arrived is not what was sent"
        assert self.worker.popen.poll() is None, self.worker.log.read_text()
        self.target.unlink()
        return taken

    @property
    def peaks(self) -> dict[str, float]:
        return {"requester": self.requester_mib, "origin": self.worker.peak_mib}

    def _get(self) -> None:
        process = self.pair.alice.start("--quiet", "get", "bob:files/file", str(self.target))
        process.watch_memory()
        assert process.wait() == 0, process.log.read_text()
        self.requester_mib = max(self.requester_mib, process.peak_mib)
