"""A signed manifest, and the file that it is of."""

from __future__ import annotations

from dataclasses import dataclass

from chunkq.protocol.geometry import Geometry
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, LEAVES_PER_PAGE
from chunkq.protocol.manifest import Head, ManifestBuilder, encode_head, sign_head
from chunkq.protocol.messages import ManifestReply

KEYS = SiteKeys.generate(lambda size: b"k" * size)
PAGE = LEAVES_PER_PAGE * DIGEST_SIZE_BYTES


@dataclass(frozen=True)
class Signed:
    """`leaves` are those of `content`, packed."""

    content: bytes
    head: Head
    leaves: bytes
    reply: ManifestReply

    def page(self, page: int) -> bytes:
        return self.leaves[page * PAGE : (page + 1) * PAGE]


def signed(content: bytes, chunk_size_bytes: int = 4096) -> Signed:
    geometry = Geometry(len(content), chunk_size_bytes)
    builder = ManifestBuilder(geometry)
    for index in range(geometry.chunk_count):
        at = geometry.offset(index)
        builder.add(content[at : at + geometry.length(index)])
    head, leaves = builder.finish()
    encoded = encode_head(head)
    reply = ManifestReply(
        head=encoded,
        signature=sign_head(KEYS, encoded),
        mode=0o640,
        mtime_ns=1_600_000_000_000_000_001,
    )
    return Signed(content, head, leaves, reply)
