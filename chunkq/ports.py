"""What the runtime asks of the world: small Protocols that the adapters implement.

`transport/` implements `Transport` and `Consumer`, `storage/` the files. The runtime and the
simulator know only these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol, runtime_checkable

from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.fileidentity import FileIdentity as FileIdentity  # noqa: PLC0414 as below
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.messages import Entry, RefusalReason
from chunkq.protocol.packet import RequestId
from chunkq.protocol.peering import Heard as Heard  # noqa: PLC0414 told to who imports ports
from chunkq.protocol.peering import News as News  # noqa: PLC0414 told to who imports ports
from chunkq.protocol.peering import PeerRef as PeerRef  # noqa: PLC0414 told to who imports ports
from chunkq.protocol.priority import Priority
from chunkq.protocol.succession import Said

Buffer = bytes | bytearray | memoryview


# ---------------------------------------------------------------- transport


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The address of a queue on a link: a site's requests, or the replies to one instance of it.

    `site` is the name the site goes by on this link; `instance` is empty for requests. Both are
    `[a-z0-9-]`, 1 to 63 characters.
    """

    kind: Literal["req", "rep"]
    site: str
    instance: str = ""

    def __str__(self) -> str:
        return ".".join(part for part in (self.kind, self.site, self.instance) if part)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One packet taken from a queue and not yet acknowledged.

    `tag` rises within one `generation`; a new generation begins when the carrier was lost and
    found again, and everything unacknowledged of an older one is delivered anew.
    """

    body: bytes
    tag: int
    generation: int
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """`max_message_bytes`: the largest packet the carrier takes."""

    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class LinkHealth:
    """Whether packets can move now; if not, a reason word and a sentence for a person."""

    ok: bool
    reason: Literal["", "broker_unreachable", "broker_blocked", "spool_unavailable"] = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes put on the carrier and taken from it, with what its protocol adds (but not TLS)."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.sent_bytes + other.sent_bytes, self.received_bytes + other.received_bytes
        )


class Consumer(Protocol):
    """Deliveries of one mailbox, in the carrier's order, at most `prefetch` unacknowledged."""

    async def receive(self) -> list[Delivery]:
        """Wait for at least one delivery and return all that are there.

        Outlives lost connections. Raises `BrokerRefused` when that cannot help, `MailboxAway` when
        the part of the carrier that holds the mailbox is lost, and `TransportClosed` after `close`.
        """
        ...

    def acknowledge(self, delivery: Delivery) -> None:
        """Let go of `delivery` and every one before it of its generation; older ones: no effect."""
        ...

    def reject(self, delivery: Delivery) -> None:
        """Send this one delivery to the dead letters; it counts as let go."""
        ...

    async def close(self) -> None:
        """Stop consuming; what is unacknowledged goes back to the queue."""
        ...


class Transport(Protocol):
    """What carries packets. Lossy, duplicating and reordering: truth is the bitmap and digests."""

    @property
    def limits(self) -> TransportLimits: ...

    @property
    def health(self) -> LinkHealth: ...

    @property
    def traffic(self) -> Traffic:
        """Since it was made, all its connections together."""
        ...

    async def open(self) -> None:
        """Connect for the first time; afterwards the transport reconnects by itself.

        Raises `BrokerUnreachable` or `BrokerRefused`.
        """
        ...

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Hand a packet to the carrier; returns once the carrier has taken responsibility.

        Any number may wait at once; how many bytes are on the way is bounded inside, later
        callers wait their turn; where they wait, those of a higher `priority` may overtake. After
        `lifetime_s` the carrier may drop it. Raises `Nacked`, `Unroutable`, `OutcomeUnknown`,
        `BrokerRefused` (too large, not permitted).
        """
        ...

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> Consumer:
        """Create the mailbox if need be and begin to take packets from it.

        Raises `BrokerRefused`, `BrokerUnreachable`, and `MailboxAway` where only this mailbox
        cannot be had: another one can.
        """
        ...

    async def depth(self, mailbox: Mailbox) -> int:
        """How many packets wait there; 0 if there is no such mailbox."""
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------- origin's files


class SourceFile(Protocol):
    """One open version of a file that an origin offers. Calls block: use a thread."""

    @property
    def identity(self) -> FileIdentity:
        """As it was when opened."""
        ...

    @property
    def mode(self) -> int:
        """Permission bits, 0..0o777."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of the file. Raises `StorageError`."""
        ...

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        ...

    def changed(self) -> bool:
        """Whether the file is no longer the version that was opened."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Entries of one directory, ordered by name; `cursor` goes on after them, None at the end.

    `omitted`: how many names among them cannot be offered (FIFOs, devices, no UTF-8).
    """

    entries: tuple[Entry, ...]
    cursor: str | None
    omitted: int = 0


@runtime_checkable
class Share(Protocol):
    """What an origin offers under one name. Paths are relative, `/`-separated, already checked.

    Both raise `NotFound` for whatever is not there or must not be seen. Calls block: use a thread.
    """

    def open(self, path: str) -> SourceFile: ...

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage: ...


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One version of a file, whole. `mode`: permission bits, 0..0o777."""

    mode: int
    mtime_ns: int
    content: bytes


@runtime_checkable
class SmallFiles(Protocol):
    """A `Share` that reads many small files of a directory faster than by opening each."""

    def read_small(
        self, directory: str, names: Sequence[str], largest_bytes: int
    ) -> Iterator[SmallFile | RefusalReason]:
        """Each file in its turn, or why it cannot be had: `not_found`, `too_large`, `busy`.

        Not read before it is its turn. Blocks. Raises `StorageError` if the share is gone.
        """
        ...


# ---------------------------------------------------------------- requester's files


class PartFile(Protocol):
    """The unfinished file. Calls block and come from one thread at a time."""

    def matches(self, geometry: Geometry) -> bool:
        """Whether it is there, with the size of this geometry."""
        ...

    def allocate(self, geometry: Geometry, holes: Bitmap | None) -> None:
        """Set the size and reserve room for what is no hole. Raises `DiskFull`."""
        ...

    def resize(self, geometry: Geometry) -> None:
        """Set the size and reserve nothing: for a file of which little may be data."""
        ...

    def discard(self, offset: int, length: int) -> None:
        """Make a run read as zeros, giving its blocks back where the file system can."""
        ...

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one behind the other at `offset`. Raises `DiskFull`, `StorageError`."""
        ...

    def read_into(self, offset: int, data: memoryview) -> int:
        """Fill `data` from `offset`; how much, less only at the end of the file.

        Page-aligned memory lets this and `write` pass by the page cache. Raises `StorageError`.
        """
        ...

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        ...

    def sync(self) -> None:
        """fdatasync. After `SyncFailed`, what was not durable before counts as absent."""
        ...

    def close(self) -> None: ...


class Taken(Enum):
    """What a listing's entry means here."""

    WANTED = auto()
    UNCHANGED = auto()
    DIRECTORY = auto()
    LINK = auto()
    LINK_LEFT = auto()


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that came whole and verified, to be placed at `parts` below the destination."""

    parts: tuple[str, ...]
    mode: int
    mtime_ns: int
    content: Buffer
    content_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferState:
    """One slot of a state file: what is durably known of a transfer.

    `root` is 32 bytes, all zero before a manifest is known; `bitmap` has the geometry's count.
    """

    generation: int
    phase: int
    root: bytes
    size_bytes: int
    chunk_size_bytes: int
    bitmap: Bitmap


class StateFile(Protocol):
    """Two slots written in turn. Calls block."""

    def load(self) -> TransferState | None:
        """The newest valid slot, or None if the file is new. Raises `StateInvalid`."""
        ...

    def store(self, state: TransferState) -> None:
        """Write slot `generation % 2` and fdatasync. Raises `DiskFull`, `SyncFailed`."""
        ...

    def close(self) -> None: ...


class Staging(Protocol):
    """Where one unfinished transfer lives. Calls block; the lock is held until `close`."""

    @property
    def part(self) -> PartFile: ...

    @property
    def state(self) -> StateFile: ...

    @property
    def ephemeral(self) -> bytes:
        """The X25519 secret of this transfer, 32 bytes."""
        ...

    def load_manifest(self) -> bytes | None:
        """What `save_manifest` kept, or None. To be verified by the caller."""
        ...

    def save_manifest(self, manifest: bytes) -> None:
        """Keep the manifest for the next start: atomically, replacing an older one."""
        ...

    def forget_manifest(self) -> None:
        """What was kept does not hold: the next start asks anew, and compares what is here."""
        ...

    def settle(self) -> None:
        """Make what `save_manifest` kept durable, before a commit relies on it."""
        ...

    def published(self) -> bool:
        """Whether the file at the final path is this very part file (a crash came after)."""
        ...

    def destination_digest(self) -> bytes | None:
        """BLAKE3 of a regular file at the final path; None if nothing is there."""
        ...

    def publish(self, *, mode: int, mtime_ns: int, overwrite: bool) -> None:
        """Make the part file appear at the final path, durably.

        Raises `DestinationExists`, `DestinationUnusable`, `SyncFailed`.
        """
        ...

    def settle_published(self) -> None:
        """Make the name at the final path durable. Raises `SyncFailed`."""
        ...

    def free_bytes(self) -> int:
        """Room on the file system for this user, above what stays free and what is set aside.

        Below zero where others have taken more.
        """
        ...

    def remove(self) -> None:
        """Remove every trace of the transfer."""
        ...

    def close(self) -> None: ...


# ---------------------------------------------------------------- origin's memory


class StoredManifest(Protocol):
    """A manifest on the origin's disk, open as long as this lives. Calls block."""

    @property
    def head_bytes(self) -> bytes: ...

    @property
    def signature(self) -> bytes: ...

    def leaves(self, first: int, count: int) -> bytes:
        """Packed leaves, 32 bytes each, unchecked."""
        ...

    def page(self, page: int) -> bytes:
        """The packed leaves of a page, checked against the head. Raises `StorageError`."""
        ...


class HashLock(Protocol):
    """The right to hash one version of a file, on this host."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Tell the other workers how far it is."""
        ...

    def release(self) -> None: ...


class ManifestStore(Protocol):
    """Manifests by file identity and chunk size, shared by the workers of a host. Calls block."""

    def load(self, identity: FileIdentity, chunk_size_bytes: int) -> StoredManifest | None: ...

    def save(
        self,
        identity: FileIdentity,
        chunk_size_bytes: int,
        head_bytes: bytes,
        signature: bytes,
        leaves: bytes,
    ) -> StoredManifest: ...

    def discard(self, identity: FileIdentity, chunk_size_bytes: int) -> None:
        """Forget it: the file does not match it any more."""
        ...

    def try_lock(self, identity: FileIdentity, chunk_size_bytes: int) -> HashLock | None:
        """None while another process hashes it."""
        ...

    def progress(self, identity: FileIdentity, chunk_size_bytes: int) -> tuple[int, int] | None:
        """Bytes done and in all of a hash under way in another process."""
        ...


class ReplayRecord(Protocol):
    """Which requests were seen, across restarts. `peer` is a site id, 32 bytes."""

    def seen(self, peer: bytes, request_id: RequestId) -> bool:
        """Raises `EpochLost`."""
        ...

    def record(self, peer: bytes, request_id: RequestId) -> bool:
        """Durably; False if it was seen before (another worker was first)."""
        ...


class Usage(Protocol):
    """What peers were sent of late, by their first ids. All raise `StorageError`; `sync` blocks."""

    def take(self, account: bytes, size_bytes: int, limit_bytes: int) -> int:
        """Count bytes that will be sent: 0, or how many ms until the limit (0: none) allows it."""
        ...

    def settle(self, account: bytes, change_bytes: int, sent_bytes: int) -> bool:
        """What was counted differs by so much from what was sent; True if it is time to sync."""
        ...

    def sync(self, account: bytes) -> None: ...


class Identity(Protocol):
    """This site's own keys, as they are at this moment."""

    @property
    def ring(self) -> KeyRing: ...

    def refresh(self) -> None:
        """Look whether they were changed. Raises `IdentityError`."""
        ...


class Directory(Protocol):
    """Who is pinned, and what each may see, as of the last `refresh`."""

    def refresh(self) -> None: ...

    def peer(self, site_id: bytes) -> PeerRef | None: ...

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        """None where it is not offered to this peer."""
        ...

    def chunk_size(self, share: str) -> int:
        """The preferred chunk size in bytes."""
        ...

    def heed(self, statement: Said) -> Heard:
        """Let a peer's statement about its keys have its effect; blocks.

        Raises `StatementInvalid` where it has none, `StorageError`.
        """
        ...


# ---------------------------------------------------------------- what is going on


class Log(Protocol):
    """A stable event name and fields; what may be written of them is telemetry's business."""

    def __call__(self, event: str, /, *, level: str = "info", **fields: object) -> None: ...


# ---------------------------------------------------------------- time and chance


class Clock(Protocol):
    """Both clocks of a machine: one never goes backwards, one is shared with the peer."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes."""

    def __call__(self, size: int, /) -> bytes: ...
