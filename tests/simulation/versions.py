"""Roots of the versions of a source, made here: what a signed manifest of each must name."""

from __future__ import annotations

from functools import lru_cache

from chunkq.protocol.geometry import Geometry
from chunkq.protocol.manifest import ManifestBuilder
from tests.simulation.workload import CHUNK_BYTES, Source


def version_with(source: Source, root: bytes) -> bytes | None:
    """The content that a root stands for, if it is one of the source's."""
    return next((data for data in source.versions if _root(data) == root), None)


def chunk_of(version: bytes, index: int) -> bytes:
    return version[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


@lru_cache(maxsize=64)
def _root(data: bytes) -> bytes:
    geometry = Geometry(len(data), CHUNK_BYTES)
    builder = ManifestBuilder(geometry)
    for index in range(geometry.chunk_count):
        at = geometry.offset(index)
        builder.add(data[at : at + geometry.length(index)])
    return builder.finish()[0].root
