"""Mistakes of an origin: whom it serves, how often, and what it gives away."""

from __future__ import annotations

from typing import Final

from tests.simulation.faults import Faults
from tests.simulation.teeth.bug import PlantedBug, Promise
from tests.simulation.teeth.planting import Edit

_GATE: Final = "chunkq.protocol.origin:Gate"
_WORKER: Final = "chunkq.runtime.origin:OriginWorker"

GATE_BUGS: Final = (
    PlantedBug(
        name="recipient-not-checked",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a request for another site takes a place in the replay record and in the quota",
        likely=Faults(cross_route=0.5),
        changes=(
            Edit(
                f"{_GATE}.admit",
                "if self._holder(header.recipient) is None:",
                "if not header.recipient:",
            ),
        ),
    ),
    PlantedBug(
        name="expiry-ignored",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a request that a broker has kept back for days is answered",
        likely=Faults(replay_every=0.2, wall_jump_every=2.0),
        changes=(
            Edit(
                "chunkq.protocol.origin:_check_lifetime",
                "if wall_ms > expires_ms + MAX_CLOCK_SKEW_MS:",
                "if wall_ms > expires_ms + MAX_LIFETIME_MS:",
            ),
        ),
    ),
    PlantedBug(
        name="replays-not-recorded",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a request that comes twice is acted upon twice",
        likely=Faults(duplicate=0.3),
        changes=(
            Edit(
                f"{_WORKER}._take",
                "if admitted.recordable and not"
                " self._replays.record(header.sender, header.request_id):",
                "if admitted.recordable and not header.sender:",
            ),
        ),
    ),
    PlantedBug(
        name="replay-window-not-persisted",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="after a restart of the machine the requests of before it count again",
        likely=Faults(replay_every=0.2, power_every=2.0),
        changes=(
            Edit(
                "chunkq.storage.replayfile:ReplayFile._recover",
                "        each.doubtful = each.ceiling\n",
                "        each.doubtful = 0\n",
            ),
        ),
    ),
    PlantedBug(
        name="signature-not-checked",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="whoever knows a peer's id asks in its name",
        likely=Faults(replay_every=0.2),
        changes=(Edit(f"{_GATE}.admit", "    verify_request(raw, sender)\n", ""),),
    ),
    PlantedBug(
        name="sender-not-pinned",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="strangers fill the replay record",
        likely=Faults(replay_every=0.2),
        changes=(
            Edit(
                f"{_GATE}.admit",
                "return self._admit_stranger(raw, now_s, wall_ms)",
                'sender = SiteCard("stranger", header.sender, header.sender)',
            ),
        ),
    ),
    PlantedBug(
        name="revoked-peer-served",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a peer that is no longer trusted is answered",
        likely=Faults(revoke_every=2.0),
        changes=(Edit(f"{_WORKER}._card_of", "if peer.distrust:", "if not peer.alias:"),),
    ),
    PlantedBug(
        name="directory-read-once",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a worker that runs never hears of a revocation",
        likely=Faults(revoke_every=2.0),
        changes=(Edit(f"{_WORKER}._receive", "            self._directory.refresh()\n", ""),),
    ),
    PlantedBug(
        name="grant-not-checked",
        promise=Promise.ONLY_GOOD_REQUESTS_COUNT,
        why="a peer gets what lies beside the prefix that was granted",
        likely=Faults(flood_every=0.05),
        changes=(
            Edit(
                "chunkq.settings.trust:Grant.covers",
                "return not self.prefix or path == self.prefix or"
                ' path.startswith(f"{self.prefix}/")',
                "return path is not None",
            ),
        ),
    ),
    PlantedBug(
        name="quota-not-enforced",
        promise=Promise.BOUNDED,
        why="a peer that floods is served as fast as it asks",
        likely=Faults(flood_every=0.01),
        changes=(
            Edit(
                "chunkq.protocol.quota:Account.take_request",
                "if not self._requests.take(now_s):",
                "if not self._requests.take(now_s) and now_s < 0:",
            ),
        ),
    ),
)

ANSWER_BUGS: Final = (
    PlantedBug(
        name="nonce-reused",
        promise=Promise.THE_BROKER_LEARNS_NOTHING,
        why="all replies to one request are sealed with one nonce",
        likely=Faults(),
        changes=(
            Edit("chunkq.protocol.seal:ReplySealer.seal", "seq = next(self._seqs)", "seq = 0"),
        ),
    ),
    PlantedBug(
        name="sealed-in-name-only",
        promise=Promise.THE_BROKER_LEARNS_NOTHING,
        why="a stream cipher forgotten: names and content can be read on the broker",
        likely=Faults(),
        changes=(
            Edit(
                "chunkq.protocol.aead:seal",
                "    return packet\n",
                "    ffi.memmove(start + len(header), ffi.from_buffer(body), len(body))\n"
                "    return packet\n",
            ),
            Edit(
                "chunkq.protocol.aead:_unseal",
                "    if failed:\n",
                "    size = len(sealed) - SEAL_SIZE_BYTES\n"
                "    ffi.memmove(start, ffi.from_buffer(sealed), size)\n"
                "    if failed and size < 0:\n",
            ),
        ),
    ),
    PlantedBug(
        name="version-not-compared",
        promise=Promise.NOTHING_STUCK_UNTOLD,
        why="an origin whose file has changed answers for the version before with the new bytes",
        likely=Faults(change_every=0.5),
        changes=(Edit("chunkq.runtime.answers:_version", "if head.root != root:", "if not root:"),),
    ),
)
