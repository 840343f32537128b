"""An origin whose bundles lie: nothing of them appears, and the files come another way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import chunkq
from chunkq.ports import ListingPage
from chunkq.protocol.bundle import BundleBuilder
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.messages import Files
from chunkq.runtime import answers
from chunkq.storage.source import DirectoryShare
from tests.api.hub import Hub

FILES = {"a": b"first", "b": b"second" * 1000, "sub/c": b"", "sub/d": b"fourth"}


@asynccontextmanager
async def offering(root: Path) -> AsyncIterator[Hub]:
    """A site that has pinned itself, as `self`, and offers `FILES`."""
    for name, content in FILES.items():
        path = root / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "spool").mkdir()
    async with Hub.start("self", root, f"spool://{root}/spool") as hub:
        hub.cards["self"] = hub.site.card
        hub.find = lambda _peer, _share, path: root / "files" / path  # type: ignore[method-assign]
        yield hub


async def got(hub: Hub, root: Path) -> chunkq.Result:
    return await hub.site.fetch("self:files/", root / "in", patience_s=30)


def there(root: Path) -> dict[str, bytes]:
    found = root / "in"
    return {
        path.relative_to(found).as_posix(): path.read_bytes()
        for path in found.rglob("*")
        if path.is_file()
    }


async def test_files_come_in_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests break: one request for all of them, and no manifest."""
    asked: list[int] = []
    real = answers.bundles

    def bundles(directory: object, keys: object, peer: object, body: Files, size: int) -> object:
        asked.append(sum(len(names) for _, names in body.groups))
        return real(directory, keys, peer, body, size)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "bundles", bundles)
    async with offering(tmp_path) as hub:
        result = await got(hub, tmp_path)

    assert len(FILES) == sum(asked)
    assert FILES == there(tmp_path)
    assert (4, 0, ()) == (result.files, result.unchanged, result.failures)
    assert sum(map(len, FILES.values())) == result.size_bytes == result.new_bytes
    assert not list((tmp_path / "self" / "state").rglob("*.manifest"))


def flipped_content(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def flipped_signature(body: bytes) -> bytes:
    return body[:45] + bytes([body[45] ^ 1]) + body[46:]


def cut_short(body: bytes) -> bytes:
    return body[:-1]


def too_long(body: bytes) -> bytes:
    return body + b"x"


def nothing(body: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("lie", "event"),
    [
        (flipped_content, "file_bad"),
        (flipped_signature, "bundle_refused"),
        (cut_short, "bundle_refused"),
        (too_long, "bundle_refused"),
        (nothing, "bundle_refused"),
    ],
)
async def test_bundles_that_do_not_hold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[bytes], bytes],
    event: str,
) -> None:
    """Refused, logged, asked for once more; then each file comes under its own manifest."""
    real = BundleBuilder.sign
    monkeypatch.setattr(BundleBuilder, "sign", lambda self, keys: lie(real(self, keys)))
    async with offering(tmp_path) as hub:
        result = await got(hub, tmp_path)

    assert FILES == there(tmp_path)
    assert () == result.failures
    assert hub.events.count(event) >= 2


async def test_a_bundle_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed by the origin and signed by another site: refused."""
    real = BundleBuilder.sign
    other = SiteKeys(signing_seed=b"o" * 32, exchange_secret=b"O" * 32)
    monkeypatch.setattr(BundleBuilder, "sign", lambda self, _keys: real(self, other))
    async with offering(tmp_path) as hub:
        await got(hub, tmp_path)

    assert FILES == there(tmp_path)
    assert "bundle_refused" in hub.events


async def test_names_that_were_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index past the request's end, under the origin's own signature."""
    real = BundleBuilder.sign

    def sign(self: BundleBuilder, keys: SiteKeys) -> bytes:
        self.add(1000, 0o777, 0, b"smuggled")
        return real(self, keys)

    monkeypatch.setattr(BundleBuilder, "sign", sign)
    async with offering(tmp_path) as hub:
        await got(hub, tmp_path)

    assert FILES == there(tmp_path)
    assert "bundle_refused" in hub.events


async def test_a_share_that_reads_no_small_files(tmp_path: Path) -> None:
    """A program's own `Share` need not know bundles: its files come one by one."""
    files = tmp_path / "files"

    class Plain:
        """As little as `chunkq.Share` asks for."""

        def open(self, path: str) -> chunkq.SourceFile:
            return inner.open(path)

        def list(self, path: str, cursor: str | None, limit: int) -> ListingPage:
            return inner.list(path, cursor, limit)

    async with offering(tmp_path) as hub:
        inner = DirectoryShare(files)
        hub.find = lambda *_: Plain()  # type: ignore[method-assign]
        result = await got(hub, tmp_path)

    assert FILES == there(tmp_path)
    assert () == result.failures
    assert len(FILES) == result.files


async def test_grants_are_asked_for_each_file(tmp_path: Path) -> None:
    """One that this peer may not see is not found, beside others in the same request."""
    async with offering(tmp_path) as hub:
        offer = hub.find

        def find(peer: str, share: str, path: str) -> Path | chunkq.Share | None:
            return None if path == "b" else offer(peer, share, path)

        hub.find = find  # type: ignore[method-assign]
        result = await got(hub, tmp_path)

    assert {name: content for name, content in FILES.items() if name != "b"} == there(tmp_path)
    assert [("b", "NotFound")] == [(path, type(e).__name__) for path, e in result.failures]
