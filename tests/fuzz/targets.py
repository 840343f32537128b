"""Every parser under any bytes: typed errors only, bounded memory and time."""

from __future__ import annotations

from tests.fuzz import files, keys, packets, sealed, stored
from tests.fuzz.target import Target

_ALL = packets.TARGETS + sealed.TARGETS + files.TARGETS + stored.TARGETS + keys.TARGETS
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
assert len(TARGETS) == len(_ALL)
