"""What the runtime asks of the world: small Protocols that the adapters implement.

`transport/` implements `Transport` and `Consumer`, `storage/` the files. The runtime and the
simulator know only these names.
"""

from chunkq.ports.carrier import (
    ORIGIN_PREFIX,
    STATUS_INSTANCE,
    Consumer,
    Delivery,
    LinkHealth,
    Mailbox,
    Traffic,
    Transport,
    TransportLimits,
)
from chunkq.ports.origin import (
    Directory,
    HashLock,
    Identity,
    ManifestStore,
    ReplayRecord,
    StoredManifest,
    Usage,
)
from chunkq.ports.process import Clock, Entropy, Log
from chunkq.ports.source import ListingPage, Share, SmallFile, SmallFiles, SourceFile
from chunkq.ports.staging import NewFile, PartFile, Staging, StateFile, Taken, TransferState
from chunkq.protocol.digest import Buffer
from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.peering import Heard, News, PeerRef

__all__ = [
    "ORIGIN_PREFIX",
    "STATUS_INSTANCE",
    "Buffer",
    "Clock",
    "Consumer",
    "Delivery",
    "Directory",
    "Entropy",
    "FileIdentity",
    "HashLock",
    "Heard",
    "Identity",
    "LinkHealth",
    "ListingPage",
    "Log",
    "Mailbox",
    "ManifestStore",
    "NewFile",
    "News",
    "PartFile",
    "PeerRef",
    "ReplayRecord",
    "Share",
    "SmallFile",
    "SmallFiles",
    "SourceFile",
    "Staging",
    "StateFile",
    "StoredManifest",
    "Taken",
    "Traffic",
    "TransferState",
    "Transport",
    "TransportLimits",
    "Usage",
]
