"""Control bodies: what a well-formed one is, beyond being CBOR."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chunkq.errors import Malformed
from chunkq.protocol import cbor
from chunkq.protocol.limits import (
    MAX_BYTES_PER_REQUEST,
    MAX_CHUNK_COUNT,
    MAX_CHUNK_SIZE_BYTES,
    MAX_CHUNKS_PER_REQUEST,
    MAX_LISTING_ENTRIES,
    MAX_PAGES_PER_REQUEST,
)
from chunkq.protocol.messages import (
    Body,
    Chunks,
    Entry,
    Files,
    List,
    Listing,
    ManifestReply,
    Open,
    Pages,
    Receipt,
    Refusal,
    RefusalReason,
)

ASKED: dict[str, Any] = {"instance": "i1", "share": "photos", "path": "a/b", "root": b"r" * 32}
RUNS: dict[str, Any] = {**ASKED, "chunk_size": 4096}

EXAMPLES: list[Body] = [
    Open(instance="i1", share="s", path="", largest_chunk=4096),
    Pages(**RUNS, runs=[(0, 3), (3, 1), (60, 2)]),
    Chunks(**RUNS, runs=[(0, 3), (MAX_CHUNK_COUNT - 1, 1)]),
    List(instance="i1", share="s", path="dir"),
    List(instance="i1", share="s", path="dir", cursor="last", zstd=True),
    Receipt(**ASKED),
    Files(instance="i1", share="s", groups=[("", ["a"]), ("d/e", ["b", "c"])], largest=4096),
    ManifestReply(head=b"head", signature=b"s" * 64, mode=0o644, mtime_ns=-1),
    Listing(entries=[]),
    Listing(
        entries=[
            Entry(name="a", type="file", size=1, mode=0o600, mtime_ns=2**62),
            Entry(name="d", type="dir"),
            Entry(name="l", type="link", target="../a"),
        ],
        cursor="l",
    ),
    *(Refusal(reason=reason, detail="why") for reason in RefusalReason),
    Refusal(reason=RefusalReason.EXPIRED, offset_ms=-(2**40), epoch_floor=2**64 - 1),
]


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: type(body).__name__)
def test_every_body_survives_the_wire(body: Body) -> None:
    """Each kind of body comes back equal, and of the same types."""
    again = cbor.decode(type(body), cbor.encode(body))
    assert body == again
    assert repr(body) == repr(again)


def test_a_request_that_says_nothing_takes_no_zstd() -> None:
    """What a requester does not know it does not get; and saying no costs no byte."""
    asked = List(instance="i1", share="s", path="")
    assert b"zstd" not in cbor.encode(asked)
    assert cbor.decode(List, cbor.encode(asked)).zstd is False


def test_runs_are_pairs_after_the_wire() -> None:
    """Runs arrive as a list of tuples, so that they unpack and compare like those put in."""
    body = Chunks(**RUNS, runs=[(0, 3), (5, 1)])
    assert [(0, 3), (5, 1)] == cbor.decode(Chunks, cbor.encode(body)).runs


BAD_RUNS = [
    pytest.param([], id="none"),
    pytest.param([[0, 0]], id="empty-run"),
    pytest.param([[-1, 2]], id="negative"),
    pytest.param([[0, 2], [1, 2]], id="overlapping"),
    pytest.param([[0, 1], [0, 1]], id="twice"),
    pytest.param([[5, 1], [0, 1]], id="descending"),
    pytest.param([[MAX_CHUNK_COUNT, 1]], id="past-the-last-index"),
    pytest.param([[MAX_CHUNK_COUNT - 1, 2]], id="runs-over-the-last-index"),
    pytest.param([[0, 2**32]], id="2^32-chunks"),
    pytest.param([[0, 2**63]], id="2^63-chunks"),
    pytest.param([[0, 65]], id="one-too-many"),
    pytest.param([[0, 64], [100, 1]], id="one-too-many-in-all"),
    pytest.param([[2 * i, 1] for i in range(65)], id="too-many-runs"),
    pytest.param([[0]], id="half-a-pair"),
    pytest.param([[0, 1, 2]], id="a-triple"),
    pytest.param([0, 1], id="bare-numbers"),
    pytest.param([[True, 1]], id="boolean"),
    pytest.param([["0", 1]], id="text"),
    pytest.param([{"0": 1}], id="map"),
    pytest.param(None, id="null"),
]


@pytest.mark.parametrize("model", [Pages, Chunks])
@pytest.mark.parametrize("runs", BAD_RUNS)
def test_bad_runs_are_malformed(model: type[Body], runs: object) -> None:
    """Runs must ascend, stay apart, stay below the limits, and be pairs of whole numbers."""
    data = cbor2.dumps({**RUNS, "runs": runs}, canonical=True)
    with pytest.raises(Malformed):
        cbor.decode(model, data)


def test_largest_requests_are_accepted() -> None:
    """The limits themselves are inside."""
    assert [(0, 64)] == Pages(**RUNS, runs=[(0, MAX_PAGES_PER_REQUEST)]).runs
    apart = [(2 * i, 1) for i in range(MAX_CHUNKS_PER_REQUEST)]
    assert apart == Chunks(**RUNS, runs=apart).runs


def test_request_for_too_many_bytes_is_refused() -> None:
    """Chunks of 4 MiB are bounded by their bytes before their number."""
    fields = {**ASKED, "chunk_size": MAX_CHUNK_SIZE_BYTES}
    most = MAX_BYTES_PER_REQUEST // MAX_CHUNK_SIZE_BYTES
    assert [(0, most)] == Chunks(**fields, runs=[(0, most)]).runs
    with pytest.raises(ValidationError, match="bytes in one request"):
        Chunks(**fields, runs=[(0, most + 1)])


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), min_size=1, max_size=6))
def test_runs_are_accepted_only_if_they_name_each_index_once(runs: list[tuple[int, int]]) -> None:
    """Accepted runs name at most 64 indices, ascending, none twice; others are refused."""
    named = [index for first, count in runs for index in range(first, first + count)]
    fine = named == sorted(set(named)) and len(named) <= MAX_CHUNKS_PER_REQUEST
    try:
        Chunks(**RUNS, runs=runs)
    except ValidationError:
        assert not fine
    else:
        assert fine


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        pytest.param(Receipt, {**ASKED, "root": b"r" * 31}, id="short-root"),
        pytest.param(Receipt, {**ASKED, "root": "r" * 32}, id="root-as-text"),
        pytest.param(Receipt, {**ASKED, "share": "A"}, id="capital-share"),
        pytest.param(Receipt, {**ASKED, "share": "a/b"}, id="share-with-a-slash"),
        pytest.param(Receipt, {**ASKED, "instance": "i1\n"}, id="instance-with-a-line-feed"),
        pytest.param(Receipt, {**ASKED, "path": b"a"}, id="path-as-bytes"),
        pytest.param(Receipt, {**ASKED, "path": "a" * 5000}, id="long-path"),
        pytest.param(Receipt, {**ASKED, "extra": 1}, id="unknown-field"),
        pytest.param(Chunks, {**RUNS, "chunk_size": 2048, "runs": [[0, 1]]}, id="small-chunks"),
        pytest.param(Chunks, {**RUNS, "chunk_size": 2**23, "runs": [[0, 1]]}, id="large-chunks"),
        pytest.param(Entry, {"name": "l", "type": "link"}, id="link-without-target"),
        pytest.param(Entry, {"name": "l", "type": "link", "target": ""}, id="link-to-nothing"),
        pytest.param(Entry, {"name": "f", "type": "file", "target": "x"}, id="file-with-target"),
        pytest.param(Entry, {"name": "f", "type": "fifo"}, id="fifo"),
        pytest.param(Entry, {"name": "", "type": "file"}, id="no-name"),
        pytest.param(Entry, {"name": "f", "type": "file", "size": 2**63}, id="2^63-bytes"),
        pytest.param(Entry, {"name": "f", "type": "file", "mode": 0o4755}, id="setuid"),
        pytest.param(Refusal, {"reason": "because"}, id="unknown-reason"),
        pytest.param(Refusal, {"reason": 1}, id="reason-as-a-number"),
        pytest.param(Refusal, {"reason": "busy", "retry_after_ms": -1}, id="negative-delay"),
        pytest.param(
            ManifestReply,
            {"head": b"", "signature": b"s" * 63, "mode": 0, "mtime_ns": 0},
            id="short-signature",
        ),
        pytest.param(
            Listing,
            {"entries": [{"name": "a", "type": "dir"}] * (MAX_LISTING_ENTRIES + 1)},
            id="too-many-entries",
        ),
    ],
)
def test_bad_fields_are_malformed(model: type[Body], fields: dict[str, object]) -> None:
    """A field outside its bounds, of another type, or unknown is refused."""
    with pytest.raises(Malformed):
        cbor.decode(model, cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [("d", [])],
        [("d", ["n"] * 1025)],
        [("d", ["n"] * 1024), ("e", ["n"])],
        [("d", ["n" * 256])],
        [("d" * 4097, ["n"])],
        [("d", "n")],
        [("d", ["n"], "x")],
    ],
)
def test_files_that_are_none_or_too_many(groups: list[Any]) -> None:
    """No group, no name, 1025 names in all, a name or path too long, another shape."""
    with pytest.raises(ValidationError):
        Files(instance="i", share="s", groups=groups, largest=4096)
