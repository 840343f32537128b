"""A tree of directories and links from an origin that lies about names; where it may not lead.

Nobody waits for it to be complete: what counts is that nothing is made outside of its destination.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from chunkq.errors import ChunkqError, StorageError
from chunkq.ports import NewFile
from chunkq.protocol import cbor
from chunkq.protocol.messages import Entry, Listing
from chunkq.runtime.tree import TreeFetch, TreeOrder
from chunkq.storage.destination import Destination
from chunkq.storage.treeplace import TreePlace
from tests.simulation.inodes import Link
from tests.simulation.workload import SHARE

if TYPE_CHECKING:
    from tests.simulation.fetching import Desk

TREE: Final = "tree"
#: Below the share of an origin.
DIRECTORIES: Final = ("tree/a", "tree/b/c", "tree/d/e", "tree/f")
#: A link that a user has in the destination, and where it leads.
OWN_LINK: Final = ("d", "../../elsewhere")
PATIENCE_S: Final = 30.0
#: Names and targets that lead elsewhere, in one way or another.
_NAMES: Final = ("..", "../up", "../../up", "/up", "a/../../up", ".", ".chunkq", "b/../../../up")
_TARGETS: Final = ("../up", "/etc", "../../elsewhere", "a/../../../up", "b/../..")


def lay_out_origin(site: str) -> None:
    """What an origin has to offer: directories, nothing in them."""
    for path in DIRECTORIES:
        os.makedirs(f"/sim/{site}/share/{path}", exist_ok=True)


def lay_out_requester(site: str) -> None:
    """A link where a directory is to be made."""
    os.makedirs(f"/sim/{site}/inbox/{TREE}", exist_ok=True)
    os.makedirs(f"/sim/{site}/elsewhere", exist_ok=True)
    os.symlink(OWN_LINK[1], f"/sim/{site}/inbox/{TREE}/{OWN_LINK[0]}")


def bad_listing(random: Random, body: bytes, index: int) -> tuple[bytes, int]:
    """The same listing with a name, or a link, that leads elsewhere."""
    listing = cbor.decode(Listing, body)
    if random.random() < 0.6:
        lie = Entry(name=random.choice(_NAMES), type="dir")
    else:
        lie = Entry(name="link", type="link", target=random.choice(_TARGETS))
    entries = [*listing.entries, lie]
    return cbor.encode(listing.model_copy(update={"entries": entries})), index


class _NoFiles:
    """There are none in the tree, so none is placed."""

    def place(self, files: Sequence[NewFile]) -> list[StorageError | bool]:
        raise AssertionError("no file was listed")

    def free_bytes(self) -> int:
        raise AssertionError("no file was listed")


async def get_tree(desk: Desk) -> None:
    """One run of the command, whatever comes of it."""
    peer = next(iter(desk.peers.values()))
    order = TreeOrder(
        share=SHARE,
        path=TREE,
        links=True,
        concurrency=1,
        patience_s=PATIENCE_S,
        priority="normal",
        staged=lambda parts: False,
    )
    try:
        with Destination.for_tree(f"/sim/{desk.site}/inbox/{TREE}") as destination:
            place = TreePlace(destination, overwrite=False)
            fetch = TreeFetch(
                peer,
                order,
                place,
                _NoFiles(),
                desk.pool,
                fetch_file=_no_file,
                placed=lambda files: None,
                counted=lambda file, new: None,
            )
            await fetch.run()
    except ChunkqError as error:
        desk.world.trace(desk.world.clock.now_s, f"{desk.process.name} tree ends: {error.message}")


async def _no_file(parts: tuple[str, ...], entry: Entry) -> None:
    raise AssertionError(f"no file was listed: {parts} {entry}")


def leads_out(path: str, inode: object) -> bool:
    """Whether a link in the tree, other than the user's own, leads out of it."""
    below = f"/inbox/{TREE}/"
    if not isinstance(inode, Link) or path == below + OWN_LINK[0]:
        return False
    leads_to = os.path.normpath(os.path.join(os.path.dirname(path), inode.target))
    return not (leads_to + "/").startswith(below)
