"""Reports in the state directory: replaced whole, bounded, swept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import MAX_TEXT_CHARS, MAX_TRANSFERS, Report, TransferReport
from chunkq.storage.reports import MAX_SIZE_BYTES, STALE_S, SWEEP_AGE_S, Reports

NOW_S = 1_000_000.0
INSTANCE = "abcdefghijkl"


def transfer(source: str = "beta:docs/a") -> TransferReport:
    return TransferReport(
        transfer="1", state=State.STALLED, reason=Reason.PEER_SILENT, source=source
    )


def report(instance: str = INSTANCE, *transfers: TransferReport) -> Report:
    return Report(
        site="alpha",
        host="here",
        pid=7,
        role="requester",
        instance=instance,
        incarnation="00" * 16,
        software="0.1.0",
        started_ms=1,
        at_ms=2,
        transfers=list(transfers),
        transfers_total=len(transfers),
    )


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    return Reports(tmp_path, wall_s=lambda: NOW_S)


def path_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "reports" / name


def test_the_newest_report_of_each_process_is_read(tmp_path: Path, reports: Reports) -> None:
    """A report takes the place of the one before, and nothing else is left in the directory."""
    reports.write(report(INSTANCE, transfer()))
    reports.write(report(INSTANCE))
    reports.write(report("mmmmmmmmmmmm", transfer()))

    assert [report(INSTANCE), report("mmmmmmmmmmmm", transfer())] == reports.read_all()
    assert {f"{INSTANCE}.json", "mmmmmmmmmmmm.json"} == set(os.listdir(tmp_path / "reports"))


def test_before_anything_was_reported_there_is_nothing(tmp_path: Path, reports: Reports) -> None:
    """Reading, removing and sweeping make no directory."""
    reports.remove(INSTANCE)

    assert ([], 0) == (reports.read_all(), reports.sweep())
    assert [] == os.listdir(tmp_path)


def test_who_ends_well_takes_its_report_away(reports: Reports) -> None:
    """And only its own."""
    reports.write(report(INSTANCE))
    reports.write(report("mmmmmmmmmmmm"))
    reports.remove(INSTANCE)

    assert [report("mmmmmmmmmmmm")] == reports.read_all()


def test_what_is_no_report_is_left_out(tmp_path: Path, reports: Reports) -> None:
    """Half a file, another's name, a link, a directory, what is too large: the others are read."""
    reports.write(report(INSTANCE))
    whole = path_of(tmp_path, f"{INSTANCE}.json").read_bytes()
    path_of(tmp_path, "half.json").write_bytes(whole[:-5])
    path_of(tmp_path, "other.json").write_bytes(whole)
    path_of(tmp_path, "link.json").symlink_to(path_of(tmp_path, f"{INSTANCE}.json"))
    path_of(tmp_path, "directory.json").mkdir()
    path_of(tmp_path, "large.json").write_bytes(whole.ljust(MAX_SIZE_BYTES + 1))
    path_of(tmp_path, "notes.txt").write_bytes(whole)

    assert [report(INSTANCE)] == reports.read_all()


def test_a_report_is_stale_by_the_age_of_its_file(tmp_path: Path, reports: Reports) -> None:
    """What hangs or died says nothing any more; a clock that was set back makes nobody dead."""
    for name, age_s in (("fresh", STALE_S), ("hangs", STALE_S + 1), ("future", -50.0)):
        reports.write(report(name))
        os.utime(path_of(tmp_path, f"{name}.json"), times=(NOW_S - age_s,) * 2)

    assert [("fresh", False), ("future", False), ("hangs", True)] == [
        (filed.report.instance, filed.stale) for filed in reports.look()
    ]


def test_what_the_dead_left_is_swept_in_time(tmp_path: Path, reports: Reports) -> None:
    """Reports and what was half written; nothing that chunkq has not named."""
    for name, age_s in (
        ("fresh.json", SWEEP_AGE_S - 1),
        ("dead.json", SWEEP_AGE_S + 1),
        ("dead.json.77.tmp", SWEEP_AGE_S + 1),
        ("fresh.json.77.tmp", 0.0),
        ("Notes.json.old", SWEEP_AGE_S + 1),
    ):
        path_of(tmp_path, name).parent.mkdir(exist_ok=True)
        path_of(tmp_path, name).write_bytes(b"{}")
        os.utime(path_of(tmp_path, name), times=(NOW_S - age_s,) * 2)

    assert 2 == reports.sweep()
    assert {"fresh.json", "fresh.json.77.tmp", "Notes.json.old"} == set(
        os.listdir(tmp_path / "reports")
    )


def test_a_report_fits_whatever_its_transfers_are_called(reports: Reports) -> None:
    """The last of them are left out, counted all the same, and the rest is still read."""
    long = [transfer("beta:docs/" + "\u0001" * (MAX_TEXT_CHARS - 10))] * MAX_TRANSFERS
    reports.write(report(INSTANCE, *long))
    (found,) = reports.read_all()

    assert MAX_TRANSFERS == found.transfers_total
    assert 0 < len(found.transfers) < MAX_TRANSFERS
    assert long[: len(found.transfers)] == found.transfers


def test_a_report_is_written_nowhere_else(tmp_path: Path, reports: Reports) -> None:
    """An instance that would be a path is an error."""
    with pytest.raises(StorageError, match="cannot name"):
        reports.write(report("../escaped"))
    assert [] == os.listdir(tmp_path)
