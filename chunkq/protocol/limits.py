"""Every limit of the protocol, as a named constant with its reason."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

#: Smallest chunk: one page of memory and of most disks; below it, headers outweigh content.
MIN_CHUNK_SIZE_BYTES: Final = 4 * KIB
#: Largest chunk: far under RabbitMQ's 16 MiB message limit; keeps workers' memory flat.
MAX_CHUNK_SIZE_BYTES: Final = 4 * MIB
#: Measured best on loopback, and small enough for a 10 Mbit/s link (0.2 s).
DEFAULT_CHUNK_SIZE_BYTES: Final = 256 * KIB
#: Most chunks a file may have: bounds the bitmap at 512 KiB and the head at 256 KiB.
MAX_CHUNK_COUNT: Final = 1 << 22
#: Largest file: as many of the largest chunks (16 TiB).
MAX_FILE_SIZE_BYTES: Final = MAX_CHUNK_COUNT * MAX_CHUNK_SIZE_BYTES
#: Leaves in a page: 16 KiB of digests, one small message.
LEAVES_PER_PAGE: Final = 512
#: BLAKE3, Ed25519 keys, X25519 keys: all 32 bytes.
DIGEST_SIZE_BYTES: Final = 32
KEY_SIZE_BYTES: Final = 32
SIGNATURE_SIZE_BYTES: Final = 64
#: A manifest's head, checked before anything of it is looked at.
MAX_HEAD_SIZE_BYTES: Final = 1 * MIB

#: A request is small: ranges, a path. Anything larger is not one of ours.
MAX_REQUEST_SIZE_BYTES: Final = 64 * KIB
#: A reply's body: the largest chunk or head, and the seal.
MAX_REPLY_BODY_SIZE_BYTES: Final = MAX_CHUNK_SIZE_BYTES + 64 * KIB
#: One request asks for at most so many chunks, and so many bytes: bounds what a lost one costs.
MAX_CHUNKS_PER_REQUEST: Final = 64
MAX_BYTES_PER_REQUEST: Final = 16 * MIB
#: Pages in one request: 64 pages are 1 MiB of digests, 8 GiB of file at the default chunk size.
MAX_PAGES_PER_REQUEST: Final = 64

#: Clocks of two sites may differ by so much (10 min).
MAX_CLOCK_SKEW_MS: Final = 10 * 60 * 1000
#: A request's longest life: a courier's directory may travel for a month.
MAX_LIFETIME_MS: Final = 31 * 24 * 3600 * 1000
#: On a broker a request lives for minutes, so that dead ones die in the queue.
DEFAULT_LIFETIME_MS: Final = 10 * 60 * 1000

#: Keys that a site had, in one succession: a change a year for half a working life, 6 KiB of text.
MAX_SUCCESSION_LINKS: Final = 16
#: How long old keys still count unless said otherwise: as long as a request may travel.
DEFAULT_GRACE_MS: Final = MAX_LIFETIME_MS
#: And the longest, whatever a statement says: a courier's directory there, back, and once again.
MAX_GRACE_MS: Final = 93 * 24 * 3600 * 1000
#: How long after a change of keys a second, other one from the same keys freezes the peer. Later
#: it has no effect, so that an old stolen backup cannot stop two sites for ever.
CONFLICT_MEMORY_MS: Final = 93 * 24 * 3600 * 1000

#: Counters remembered per epoch: 8 KiB of bits.
REPLAY_WINDOW_COUNTERS: Final = 65536
#: Epochs (starts of requesters) remembered per peer; the oldest makes way and is refused for good.
MAX_EPOCHS_PER_PEER: Final = 16

#: Files up to this size travel in bundles: a chunk of the default size. Above it, a manifest and a
#: file's own bookkeeping cost little beside its content.
MAX_SMALL_FILE_SIZE_BYTES: Final = 256 * KIB
#: Names in one request for small files, and the bytes of paths in it: they must fit a request.
MAX_FILES_PER_REQUEST: Final = 1024
MAX_NAMES_SIZE_BYTES: Final = 40 * KIB
#: The largest bundle: its costs (a request, a signature, an fsync of its directories) are spread
#: over 256 files of 4 KiB by then, and a requester holds several at once.
MAX_BUNDLE_SIZE_BYTES: Final = 1 * MIB

#: POSIX NAME_MAX and PATH_MAX on every file system that matters.
MAX_NAME_SIZE_BYTES: Final = 255
MAX_PATH_SIZE_BYTES: Final = 4096
#: Deepest tree that is listed or created.
MAX_PATH_DEPTH: Final = 128
#: Entries in one listing reply; a cursor goes on.
MAX_LISTING_ENTRIES: Final = 1000

#: A commit is due after so many bytes, or so long after the first uncommitted one.
COMMIT_BYTES: Final = 64 * MIB
COMMIT_INTERVAL_MS: Final = 1000
#: How often a chunk may be bad, or read back bad, before the transfer fails.
MAX_REPAIR_ROUNDS: Final = 3

#: The window's bounds: two chunks, 64 MiB per origin.
MIN_WINDOW_CHUNKS: Final = 2
MAX_WINDOW_BYTES: Final = 64 * MIB
