"""Reports: strict, bounded, and the same over CBOR and JSON."""

from __future__ import annotations

import pytest

from chunkq.errors import PacketError
from chunkq.protocol import cbor
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import MAX_TRANSFERS, OriginShare, Report, TransferReport

TRANSFER = TransferReport(
    transfer="0000000000001-00000000",
    state=State.STALLED,
    reason=Reason.PEER_SILENT,
    detail="no answer for 12 s",
    source="beta:docs/a.bin",
    size_bytes=1000,
    origins=[OriginShare(peer="beta", new_bytes=10)],
    in_flight=[(3, 2)],
)
REPORT = Report(
    site="alpha",
    host="here",
    pid=7,
    role="requester",
    instance="abcdefghijkl",
    incarnation="00" * 16,
    software="0.1.0",
    started_ms=1,
    at_ms=2,
    transfers=[TRANSFER],
    counters={"dropped_expired": 3},
)


def test_a_report_survives_the_wire_and_the_file() -> None:
    """As CBOR in a packet, as JSON in the state directory."""
    assert cbor.decode(Report, cbor.encode(REPORT)) == REPORT
    assert Report.model_validate_json(REPORT.model_dump_json(), strict=True) == REPORT


def test_too_many_transfers_are_refused() -> None:
    """A report is bounded, whoever wrote it."""
    raw = REPORT.model_dump() | {"transfers": [TRANSFER.model_dump()] * (MAX_TRANSFERS + 1)}
    with pytest.raises(ValueError, match="at most"):
        Report.model_validate(raw, strict=True)


def test_what_is_no_report_is_refused_by_name() -> None:
    """Only a typed error comes of it."""
    with pytest.raises(PacketError):
        cbor.decode(Report, cbor.encode(TRANSFER))
