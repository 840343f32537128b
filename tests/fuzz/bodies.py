"""One valid body of every kind, and a small manifest: what fuzzing begins with."""

from __future__ import annotations

from functools import lru_cache

from chunkq.protocol import messages
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.control import Command
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import Head, ManifestBuilder, encode_head, sign_head
from chunkq.protocol.messages import Body
from chunkq.protocol.packet import ReplyKind
from chunkq.protocol.report import LinkReport, OriginShare, PeerReport, Report, TransferReport
from tests.protocol.sites import ALICE, BOB

GEOMETRY = Geometry(3 * 4096 + 5, 4096)
ROOT = b"r" * DIGEST_SIZE_BYTES


@lru_cache(maxsize=1)
def head_of_four() -> Head:
    """The head of a file of four chunks."""
    builder = ManifestBuilder(GEOMETRY)
    for index in range(4):
        builder.add(bytes((index,)) * GEOMETRY.length(index))
    return builder.finish()[0]


def leaves_of_four() -> bytes:
    return b"".join(digest(bytes((index,)) * GEOMETRY.length(index)) for index in range(4))


def manifest_of_four() -> messages.ManifestReply:
    packed = encode_head(head_of_four())
    return messages.ManifestReply(
        head=packed, signature=sign_head(BOB, packed), mode=0o644, mtime_ns=-5
    )


REQUEST_BODIES: list[Body] = [
    messages.Open(instance="i1", share="s", path="a/b", largest_chunk=4096),
    messages.Pages(
        instance="i1", share="s", path="a", root=ROOT, chunk_size=4096, runs=[(0, 2), (4, 1)]
    ),
    messages.Chunks(
        instance="i1",
        priority="urgent",
        zstd=True,
        share="s",
        path="a",
        root=ROOT,
        chunk_size=4096,
        runs=[(0, 2), (4, 1)],
    ),
    messages.List(instance="i1", share="s", path="", cursor="x"),
    messages.Receipt(instance="i1", share="s", path="a", root=ROOT),
    messages.Files(instance="i1", share="s", groups=[("a", ["x", "y"]), ("", ["z"])], largest=4096),
    messages.Probe(instance="i1", size=4096, count=3),
    messages.Statement(instance="i1", line="chunkq-succession:1:alice:AAAA"),
]

REPLY_BODIES: list[tuple[ReplyKind, Body]] = [
    (ReplyKind.MANIFEST, manifest_of_four()),
    (
        ReplyKind.LISTING,
        messages.Listing(
            entries=[
                messages.Entry(name="n", type="file", size=3, mode=0o644, mtime_ns=-1),
                messages.Entry(name="o", type="link", target="n"),
                messages.Entry(name="p", type="dir", mode=0o755),
            ],
            cursor="p",
            omitted=2,
        ),
    ),
    (
        ReplyKind.REFUSAL,
        messages.Refusal(
            reason=messages.RefusalReason.PREPARING,
            detail="d",
            retry_after_ms=5,
            done=1,
            total=2,
            offset_ms=-3,
            epoch_floor=4,
        ),
    ),
    (ReplyKind.STANDING, messages.StandingReply(known=ALICE.site_id, line="x")),
]

REPORTS = [
    Report(
        site="alice",
        host="here",
        pid=7,
        role="requester",
        instance="abcdefghijkl",
        incarnation="0a" * 16,
        software="1",
        started_ms=1,
        at_ms=2,
        draining=True,
        transfers_total=1,
        transfers=[
            TransferReport(
                transfer="1-2",
                state=State.STALLED,
                reason=Reason.BUSY,
                source="bob:s/a",
                origins=[OriginShare(peer="bob", in_flight=2, left="it has another version")],
                in_flight=[(0, 2), (4, 1)],
            )
        ],
        links=[LinkReport(link="default", transport="spool", reason=Reason.SPOOL_UNAVAILABLE)],
        peers=[PeerReport(peer="bob", requests=3, refusals={"busy": 1}, heard_ms=5)],
        counters={"dropped_expired": 3},
    )
]

COMMANDS = [
    Command(incarnation="0a" * 16, action="priority", transfers=["1"], value="bulk", by="op@here"),
    Command(incarnation="0a" * 16, action="freeze", value="peer:bob", by="op@here"),
]
