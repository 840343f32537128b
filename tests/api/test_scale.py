"""Ten thousand files, and a thousand transfers that wait: nothing grows but what has to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import chunkq
from tests.api.hub import Hub

FILES, PER_DIRECTORY, SIZE_BYTES = 10_000, 1000, 4096
PENDING = 1000
#: Of a transfer that waits: its lock, its part file, its staging and the directory above.
DESCRIPTORS_EACH = 5
#: Sockets, threads, the spool, what the test itself has.
DESCRIPTORS_BESIDE = 100


def content(number: int) -> bytes:
    return number.to_bytes(8, "big") * (SIZE_BYTES // 8)


@pytest.mark.large
async def test_scale_10000_files_of_4_kib(tmp_path: Path) -> None:
    """All of them arrive as they are; the same command again finds them there."""
    files = tmp_path / "files"
    for number in range(FILES):
        path = files / f"{number // PER_DIRECTORY:02}" / f"{number:05}"
        if not number % PER_DIRECTORY:
            path.parent.mkdir(parents=True)
        path.write_bytes(content(number))
    (tmp_path / "spool").mkdir()
    async with Hub.start("self", tmp_path, f"spool://{tmp_path}/spool") as hub:
        hub.cards["self"] = hub.site.card
        hub.find = lambda _peer, _share, path: files / path  # type: ignore[method-assign]
        first = await hub.site.fetch("self:files/", tmp_path / "in", patience_s=60)
        again = await hub.site.fetch("self:files/", tmp_path / "in", patience_s=60)

    assert (FILES, 0, ()) == (first.files, first.unchanged, first.failures)
    assert (0, FILES, ()) == (again.files, again.unchanged, again.failures)
    arrived = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())
    assert FILES == len(arrived)
    assert [] == [
        path for number, path in enumerate(arrived) if content(number) != path.read_bytes()
    ]


@pytest.mark.large
async def test_scale_1000_transfers_pending(tmp_path: Path) -> None:
    """They wait for a silent peer; another's file comes meanwhile, and all of them can stop."""
    (tmp_path / "spool").mkdir()
    offered = tmp_path / "offered"
    offered.write_bytes(os.urandom(600_000))
    inbox = tmp_path / "in"
    inbox.mkdir()
    url = f"spool://{tmp_path}/spool"
    async with Hub.start("silent", tmp_path, url) as silent:
        card = silent.site.card
    async with Hub.start("bob", tmp_path, url) as bob, Hub.start("alice", tmp_path, url) as alice:
        alice.befriend(bob)
        bob.befriend(alice)
        alice.cards["silent"] = card
        bob.find = lambda *_: offered  # type: ignore[method-assign]
        before = len(os.listdir("/proc/self/fd"))
        waiting = [
            alice.site.fetch(f"silent:files/{number}", inbox / str(number), patience_s=3600)
            for number in range(PENDING)
        ]
        await all_wait(waiting)
        descriptors = len(os.listdir("/proc/self/fd")) - before
        await alice.site.fetch("bob:files/live", inbox / "live", patience_s=60)
        for transfer in waiting:
            transfer.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        after = len(os.listdir("/proc/self/fd")) - before

    assert offered.read_bytes() == (inbox / "live").read_bytes()
    assert descriptors <= PENDING * DESCRIPTORS_EACH + DESCRIPTORS_BESIDE
    assert after <= DESCRIPTORS_BESIDE


async def all_wait(transfers: list[chunkq.Transfer]) -> None:
    async with asyncio.timeout(120):
        for transfer in transfers:
            while not transfer.progress().waiting:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.05)
