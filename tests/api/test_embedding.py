"""docs/embedding.md: the server that stands there, taken from there, and run."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import chunkq
from chunkq.protocol.succession import Reason
from chunkq.storage.transfers import list_transfers
from tests.support.rabbitmq import DEADLINE_S, until

DOCUMENT = Path(__file__).parents[2] / "docs" / "embedding.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Silence and pauses that a test can wait for.
QUICK = {"patience_s": 0.5, "retry_s": 0.05}
MIB = 1 << 20


@pytest.fixture(scope="module")
def source() -> str:
    """The module that the blocks of the last section make."""
    _, _, section = DOCUMENT.read_text().partition("## A whole server\n")
    return "\n\n".join(BLOCK.findall(section))


@pytest.fixture(scope="module")
def module(source: str) -> Any:
    made = ModuleType("clone")
    exec(compile(source, str(DOCUMENT), "exec"), made.__dict__)
    return made


class Federation:
    """Some servers, a spool between them, and the way of their packets."""

    def __init__(self, module: Any, root: Path) -> None:
        self.module = module
        self.root = root
        self.servers: dict[str, Any] = {}
        #: What was sent to a server that does not run.
        self.sent: list[tuple[str, bytes]] = []
        (root / "spool").mkdir()

    def make(self, name: str) -> Any:
        """A server, or what it is after a restart."""
        link = f"spool://{self.root}/spool"
        return self.module.Server(name, self.root / name, link, self._deliver, **QUICK)

    async def _deliver(self, alias: str, packet: bytes) -> None:
        self.sent.append((alias, packet))
        if alias in self.servers:
            self.servers[alias].receive(packet)

    @asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator[list[Any]]:
        """Servers that run and know each other."""
        servers = [self.make(name) for name in names]
        ready = [asyncio.Event() for _ in names]
        running = [
            asyncio.create_task(server.run(event.set))
            for server, event in zip(servers, ready, strict=True)
        ]
        try:
            await asyncio.gather(*(event.wait() for event in ready))
            for server in servers:
                for other in servers:
                    if other is not server and other.name not in server.cards:
                        key = bytes(other.signing.verify_key)
                        server.meet(other.name, other.site.card, key)
            self.servers |= dict(zip(names, servers, strict=True))
            yield servers
        finally:
            for task in running:
                task.cancel()
            for name, server, task in zip(names, servers, running, strict=True):
                with suppress(asyncio.CancelledError):
                    await task
                self.servers.pop(name, None)
                server.database.close()

    def file(self, size_bytes: int = MIB) -> Path:
        path = self.root / os.urandom(4).hex()
        path.write_bytes(os.urandom(size_bytes))
        return path


@pytest.fixture
def federation(module: Any, tmp_path: Path) -> Federation:
    return Federation(module, tmp_path)


def states(server: Any) -> list[tuple[str, str]]:
    """Each wanted file's state and note."""
    return [tuple(row) for row in server.database.execute("SELECT state, note FROM wanted")]


async def ends(server: Any, state: str) -> str:
    """Wait until all that it wants is so; returns the last note."""
    await until(lambda: {state} == {each for each, _ in states(server)})
    return states(server)[-1][1]


def test_every_block_of_the_page_is_python() -> None:
    """Those that are not run, too; and what they take from the library is there."""
    text = DOCUMENT.read_text()
    blocks = BLOCK.findall(text.partition("## A whole server\n")[0])

    assert len(blocks) >= 6
    for block in blocks:
        compile(block, str(DOCUMENT), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        for name in re.findall(r"\bchunkq\.([A-Z]\w+)", block):
            assert name in chunkq.__all__


def test_the_server_is_clean(source: str, tmp_path: Path) -> None:
    """By the project's own rules, but for what is between the blocks."""
    path = tmp_path / "clone.py"
    path.write_text(source)
    ruff = str(Path(sys.executable).with_name("ruff"))
    config = str(DOCUMENT.parents[1] / "pyproject.toml")
    command = [ruff, "check", "--no-cache", "--config", config, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == found.returncode, found.stdout


async def test_a_file_follows_its_packet(federation: Federation) -> None:
    """To every clone that it was posted for, and to no other, who is shown the packet."""
    async with federation.running("north", "south", "east", "west") as servers:
        north, south, east, west = servers
        file = federation.file()
        file_id = await north.post(file, ["south", "east"])
        await ends(south, "here")
        await ends(east, "here")
        _, packet = federation.sent[-1]
        west.receive(packet)

        assert "not for us" in await ends(west, "withdrawn")
        for server in (south, east):
            assert file.read_bytes() == server.place_of("north", file_id).read_bytes()
        assert not west.place_of("north", file_id).exists()
        south.receive(packet)  # again: it is known
        assert [("here", "")] == states(south)


async def test_packets_that_nobody_has_signed(federation: Federation) -> None:
    """Changed, of a stranger, in another's name, or with a name that leads elsewhere."""
    async with federation.running("north", "south") as (north, south):
        await north.post(federation.file(1), ["south"])
        await ends(south, "here")
        _, packet = federation.sent[-1]
        stranger = federation.make("stranger")
        said = packet[64:].replace(b'"north"', b'"nobody"')
        escaping = re.sub(rb'"file": "[^"]*"', b'"file": "../../x"', packet[64:])
        bad = [
            packet[:64] + packet[64:].replace(b'"digest": "', b'"digest": "0'),
            bytes(stranger.signing.sign(packet[64:])),
            bytes(stranger.signing.sign(said)),
            bytes(north.signing.sign(escaping)),
        ]
        stranger.database.close()
        for each in bad:
            with pytest.raises(PermissionError):
                south.receive(each)

        assert [("here", "")] == states(south)


async def test_a_file_that_is_not_what_was_announced(federation: Federation) -> None:
    """The origin serves what lies there now; the packet said otherwise."""
    async with federation.running("north", "south") as (north, south):
        file = federation.file()
        digest = federation.module.digest_of
        federation.module.digest_of = lambda path: digest(path)[::-1]
        try:
            file_id = await north.post(file, ["south"])
        finally:
            federation.module.digest_of = digest

        assert "announced" in await ends(south, "failed")
        assert not south.place_of("north", file_id).exists()


async def test_a_restart_in_the_middle(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way goes on; what was there is not asked again; a lost note is no harm."""
    file = federation.file(48 * MIB)
    half_way = asyncio.Event()
    asked = []
    usual = federation.module.Server.find

    def find(server: Any, *request: str) -> Path | None:
        asked.append(request)
        if len(asked) > 8:
            half_way.set()
        return usual(server, *request)  # type: ignore[no-any-return]

    monkeypatch.setattr(federation.module.Server, "find", find)
    async with federation.running("north") as (north,):
        async with federation.running("south") as (south,):
            meet(north, south)
            file_id = await north.post(file, ["south"])
            async with asyncio.timeout(DEADLINE_S):
                await half_way.wait()
        (staged,) = list_transfers(south.root / "media")
        assert 0 < staged.chunks_present < staged.chunks_total
        assert not south.place_of("north", file_id).exists()

        for _ in range(2):
            async with federation.running("south") as (south,):
                await ends(south, "here")
                south.database.execute("UPDATE wanted SET state = 'pending'")
        assert file.read_bytes() == south.place_of("north", file_id).read_bytes()
        assert [] == list_transfers(south.root / "media")


def meet(*servers: Any) -> None:
    for one in servers:
        for other in servers:
            if one is not other:
                one.meet(other.name, other.site.card, bytes(other.signing.verify_key))


async def test_a_peer_that_is_away(federation: Federation) -> None:
    """It is asked again until it is back; meanwhile the row says why."""
    async with federation.running("south") as (south,):
        async with federation.running("north") as (north,):
            meet(north, south)
        north = federation.make("north")
        file = federation.file()
        file_id = await north.post(file, ["south"])
        north.database.close()
        await until(lambda: states(south)[0][1] != "")
        assert "pending" == states(south)[0][0]

        async with federation.running("north"):
            await ends(south, "here")
        assert file.read_bytes() == south.place_of("north", file_id).read_bytes()


async def test_keys_change_and_end(federation: Federation) -> None:
    """Followed at once, remembered over a restart; after a revocation nothing is asked."""

    async def send(north: Any, south: Any) -> None:
        await north.post(federation.file(), ["south"])
        await ends(south, "here")

    async with federation.running("north", "south") as (north, south):
        old = north.site.card
        assert {"south": True} == await north.rotate()
        assert [north.site.card, old] == south.cards["north"]
        await send(north, south)
    async with federation.running("north", "south") as (north, south):
        assert [north.site.card, old] == south.cards["north"]
        await send(north, south)
        revoked: Callable[..., Any] = north.ring.revoke
        north.site.use_keys(revoked("north", Reason.COMPROMISED, time.time_ns() // 10**6))
        assert {"south": True} == await north.site.announce()
        assert {} == south.cards
        await north.post(federation.file(), ["south"])
        await until(lambda: states(south)[-1][0] == "held")
    assert {} == federation.make("south").cards
