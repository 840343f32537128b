"""Targets: records on this site's own disk, with their checksums put right, and small files."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from contextlib import closing, suppress
from functools import cache
from itertools import count

from blake3 import blake3
from pydantic import ValidationError

from chunkq.errors import EpochLost
from chunkq.ports import FileIdentity
from chunkq.protocol import cbor
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import encode_head, sign_head
from chunkq.protocol.packet import RequestId
from chunkq.runtime.resuming import look
from chunkq.settings import Link
from chunkq.settings.load import PREFIX, _variables, load
from chunkq.settings.model import check_link_url
from chunkq.storage import hashjobs, instances, manifests, replayfile, statefile
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.places import Places
from chunkq.storage.replays import ReplayStore
from chunkq.storage.statefile import StateFile, StateHeader
from chunkq.transport.rabbitmq.options import RabbitMQOptions, endpoints
from chunkq.transport.spool import names
from chunkq.transport.spool.claims import Claims
from chunkq.transport.spool.directories import SpoolDirectories
from chunkq.transport.spool.options import SpoolOptions
from tests.fuzz.bodies import head_of_four, leaves_of_four, manifest_of_four
from tests.fuzz.files import _ROOT, TRANSFER_ID, _put
from tests.fuzz.target import Target, as_file
from tests.protocol.sites import ALICE, ALICE_CARD, BOB, BOB_CARD

IDENTITY = FileIdentity(device=1, inode=2, size_bytes=3 * 4096 + 5, mtime_ns=4, ctime_ns=5)
CHUNK_BYTES = 4096
PEER = ALICE.site_id
BOOT = b"b" * 16
_numbers = count(1)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# ---------------------------------------------------------------- a transfer's state


def _checked_state(data: bytes) -> object:
    """A header and a slot of any fields under their checksums; then as a transfer resumes."""
    body = data[:200].ljust(statefile.HEADER_SIZE_BYTES - DIGEST_SIZE_BYTES, b"\0")
    slot, bitmap = data[200 : 200 + statefile._SLOT.size], data[200 + statefile._SLOT.size :]
    slot = slot.ljust(statefile._SLOT.size, b"\0")
    number = (int.from_bytes(slot[8:16], "big")) % 2
    with as_file(body + blake3(body, derive_key_context=statefile._HEADER_CONTEXT).digest()) as fd:
        checksum = statefile._slot_checksum(slot, bitmap, TRANSFER_ID)
        os.pwrite(fd, slot + checksum + bitmap, statefile._slot_offset(number))
        with closing(StateFile(os.dup(fd), TRANSFER_ID, "state")) as state:
            state.read_header()
            return look(_Staging(state), [[ALICE_CARD], [BOB_CARD]], lambda *_, **__: None)


class _Part:
    """A part file that is always of the right size (`ports.PartFile`, as much as is asked)."""

    def matches(self, geometry: object) -> bool:
        return True


class _Staging:
    """As much of `ports.Staging` as resuming reads."""

    def __init__(self, state: StateFile) -> None:
        self.state = state
        self.part = _Part()

    def load_manifest(self) -> bytes:
        return _kept_manifest()


@cache
def _kept_manifest() -> bytes:
    return cbor.encode(manifest_of_four())


def _checked_state_seed() -> bytes:
    header = statefile._encode_header(
        StateHeader(ephemeral=b"e" * 32, instance="i", site="bob", share="s", path="a/b"),
        TRANSFER_ID,
    )
    slot = statefile._SLOT.pack(
        statefile._SLOT_MAGIC, 1, 2, 6, head_of_four().root, 3 * 4096 + 5, 4096, 2, 1
    )
    return header[:200] + slot + b"\x03"


# ---------------------------------------------------------------- an origin's records


def _stored_manifest(data: bytes) -> object:
    """The file as it is on disk, and what is read from it."""
    store = _store()
    name = manifests._name(IDENTITY, CHUNK_BYTES)
    _put(data, "manifests", name)
    found = store.load(IDENTITY, CHUNK_BYTES)
    if found is None:
        return None
    return [found.page(page) for page in range(min(4, found.head.geometry.page_count))]


def _store() -> ManifestStore:
    """A new one for each run: what it has open would hide what is on disk."""
    return ManifestStore(_ROOT / "manifests")


def _checked_manifest(data: bytes) -> object:
    """Sizes, head and leaves from the data, key and checksum right."""
    head_size, leaf_count = struct.unpack(">HH", data[:4].ljust(4, b"\0"))
    head, leaves = data[4 : 4 + head_size], data[4 + head_size :]
    fixed = manifests._HEADER.pack(manifests._MAGIC, 1, len(head), leaf_count)
    fixed += manifests._key(IDENTITY, CHUNK_BYTES) + sign_head(BOB, head)
    return _stored_manifest(fixed + manifests._checksum(fixed, head) + head + leaves)


def _stored_manifest_seed() -> bytes:
    head = encode_head(head_of_four())
    fixed = manifests._HEADER.pack(manifests._MAGIC, 1, len(head), 4)
    fixed += manifests._key(IDENTITY, CHUNK_BYTES) + sign_head(BOB, head)
    return fixed + manifests._checksum(fixed, head) + head + leaves_of_four()


def _checked_manifest_seed() -> bytes:
    head = encode_head(head_of_four())
    return struct.pack(">HH", len(head), 4) + head + leaves_of_four()


def _hash_progress(data: bytes) -> object:
    """The lock file of another worker that hashes, with anything in it."""
    path = _put(data, "hashing", "key.hashing")
    directory = os.open(path.parent, os.O_RDONLY)
    holder = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        done, total = hashjobs.read_progress(directory, "hashing", "key", 7) or (0, 0)
        assert 0 <= done <= total
        return done
    finally:
        os.close(holder)
        os.close(directory)


_DURABLE = replayfile._CHECKED_BYTES


def _replay_record(data: bytes) -> object:
    """Durable part and marks from the data, checksum right or not; then it is asked and told."""
    durable = data[1 : 1 + _DURABLE].ljust(_DURABLE, b"\0")
    if data[:1] != b"\xff":
        durable += blake3(durable, derive_key_context=replayfile._CONTEXT).digest()
    volatile = data[1 + _DURABLE :]
    content = durable.ljust(replayfile._UNSYNCED_OFFSET, b"\0") + volatile
    path = _put(content[: replayfile.FILE_SIZE_BYTES], "replays", f"{PEER.hex()}.replay")
    os.truncate(path, replayfile.FILE_SIZE_BYTES)
    store = ReplayStore(path.parent, boot_id=BOOT, wall_ms=lambda: 1_000)
    with closing(store):
        for number, counter in ((0, 5000), (0, (1 << 64) - 1), (1, 1), (2, 2)):
            (epoch,) = struct.unpack(">Q", durable[68 + 24 * number :][:8].ljust(8, b"\0"))
            request = RequestId(epoch, counter)
            with suppress(EpochLost):
                if not store.seen(PEER, request) and store.record(PEER, request):
                    assert store.seen(PEER, request)
    return True


def _replay_record_seeds() -> list[bytes]:
    durable = replayfile._Durable(BOOT, 3)
    durable.epochs[0] = replayfile._Epoch(9, 100, 0)
    durable.epochs[1] = replayfile._Epoch(10, 5000, 50)
    volatile = struct.pack("=Q", 0) + struct.pack("=QQ", 20, 0) * 2
    return [b"\0" + durable.encode(PEER)[:_DURABLE] + volatile]


# ---------------------------------------------------------------- a site's own files


def _checked_ring(data: bytes) -> SiteKeys:
    """Lines of any kind under the right check of a key ring."""
    lines = _text(data).splitlines()
    check = blake3("\n".join(lines).encode(), derive_key_context="chunkq 2 key file")
    text = "\n".join(["chunkq-keys 2", *lines, f"check    {check.digest(length=8).hex()}", ""])
    return KeyRing.decode(text).keys


def _ring_seeds() -> list[bytes]:
    ring = KeyRing(keys=ALICE).rotate("alice", lambda size: b"n" * size, 1_700_000_000_000)
    return ["\n".join(ring.encode().splitlines()[1:-1]).encode()]


def _instance_names(data: bytes) -> object:
    """A file of any name among the labels: passed over, or used."""
    directory = _ROOT / f"instance-{os.getpid()}" / instances.DIRECTORY_NAME
    directory.mkdir(parents=True, exist_ok=True)
    name = data[:255].replace(b"/", b"").replace(b"\0", b"")
    strange = os.path.join(os.fsencode(directory), name)
    if name not in (b"", b".", b".."):
        os.close(os.open(strange, os.O_CREAT | os.O_WRONLY, 0o600))
    with instances.claim_instance(directory.parent, _text(data)) as claimed:
        assert instances._LABEL.fullmatch(claimed.label)
    for each in os.listdir(os.fsencode(directory)):
        os.unlink(os.path.join(os.fsencode(directory), each))
    return True


def _place_file(data: bytes) -> object:
    """A directory that `status` is to look into."""
    _put(data, "state", "places", "0" * 32)
    return Places(_ROOT / "state").all()


def _link_url(data: bytes) -> object:
    """As the command line takes it, as the configuration, and as the transports."""
    url = _text(data)
    check_link_url(url)
    try:
        link = Link(url=url)
    except ValidationError as error:  # `load` turns it into a `ConfigError`
        return str(error)
    if link.transport == "spool":
        return SpoolOptions(root=link.spool_path, site="alice")
    found = endpoints(RabbitMQOptions(url=url, site="alice"))
    assert f":{found[0].password}@" not in link.safe_url
    return found


_VARIABLES = [name.removeprefix(PREFIX) for name in sorted(_variables())]


def _environment(data: bytes) -> object:
    """The first byte chooses a variable, or that its name is there, too; the rest is its value."""
    number, text = data[:1], _text(data[1:])
    if number and number[0] < len(_VARIABLES):
        variable, value = _VARIABLES[number[0]], text
    else:
        variable, _, value = text.partition("=")
    environ = {f"{PREFIX}{variable}": value}
    return load(config_dir=_ROOT / "none", state_dir=_ROOT / "state", environ=environ)


def _environment_seeds() -> list[bytes]:
    values = {"LINK_URL": b"spool:///a", "REQUESTER_PATIENCE": b"5m", "ORIGIN_CONCURRENCY": b"3"}
    chosen = [bytes((_VARIABLES.index(name),)) + value for name, value in values.items()]
    return [*chosen, b"\xffLINK_URL=spool:///a"]


class _Clock:
    def monotonic_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 1_000_000


@cache
def _mailbox() -> tuple[Claims, bytes]:
    """The consumer of one, and where it is. The claims of one run are no more in the next."""
    root = _ROOT / "spool"
    root.mkdir(exist_ok=True)
    options = SpoolOptions(root=root, site="bob")
    directories = SpoolDirectories(options)
    directories.prepare()
    claims = Claims(options, directories, "req.bob", _Clock())
    claims.attach()
    return claims, os.fsencode(root / "req.bob")


#: A consumer that is no more: it has a claim directory, and no lock in it.
_DEAD_CONSUMER = b"000000000000001-" + b"e" * 16
#: Where a file can be put: it waits, is being written, is claimed, is in the place of a claim.
_FOLDERS = (b"new", b"tmp", b"cur/" + _DEAD_CONSUMER, b"cur")
_KINDS = (b"f", b"d", b"p", b"l")


def _spool_file(data: bytes) -> object:
    """A file of any name, kind and place in a mailbox, and a packet behind it, which has to come.

    The first byte says what it is and where.
    """
    claims, mailbox = _mailbox()
    choice = data[0] if data else 0
    kind, folder = _KINDS[choice % 4], _FOLDERS[choice // 4 % 4]
    name, _, body = data[1:].partition(b"\0")
    name = name[:255].replace(b"/", b"")
    if folder != b"new":
        claims._next_sweep_s = 0.0
        os.makedirs(os.path.join(mailbox, folder), exist_ok=True)
    try:
        # Its own claim directory is there already, and a guided fuzzer reads off how it is called.
        if name not in (b"", b".", b"..", os.fsencode(claims._id)):
            _make(os.path.join(mailbox, folder, name), kind, body)
        good = names.PacketName(999_999, next(_numbers) % 10**10, 0, 4, 0, "f" * 16)
        with open(os.path.join(mailbox, b"new", str(good).encode()), "xb") as file:
            file.write(b"good")
        assert any(b"good" in [each.body for each in claims.take(8).claims] for _ in range(3))
        return True
    finally:
        claims._stuck.clear()
        claims._listed.clear()
        for each in (b"new", b"dead", b"tmp", b"cur"):
            _empty(os.path.join(mailbox, each), os.fsencode(claims._id))


def _make(path: bytes, kind: bytes, body: bytes) -> None:
    if kind == b"d":
        os.mkdir(path)
    elif kind == b"p":
        os.mkfifo(path)
    elif kind == b"l":
        os.symlink(body.replace(b"\0", b"")[:200] or b"x", path)
    else:
        with open(path, "wb") as file:
            file.write(body)


def _empty(directory: bytes, keep: bytes) -> None:
    """Remove what is in there, but only what is claimed from the claim directory `keep`."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name == keep:
            for claimed in os.listdir(path):
                if claimed != os.fsencode(names.LOCK):
                    _remove(os.path.join(path, claimed))
        else:
            _remove(path)


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _spool_seeds() -> list[bytes]:
    said = names.PacketName(1, 2, 3_000_000, 4, 0, "0123456789abcdef")
    old = names.PacketName(1, 2, 3, 4, 0, "0123456789abcdef")
    choices = [bytes((choice,)) for choice in range(len(_KINDS) * len(_FOLDERS))]
    consumer = b"\x0d" + names.consumer_id(7, "0" * 16).encode()
    packets = [str(name).encode() + b"\0body" for name in (said, old)]
    return [*(choice + packet for choice in choices for packet in packets), consumer]


TARGETS = [
    Target("checked-state", _checked_state, lambda: [_checked_state_seed()]),
    Target("stored-manifest", _stored_manifest, lambda: [_stored_manifest_seed()]),
    Target("checked-manifest", _checked_manifest, lambda: [_checked_manifest_seed()]),
    Target("hash-progress", _hash_progress, lambda: [b"12 345".ljust(40), b""]),
    Target("replay-record", _replay_record, _replay_record_seeds),
    Target("checked-key-ring", _checked_ring, _ring_seeds),
    Target("instance-name", _instance_names, lambda: [b"abcdefghijkl", b"x"]),
    Target("place-file", _place_file, lambda: [b"/tmp", b"relative"]),
    Target(
        "link-url",
        _link_url,
        lambda: [
            b"amqp://u:hunter2@h:1/v?heartbeat=30&frame_max=8192",
            b"amqps://h/%2f",
            b"spool:///a%20b",
        ],
    ),
    Target("environment", _environment, _environment_seeds),
    Target("spool-file", _spool_file, _spool_seeds),
]
