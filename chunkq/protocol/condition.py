"""In what state a transfer is and why, in words from closed sets, and what to do about it.

These are the words of the command line, the page, the metrics and the runbook.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a transfer stands, for a person."""

    QUEUED = "queued"
    OPENING = "opening"
    RUNNING = "running"
    PAUSED = "paused"
    STALLED = "stalled"
    RECOVERING = "recovering"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more comes of it unless somebody asks for it."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class Reason(StrEnum):
    """Why a transfer is in its state. `docs/operations.md` has a section for each."""

    # the way there
    BROKER_UNREACHABLE = "broker_unreachable"
    BROKER_BLOCKED = "broker_blocked"
    BROKER_REFUSED = "broker_refused"
    SPOOL_UNAVAILABLE = "spool_unavailable"
    # the peer
    PEER_SILENT = "peer_silent"
    BUSY = "busy"
    PREPARING = "preparing"
    NO_CREDIT = "no_credit"
    NOT_FOUND = "not_found"
    NOT_PERMITTED = "not_permitted"
    SOURCE_CHANGED = "source_changed"
    CLOCK_SKEW = "clock_skew"
    EXPIRED = "expired"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    HASH_MISMATCH = "hash_mismatch"
    PEER_DISTRUSTED = "peer_distrusted"
    # this site
    DISK_FULL = "disk_full"
    DISK_ERROR = "disk_error"
    OVER_QUOTA = "over_quota"
    DESTINATION_EXISTS = "destination_exists"
    DESTINATION_UNUSABLE = "destination_unusable"
    IN_USE = "in_use"
    WAITING_TURN = "waiting_turn"
    NO_WORKER = "no_worker"
    WORKER_DIED = "worker_died"
    WORKER_SILENT = "worker_silent"
    SOME_FILES_FAILED = "some_files_failed"
    MISTAKEN = "mistaken"
    INTERNAL = "internal"
    # people
    BY_OPERATOR = "by_operator"
    INTERRUPTED = "interrupted"
    PEER_FROZEN = "peer_frozen"
    LINK_FROZEN = "link_frozen"

    @property
    def advice(self) -> str:
        """What to do, in one sentence."""
        return _ADVICE[self]


_ADVICE: Final = {
    Reason.BROKER_UNREACHABLE: (
        "Start the broker or mend the way to it; `chunkq doctor` says how far it is reached."
    ),
    Reason.BROKER_BLOCKED: (
        "The broker is out of memory or disk and takes nothing; give it some, and it goes on."
    ),
    Reason.BROKER_REFUSED: (
        "The broker refuses this site: look at user, password, permissions and limits of the link."
    ),
    Reason.SPOOL_UNAVAILABLE: "Mount or plug in the directory that the link leads to.",
    Reason.PEER_SILENT: (
        "Nobody answers there: have the peer's origin workers started (`chunkq serve`)."
    ),
    Reason.BUSY: "The peer has too much to do or to send; it goes on by itself.",
    Reason.PREPARING: "The peer reads the file once to sign it; it goes on by itself.",
    Reason.NO_CREDIT: "All that may be on the way is; it goes on as replies come.",
    Reason.NOT_FOUND: (
        "The peer has no such file, or has not granted it to this site: ask its operator."
    ),
    Reason.NOT_PERMITTED: "The peer refuses this site: have its operator grant the share.",
    Reason.SOURCE_CHANGED: (
        "The file changes at the peer while it is read; let it rest there, then retry."
    ),
    Reason.CLOCK_SKEW: "One of the two clocks is wrong: set it (NTP), here or at the peer.",
    Reason.EXPIRED: "Requests reach the peer too late; raise `request_lifetime` of the link.",
    Reason.TOO_LARGE: "The file has more chunks than a manifest holds; raise `largest_chunk`.",
    Reason.UNSUPPORTED: "The peer runs another version of chunkq: bring both to the same.",
    Reason.HASH_MISMATCH: (
        "What came does not match what the peer signed; have its disk and memory checked, retry."
    ),
    Reason.PEER_DISTRUSTED: (
        "The peer's keys were revoked or contradict each other: speak with its operator, "
        "then pin its new card."
    ),
    Reason.DISK_FULL: "Make room on the destination's file system; it goes on by itself.",
    Reason.DISK_ERROR: "The disk reports an error: look at the system's log, then retry.",
    Reason.OVER_QUOTA: "This peer's files take all the disk they may: raise its `disk`.",
    Reason.DESTINATION_EXISTS: (
        "Another file is at the destination: move it, or get it again with --overwrite."
    ),
    Reason.DESTINATION_UNUSABLE: "The destination is no place for a file: choose another.",
    Reason.IN_USE: "Another process works on this transfer; let it, or stop it.",
    Reason.WAITING_TURN: "It waits for a turn: as many as may be are under way.",
    Reason.NO_WORKER: "No requester worker runs here: start one (`chunkq work`).",
    Reason.WORKER_DIED: "Its worker ended again and again: look at the worker's log, then retry.",
    Reason.WORKER_SILENT: (
        "Its process holds it and says nothing: it is stopped, or its host is overloaded."
    ),
    Reason.SOME_FILES_FAILED: "Some files of the directory failed; retry fetches only those.",
    Reason.MISTAKEN: "It cannot be done as it was asked for: read the message, and ask again.",
    Reason.INTERNAL: "A defect of chunkq: keep the log, and report it.",
    Reason.BY_OPERATOR: "Somebody wanted it so; resume or retry when you like.",
    Reason.INTERRUPTED: "It was stopped at the terminal; resume it, or run the command again.",
    Reason.PEER_FROZEN: "The peer is frozen here: `chunkq peer thaw`.",
    Reason.LINK_FROZEN: "The link is frozen here: `chunkq link thaw`.",
}

#: By the names of the classes in `chunkq.errors`, as jobs on disk have them.
_OF_ERRORS: Final = {
    "BrokerUnreachable": Reason.BROKER_UNREACHABLE,
    "MailboxAway": Reason.BROKER_UNREACHABLE,
    "OutcomeUnknown": Reason.BROKER_UNREACHABLE,
    "TransportClosed": Reason.BROKER_UNREACHABLE,
    "Nacked": Reason.NO_CREDIT,
    "BrokerRefused": Reason.BROKER_REFUSED,
    "PeerSilent": Reason.PEER_SILENT,
    "Unreachable": Reason.PEER_SILENT,
    "Unroutable": Reason.PEER_SILENT,
    "NotFound": Reason.NOT_FOUND,
    "NotPermitted": Reason.NOT_PERMITTED,
    "PeerRefused": Reason.UNSUPPORTED,
    "PeerDistrusted": Reason.PEER_DISTRUSTED,
    "SourceChanging": Reason.SOURCE_CHANGED,
    "OtherVersion": Reason.SOURCE_CHANGED,
    "IntegrityError": Reason.HASH_MISMATCH,
    "DiskFull": Reason.DISK_FULL,
    "OverQuota": Reason.OVER_QUOTA,
    "SyncFailed": Reason.DISK_ERROR,
    "StorageError": Reason.DISK_ERROR,
    "StateInvalid": Reason.DISK_ERROR,
    "DestinationExists": Reason.DESTINATION_EXISTS,
    "DestinationUnusable": Reason.DESTINATION_UNUSABLE,
    "UnsafeName": Reason.DESTINATION_UNUSABLE,
    "TransferBusy": Reason.IN_USE,
    "PartialFailure": Reason.SOME_FILES_FAILED,
    "worker_died": Reason.WORKER_DIED,
    "UsageError": Reason.MISTAKEN,
    "ConfigError": Reason.MISTAKEN,
    "IdentityError": Reason.MISTAKEN,
    "CardInvalid": Reason.MISTAKEN,
    "Stopped": Reason.INTERRUPTED,
    "Paused": Reason.BY_OPERATOR,
    "Cancelled": Reason.BY_OPERATOR,
    "PeerFrozen": Reason.PEER_FROZEN,
}
#: Words that `Waiting` has and people know by another.
_OF_WAITING: Final = {
    "stale": Reason.SOURCE_CHANGED,
    "queued": Reason.WAITING_TURN,
}


def reason_of_error(name: str) -> Reason:
    """The reason for an error, by the name of its class; `INTERNAL` for one that is not ours."""
    return _OF_ERRORS.get(name, Reason.INTERNAL)


def reason_of_waiting(word: str) -> Reason:
    """The reason for what a transfer waits for (`Waiting.reason`)."""
    if word in _OF_WAITING:
        return _OF_WAITING[word]
    try:
        return Reason(word)
    except ValueError:
        return Reason.INTERNAL
