"""Which version of a file stands at a path, told without reading it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one version of a file from another without reading it."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    def same_content(self, other: FileIdentity) -> bool:
        """Whether nobody wrote to it or put another there; its permissions may have changed."""
        mine = self.device, self.inode, self.size_bytes, self.mtime_ns
        return mine == (other.device, other.inode, other.size_bytes, other.mtime_ns)
