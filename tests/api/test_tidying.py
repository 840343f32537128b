"""A transfer that ends between the publishing and the removal of its last file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.storage.staging import MANIFEST_SUFFIX, PART_SUFFIX, PUBLISH_SUFFIX, Staging
from tests.api.verifying import CHUNK, World, world

SUFFIXES = (PUBLISH_SUFFIX, PART_SUFFIX, MANIFEST_SUFFIX)


async def fetch_until_tidying(here: World, path: Path, removed: Iterable[str]) -> None:
    """Get the file, published, and end when only the files of these suffixes are removed."""

    def ends(staging: Staging) -> None:
        for suffix in removed:
            Path(staging.path_of(suffix)).unlink(missing_ok=True)
        raise StorageError("killed here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, "remove", ends)
        with pytest.raises(StorageError, match="killed here"):
            await here.south.fetch("north:files/big", path, patience_s=20)


@pytest.mark.parametrize("removed", range(len(SUFFIXES) + 1))
async def test_ended_while_it_tidied_up(tmp_path: Path, removed: int) -> None:
    """After any number of its files is gone, the next run fetches nothing and leaves nothing."""
    content = os.urandom(8 * CHUNK)

    async with world(tmp_path, commit_size_bytes=CHUNK) as here:
        here.offer("big", content)
        path = here.inbox / "big"
        await fetch_until_tidying(here, path, SUFFIXES[:removed])
        here.sent.clear()

        result = await here.south.fetch("north:files/big", path, patience_s=20)

        assert (0, []) == (result.new_bytes, here.sent)
        assert ["big"] == os.listdir(here.inbox)
        assert content == path.read_bytes()


async def test_a_part_file_that_somebody_removed(tmp_path: Path) -> None:
    """What is at the final path is another file then: it does not count as published."""
    content = os.urandom(8 * CHUNK)

    async with world(tmp_path, commit_size_bytes=CHUNK) as here:
        here.offer("big", content)
        path = here.inbox / "big"
        await fetch_until_tidying(here, path, [PART_SUFFIX])
        path.write_bytes(bytes(len(content)))

        await here.south.fetch("north:files/big", path, overwrite=True, patience_s=20)

        assert content == path.read_bytes()
