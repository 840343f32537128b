"""What `chunkq doctor` says of keys that changed: this site's and its peers'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chunkq.cli.checks import Finding
from chunkq.protocol.identity import fingerprint
from chunkq.protocol.keyring import KeyRing
from chunkq.settings import Registry
from chunkq.settings.trust import moment

#: A change of a peer's keys is worth a second look for so long (30 days).
RECENT_MS: Final = 30 * 24 * 3600 * 1000


def check_own_keys(ring: KeyRing, now_ms: int) -> Iterator[Finding]:
    """That they count, and which old ones do."""
    if ring.revocation is not None:
        yield Finding(
            subject="keys",
            status="fail",
            text=f"they are revoked ({ring.revocation.reason.name.lower()}); peers drop them",
            mend="move site.keys away, then: chunkq init; and give the new card to each peer",
        )
    if ring.consented is not None:
        yield Finding(
            subject="keys",
            status="warn",
            text="another machine may take over from this one, or has: peers follow it",
            mend="stop the workers here; or, if it must not: chunkq revoke",
        )
    for keys in ring.counting(now_ms)[1:]:
        until = max(each.until_ms for each in ring.retired if each.keys == keys)
        yield Finding(
            subject="keys",
            status="ok",
            text=f"old ones count until {moment(until):%Y-%m-%d %H:%M} UTC",
        )


def check_peer_keys(registry: Registry, now_ms: int) -> Iterator[Finding]:
    """Who is not trusted, and whose keys changed lately."""
    for alias, peer in sorted(registry.peers.items()):
        if peer.trouble is not None:
            yield Finding(
                subject=f"peer {alias}",
                status="fail",
                text=f"{peer.trouble}: {peer.detail}; nothing is asked of it or answered to it",
                mend=f"ask its owner by another way, then: chunkq peer add CARD --as {alias} "
                f"--replace, or: chunkq peer rm {alias}",
            )
        elif peer.earlier and now_ms - peer.earlier[0].left_ms < RECENT_MS:
            yield Finding(
                subject=f"peer {alias}",
                status="ok",
                text=f"it has new keys since {moment(peer.earlier[0].left_ms):%Y-%m-%d}, signed "
                f"by the old ones: {fingerprint(peer.card)}",
            )
