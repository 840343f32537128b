"""Every parser under any bytes: typed errors only, bounded memory and time."""

from __future__ import annotations

from tests.fuzz import files, keys, packets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in packets.TARGETS + files.TARGETS + keys.TARGETS
}
