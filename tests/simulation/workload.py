"""What the sites of a world have and want: files, their versions, who gets them from whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from chunkq.ports import PeerRef
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.limits import MIN_CHUNK_SIZE_BYTES
from tests.simulation.faults import Faults

SHARE = "papers"
#: A second share, that is granted to nobody.
SECRET_SHARE = "secrets"
CHUNK_BYTES = MIN_CHUNK_SIZE_BYTES
#: Content is cut from a block like this: the same in every world, so made once.
_BLOCK_BYTES = 1 << 20
MAX_CHUNKS = 60
#: Sites by name; `mallory` is nobody's peer.
SITES = ("alice", "bob", "carol", "dora", "frank", "mallory")
REQUESTERS = ("alice", "carol")
#: A peer that asks without end.
FLOODER = "frank"


@lru_cache(maxsize=16)
def keys_of(site: str) -> SiteKeys:
    keys = SiteKeys.generate(Random(f"keys of {site}").randbytes)
    assert keys.exchange_key  # derived once, kept
    return keys


@lru_cache(maxsize=16)
def ref_of(site: str) -> PeerRef:
    """The site as a peer of another."""
    return PeerRef(site, card_of(keys_of(site), site), site, first_id=keys_of(site).site_id)


@lru_cache(maxsize=1)
def _block() -> bytes:
    return Random("content").randbytes(_BLOCK_BYTES)


def content(random: Random, chunks: int, size_bytes: int) -> bytes:
    """`size_bytes` of content; of more than two chunks, some may be holes or alike."""
    at = random.randrange(_BLOCK_BYTES - MAX_CHUNKS * CHUNK_BYTES - CHUNK_BYTES)
    data = _block()[at : at + size_bytes]
    if chunks > 2 and random.random() < 0.3:
        pieces = [data[at : at + CHUNK_BYTES] for at in range(0, size_bytes, CHUNK_BYTES)]
        for index in range(len(pieces) - 1):
            if random.random() < 0.4:
                pieces[index] = bytes(CHUNK_BYTES) if random.random() < 0.7 else pieces[0]
        data = b"".join(pieces)
    return data


def _size(random: Random, chunks: int) -> int:
    """0 or 1 byte, whole chunks, one byte more or less, or anything."""
    kind = random.random()
    if kind < 0.03:
        return 0
    if kind < 0.06:
        return 1
    whole = chunks * CHUNK_BYTES
    if kind < 0.4:
        return whole
    if kind < 0.55:
        return whole + 1
    if kind < 0.7:
        return max(1, whole - 1)
    return random.randrange(1, whole + 1)


@dataclass(slots=True)
class Source:
    """A file of an origin, and all that it ever was. `mtime_ns` rises with each version."""

    path: str
    versions: list[bytes]
    gone: bool = False

    @property
    def now(self) -> bytes:
        return self.versions[-1]


@dataclass(slots=True, eq=False)
class Job:
    """One `get` of a file. `origins`: the first named, then mirrors."""

    site: str
    source: Source
    origins: tuple[str, ...]
    patience_s: float
    starts_s: float
    done: bool = False
    #: What its runs ended with, by the name of the error.
    ends: list[str] = field(default_factory=list)
    final: bytes = b""

    @property
    def destination(self) -> str:
        """Its final path on the requester's host."""
        return f"/sim/{self.site}/inbox/{self.source.path}"

    def __str__(self) -> str:
        return f"{self.site}:{self.source.path}"


@dataclass(slots=True)
class Workload:
    """`origins`: those that have the files; `workers`: how many processes serve at each."""

    sources: list[Source]
    jobs: list[Job]
    origins: tuple[str, ...]
    workers: int
    prefetch: int
    chaos_s: float

    @property
    def requesters(self) -> tuple[str, ...]:
        return tuple(site for site in REQUESTERS if any(job.site == site for job in self.jobs))

    @property
    def chunks(self) -> int:
        return sum(1 + len(job.source.now) // CHUNK_BYTES for job in self.jobs)

    @classmethod
    def draw(cls, random: Random, faults: Faults) -> Workload:
        origins = ("bob", "dora") if random.random() < 0.2 else ("bob",)
        workers = random.choice((1, 1, 2, 3))
        sources: list[Source] = []
        jobs: list[Job] = []
        for number in range(random.choice((1, 1, 1, 2, 3))):
            chunks = random.choice((1, 2, 3, 5, 8, 13, 21, random.randrange(1, MAX_CHUNKS)))
            data = content(random, chunks, _size(random, chunks))
            source = Source(f"report-{number}.bin", [data])
            sources.append(source)
            site = "carol" if number and random.random() < 0.4 else "alice"
            jobs.append(
                Job(
                    site,
                    source,
                    origins,
                    patience_s=random.choice((20.0, 60.0, 120.0)),
                    starts_s=random.choice((0.0, 0.0, random.uniform(0.0, 10.0))),
                )
            )
        return cls(
            sources,
            jobs,
            origins,
            workers,
            prefetch=random.choice((4, 32, 1024)),
            chaos_s=random.choice((5.0, 15.0, 40.0)),
        )
