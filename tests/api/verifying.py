"""Two sites in one process, for the tests of what becomes of received files."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chunkq
from chunkq.api.verification import Verified
from chunkq.protocol.checking import Checked, Verdict

KIB = 1 << 10
MIB = 1 << 20
CHUNK = 256 * KIB


@dataclass
class World:
    """South gets what north has in `files`; `sent` are the chunks that left north."""

    root: Path
    files: Path
    inbox: Path
    south: chunkq.Site
    cards: dict[str, str]
    sent: list[int] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.root / "south" / "state"

    def offer(self, name: str, content: bytes) -> Path:
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    async def get(self, name: str, content: bytes) -> Path:
        """North has a file of that content, and south gets it."""
        self.offer(name, content)
        await self.south.fetch(f"north:files/{name}", self.inbox / name, patience_s=20)
        self.sent.clear()
        return self.inbox / name

    async def get_tree(self, files: dict[str, bytes]) -> Path:
        for name, content in files.items():
            self.offer(f"tree/{name}", content)
        result = await self.south.fetch("north:files/tree/", self.inbox / "tree", patience_s=20)
        assert () == result.failures
        self.sent.clear()
        return self.inbox / "tree"

    async def verify(self, *paths: Path, **options: Any) -> Verified:
        return await self.south.verify(*paths, patience_s=20, **options)

    async def repair(self, *paths: Path, overwrite: bool = False) -> Verified:
        return await self.verify(*paths, repair=True, overwrite=overwrite)


@asynccontextmanager
async def world(
    root: Path, *, serving: bool = True, commit_size_bytes: int = 64 * MIB
) -> AsyncIterator[World]:
    """Both sites; north serves if wanted. State that is there is taken up."""
    for name in ("spool", "files", "inbox"):
        (root / name).mkdir(exist_ok=True)
    cards: dict[str, dict[str, str]] = {"north": {}, "south": {}}
    sent: list[int] = []

    def log(event: str, /, *, level: str = "info", **fields: object) -> None:
        if event == "chunks_sent":
            sent.append(int(str(fields["count"])))

    async with (
        _site(root, "north", cards["north"], log, commit_size_bytes) as north,
        _site(root, "south", cards["south"], log, commit_size_bytes) as south,
    ):
        cards["north"]["south"], cards["south"]["north"] = south.card, north.card
        made = World(root, root / "files", root / "inbox", south, cards["south"], sent)
        async with serves(north, root / "files") if serving else _nobody():
            yield made


@asynccontextmanager
async def _nobody() -> AsyncIterator[None]:
    yield


def _site(root: Path, name: str, cards: dict[str, str], log: Any, commit_size_bytes: int) -> Any:
    settings = chunkq.Settings(
        name=name,
        directories={"config": root / name / "config", "state": root / name / "state"},
        links={"default": {"url": f"spool://{root}/spool"}},
        requester={"commit_size": commit_size_bytes},
    )
    secret = root / f"{name}.secret"
    if not secret.exists():
        secret.write_bytes(secrets.token_bytes(64))
    pieces = iter((secret.read_bytes()[:32], secret.read_bytes()[32:]))
    keys = chunkq.SiteKeys.generate(lambda _: next(pieces))
    return chunkq.Site.open(settings, keys=keys, peers=cards, log=log)


@asynccontextmanager
async def serves(site: chunkq.Site, files: Path) -> AsyncIterator[None]:
    ready = asyncio.Event()

    def find(peer: str, share: str, path: str) -> Path | None:
        found = files / path
        return found if share == "files" and found.exists() else None

    serving = asyncio.ensure_future(site.serve(find, on_ready=ready.set))
    await ready.wait()
    try:
        yield
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


@contextmanager
def unnoticed(path: Path) -> Iterator[None]:
    """What is done within leaves the file's time as it was, as a failing disk does."""
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rot(path: Path, *offsets: int) -> None:
    """Turn one bit at each of these places."""
    with unnoticed(path), path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


def verdicts(found: Verified) -> dict[str, Verdict]:
    """What is wrong, by the name of the file."""
    return {Path(each.path).name: each.verdict for each in found.wrong}


def only(found: Verified) -> Checked:
    (checked,) = found.wrong
    return checked
