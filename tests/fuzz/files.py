"""Targets: what lies on a disk or a stick, and what a person types."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from contextlib import closing
from functools import cache
from itertools import accumulate
from pathlib import Path

from chunkq.api.source import Source
from chunkq.ports import TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.identity import encode_card
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.names import check_link_target, check_path
from chunkq.settings.load import load
from chunkq.settings.places import Directories
from chunkq.settings.quantity import (
    parse_duration,
    parse_rate,
    parse_size,
    show_duration,
    show_rate,
    show_size,
)
from chunkq.settings.registry import Registry
from chunkq.storage.jobs import JobState, JobStore
from chunkq.storage.received import ReceivedLog
from chunkq.storage.statefile import (
    HEADER_SIZE_BYTES,
    StateFile,
    StateHeader,
    _slot_offset,
    decode_header,
)
from chunkq.transport.spool import names
from tests.fuzz.target import Target, as_file
from tests.protocol.sites import ALICE, BOB

TRANSFER_ID = "0f" * 16
SPOOL_NAME = str(names.PacketName(1, 2, 3, 4, 5, "0123456789abcdef"))
JOB_ID = f"{1:013d}-{0:08x}"
#: One directory for all runs of this process: files are small and rewritten each time.
_ROOT = Path(tempfile.mkdtemp(prefix="chunkq-fuzz-"))
_MAKER = os.getpid()


@atexit.register
def _clean_up() -> None:
    """Forks leave it to their parent: others are to find it."""
    if os.getpid() == _MAKER:
        shutil.rmtree(_ROOT, ignore_errors=True)


@cache
def _place(*parts: str) -> Path:
    path = _ROOT.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _put(data: bytes, *parts: str) -> Path:
    """The file in this place, with this content and no other."""
    path = _place(*parts)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


#: What a header and a slot of the seed have, checksums apart: the zeros between are left out, so
#: that the inputs stay small.
_HEADER_BYTES, _SUM_BYTES, _SLOT_BYTES = 120, DIGEST_SIZE_BYTES, 112


def _state_file(data: bytes) -> object:
    """Header, its checksum, and two slots, each put where it belongs; none is put right."""
    ends = accumulate((_HEADER_BYTES, _SUM_BYTES, _SLOT_BYTES, _SLOT_BYTES))
    header, checksum, first, second = (
        data[max(0, end - size) : end]
        for end, size in zip(
            ends, (_HEADER_BYTES, _SUM_BYTES, _SLOT_BYTES, _SLOT_BYTES), strict=True
        )
    )
    raw = header.ljust(HEADER_SIZE_BYTES - DIGEST_SIZE_BYTES, b"\0") + checksum
    decode_header(raw, TRANSFER_ID)
    with as_file(raw) as fd:
        for number, slot in enumerate((first, second)):
            os.pwrite(fd, slot, _slot_offset(number))
        with closing(StateFile(os.dup(fd), TRANSFER_ID, "state")) as state:
            return state.read_header(), state.load()


def _state_seed() -> bytes:
    bitmap = Bitmap(20)
    bitmap.fill(3, 5)
    with as_file(b"") as fd, closing(StateFile(os.dup(fd), TRANSFER_ID, "state")) as state:
        state.write_header(StateHeader(ephemeral=b"e" * 32, share="s", path="a/b"))
        for generation in (1, 2):
            state.store(
                TransferState(
                    generation=generation,
                    phase=2,
                    root=b"r" * DIGEST_SIZE_BYTES,
                    size_bytes=20 * 4096,
                    chunk_size_bytes=4096,
                    bitmap=bitmap,
                )
            )
        header = os.pread(fd, HEADER_SIZE_BYTES, 0)
        slots = [os.pread(fd, _SLOT_BYTES, _slot_offset(number)) for number in (0, 1)]
    return b"".join((header[:_HEADER_BYTES], header[-_SUM_BYTES:], *slots))


def _spool_name(data: bytes) -> object:
    name = os.fsdecode(data)
    names.created_ms(name)
    names.is_consumer_id(name)
    packet = names.parse_packet(name)
    if packet is not None:
        assert names.parse_packet(str(packet)) == packet
    return packet


def _path(data: bytes) -> object:
    parts = check_path(_text(data))
    assert not {"", ".", ".."} & set(parts)
    return parts


def _link(data: bytes) -> object:
    place, _, target = _text(data).partition("\0")
    return check_link_target(check_path(place), target)


def _configuration(data: bytes) -> object:
    _put(data, "config", "config.toml")
    return load(config_dir=_ROOT / "config", state_dir=_ROOT / "state", environ={})


def _registry(kind: str, data: bytes) -> object:
    config = _put(data, f"registry-{kind}", kind, "fuzzed.toml").parents[1]
    directories = Directories(config=config, state=_ROOT / "state")
    return Registry(directories).problems


def _peer_seed() -> bytes:
    lines = [
        f'card = "{encode_card(ALICE, "alice")}"',
        'link = "default"',
        'address = "alice"',
        "added_at = 2026-01-01T00:00:00Z",
        "follow = false",
        "[trouble]",
        'what = "conflict"',
        "since = 2026-01-03T00:00:00Z",
        "[[earlier]]",
        f'card = "{encode_card(BOB, "alice")}"',
        "left_at = 2026-01-02T00:00:00Z",
        "until = 2026-02-02T00:00:00Z",
    ]
    return "\n".join(lines).encode()


def _quantity(data: bytes) -> object:
    """What each unit of text gives reads back as it is shown; `ValueError` is pydantic's wish."""
    text = _text(data)
    if text.endswith("/s"):
        return parse_rate(show_rate(parse_rate(text)))
    if text.endswith(("s", "m", "h", "d")):
        return parse_duration(show_duration(parse_duration(text)))
    size = parse_size(text)
    assert size == parse_size(show_size(size))
    return size


def _job(data: bytes) -> object:
    store = _job_store()
    _put(data, "jobs", JobState.PENDING, f"{JOB_ID}.json")
    return store.jobs(JobState.PENDING)


@cache
def _job_store() -> JobStore:
    """One for all: it keeps nothing of what it reads."""
    return JobStore(_ROOT)


def _job_seeds() -> list[bytes]:
    job: dict[str, object] = {
        "job_id": JOB_ID,
        "sources": ["a:s/f"],
        "destination": "/x",
        "options": {"links": True},
    }
    return [json.dumps(job).encode()]


def _received(data: bytes) -> object:
    _put(data, "received", "received.jsonl")
    return ReceivedLog(_ROOT / "received").find("/a")


TARGETS = [
    Target("state-file", _state_file, lambda: [_state_seed()]),
    Target("spool-name", _spool_name, lambda: [SPOOL_NAME.encode()]),
    Target("path", _path, lambda: [b"a/b.txt", "ä/ü".encode()]),
    Target("link-target", _link, lambda: [b"a/b\0../c"]),
    Target(
        "configuration",
        _configuration,
        lambda: [b'name = "a"\n[links.slow]\nurl = "amqp://u:p@h:1/v"\nlargest_chunk = "64KiB"\n'],
    ),
    Target("peer-file", lambda data: _registry("peers", data), lambda: [_peer_seed()]),
    Target("share-file", lambda data: _registry("shares", data), lambda: [b'path = "/srv"\n']),
    Target("quantity", _quantity, lambda: [b"64KiB", b"1.5s", b"10d", b"10Mbit/s"], (ValueError,)),
    Target("source", lambda data: Source.parse(_text(data)), lambda: [b"alice:docs/a/b"]),
    Target("job", _job, _job_seeds),
    Target("received", _received, lambda: [b'{"path": "/a", "size_bytes": 1}\n']),
]
