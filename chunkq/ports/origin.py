"""What an origin remembers: manifests, requests, what it sent; who it is and whom it knows."""

from __future__ import annotations

from typing import Protocol

from chunkq.ports.source import Share
from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.packet import RequestId
from chunkq.protocol.peering import Heard, PeerRef
from chunkq.protocol.succession import Said


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

    async def heed(self, statement: Said) -> Heard:
        """Let a peer's statement about its keys have its effect.

        Raises `StatementInvalid` where it has none, `StorageError`.
        """
        ...
