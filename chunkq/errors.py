"""The one tree of errors.

Each class says whose fault it is, whether trying again helps, and the exit code of a command that
ends with it. The message is for a person: what was wrong and where. `hint` says what to do.
Foreign errors (OSError, pika's, pydantic's) are translated once, in the adapter that meets them.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import ClassVar


class Fault(Enum):
    """Who can mend it."""

    USER = "user"
    PEER = "peer"
    BROKER = "broker"
    HOST = "host"
    CHUNKQ = "chunkq"


class ExitCode(IntEnum):
    """What a command returns to the shell. Documented in the README; never renumbered."""

    OK = 0
    ERROR = 1
    USAGE = 2
    PARTIAL = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    INTEGRITY = 6
    STOPPED = 130


class ChunkqError(Exception):
    """The root: catch this to catch everything that chunkq raises on purpose."""

    fault: ClassVar[Fault] = Fault.CHUNKQ
    retry: ClassVar[bool] = False
    exit_code: ClassVar[ExitCode] = ExitCode.ERROR

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# ---------------------------------------------------------------- what the user gave


class UsageError(ChunkqError):
    """An argument that cannot be meant."""

    fault = Fault.USER
    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A configuration file or variable that does not hold; nothing was started."""


class IdentityError(ChunkqError):
    """Keys that are missing, unreadable, too widely readable, or not a pair."""

    fault = Fault.USER


class CardInvalid(UsageError):
    """A site card that does not parse or whose signature is wrong."""


class StatementInvalid(UsageError):
    """A succession or revocation that does not hold, or is about no key that is pinned here."""


# ---------------------------------------------------------------- what the peer answered


class NotFound(ChunkqError):
    """The origin has no such share or path, or this site may not see it: it does not say which."""

    fault = Fault.PEER
    exit_code = ExitCode.NOT_FOUND


class NotPermitted(ChunkqError):
    """The origin knows this site and refuses the request."""

    fault = Fault.PEER
    exit_code = ExitCode.NOT_FOUND


class PeerRefused(ChunkqError):
    """The origin refused for a reason that trying again does not mend (unsupported, too large)."""

    fault = Fault.PEER


class PeerDistrusted(ChunkqError):
    """The peer's keys were revoked, or contradict each other: nothing is asked of it."""

    fault = Fault.PEER
    exit_code = ExitCode.NOT_FOUND


class SourceChanging(ChunkqError):
    """The source file changes faster than it can be read; no version of it could be obtained."""

    fault = Fault.PEER
    retry = True


class OtherVersion(ChunkqError):
    """One of several origins has another version of the file than the one being fetched."""

    fault = Fault.PEER
    retry = True


class IntegrityError(ChunkqError):
    """Bytes that do not match the signed manifest, again and again."""

    fault = Fault.PEER
    exit_code = ExitCode.INTEGRITY


# ---------------------------------------------------------------- the way there


class Unreachable(ChunkqError):
    """Nobody answers; what is on disk stays and the same command goes on from there."""

    fault = Fault.PEER
    retry = True
    exit_code = ExitCode.UNREACHABLE


class PeerSilent(Unreachable):
    """The broker takes our requests and no reply comes."""


class BrokerUnreachable(Unreachable):
    """No connection to the broker."""

    fault = Fault.BROKER


class MailboxAway(BrokerUnreachable):
    """The broker is there, and the one of its nodes that holds this mailbox is not."""


class BrokerRefused(ChunkqError):
    """The broker answered and will not serve us: password, permission, other arguments, size."""

    fault = Fault.BROKER
    exit_code = ExitCode.UNREACHABLE


class TransportError(ChunkqError):
    """A packet was not taken over by the carrier. Three subclasses, three things to do."""

    fault = Fault.BROKER
    retry = True
    exit_code = ExitCode.UNREACHABLE


class Nacked(TransportError):
    """The carrier said no (queue full, resource limit): back off, then send again."""


class Unroutable(TransportError):
    """No queue takes this address: the other side has never started, or its queue expired."""


class OutcomeUnknown(TransportError):
    """The connection died before the carrier answered: it may have the packet or not."""


class TransportClosed(TransportError):
    """The transport was closed by this process while the call was waiting."""

    fault = Fault.CHUNKQ


# ---------------------------------------------------------------- this machine


class StorageError(ChunkqError):
    """The file system said no. The message names the path and the call."""

    fault = Fault.HOST


class DiskFull(StorageError):
    """No room. The transfer pauses and goes on unaided once there is some."""

    retry = True


class OverQuota(StorageError):
    """A file is larger than what its peer may take of this disk; nothing was allocated."""

    fault = Fault.USER


class SyncFailed(StorageError):
    """An fsync failed: pages may be gone. Never retried; what was not durable counts as absent."""

    retry = True


class DestinationExists(StorageError):
    """Something is at the final path already; it was left as it is."""

    fault = Fault.USER


class DestinationUnusable(StorageError):
    """The destination is missing, read-only, a FIFO, a device, or on another file system."""

    fault = Fault.USER


class UnsafeName(StorageError):
    """A name from a peer that must not be created here."""

    fault = Fault.PEER


class TransferBusy(StorageError):
    """Another process holds this transfer."""

    fault = Fault.USER


class StateInvalid(StorageError):
    """A state file whose slots are both bad, or that belongs to another transfer."""


# ---------------------------------------------------------------- packets


class PacketError(ChunkqError):
    """A packet that is dropped. `code` is a stable word for counters and logs."""

    fault = Fault.PEER
    code: ClassVar[str] = "malformed"


class Malformed(PacketError):
    """Wrong magic, kind, length or body."""


class Misaddressed(PacketError):
    """Sealed for another recipient."""

    code = "misaddressed"


class UnknownSender(PacketError):
    """The sender is not a pinned peer (or no longer)."""

    code = "unknown_sender"


class SenderDistrusted(UnknownSender):
    """The sender's keys were revoked, or contradict each other: it gets no answer."""

    code = "sender_distrusted"


class Expired(PacketError):
    """Outside its lifetime, by this machine's clock."""

    code = "expired"


class Replayed(PacketError):
    """Seen before, or so old that it cannot be told."""

    code = "replayed"


class EpochLost(Replayed):
    """The record of this epoch is gone, or too old to be kept: only epochs above a floor count."""

    def __init__(self, message: str, *, epoch_floor: int) -> None:
        super().__init__(message)
        self.epoch_floor = epoch_floor


class BadSignature(PacketError):
    """The signature does not hold."""

    code = "bad_signature"


class BadSeal(PacketError):
    """The body does not open under the derived key."""

    code = "bad_seal"


class BadFrame(PacketError):
    """A packed body that is not one plain zstd frame of the expected length."""

    code = "bad_frame"


class OverBudget(PacketError):
    """The peer, or everybody unverified together, sends more than this worker will look at."""

    code = "over_budget"


# ---------------------------------------------------------------- the ends that are not failures


class Stopped(ChunkqError):
    """Stopped on request; running the same command goes on from here."""

    fault = Fault.USER
    retry = True
    exit_code = ExitCode.STOPPED


class Paused(Stopped):
    """Somebody paused the transfer; it goes on when it is resumed."""


class Cancelled(Stopped):
    """Somebody gave the transfer up; it goes on only if it is asked for again."""


class PeerFrozen(Stopped):
    """Somebody here wants nothing asked of the peer, or over its link. `reason`: which of them."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class PartialFailure(ChunkqError):
    """Some files of several failed; the others are in place."""

    fault = Fault.PEER
    exit_code = ExitCode.PARTIAL
