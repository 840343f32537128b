"""A site's own keys, for drivers that look at them again and again."""

from __future__ import annotations

from chunkq.ports import Identity
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.keyring import KeyRing


class FixedIdentity:
    """Keys that a program keeps itself (`ports.Identity`): it sets `ring` when they change."""

    def __init__(self, keys: SiteKeys | KeyRing) -> None:
        self.ring = keys if isinstance(keys, KeyRing) else KeyRing(keys=keys)

    def refresh(self) -> None:
        """Nothing to look at."""


def identity_of(keys: SiteKeys | KeyRing | Identity) -> Identity:
    """What was given, as something that may change."""
    return FixedIdentity(keys) if isinstance(keys, SiteKeys | KeyRing) else keys
