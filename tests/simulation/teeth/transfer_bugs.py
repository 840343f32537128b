"""Mistakes of a requester: what it believes, what it asks for, and what it lets go of."""

from __future__ import annotations

from typing import Final

from tests.simulation.faults import Faults
from tests.simulation.teeth.bug import PlantedBug, Promise
from tests.simulation.teeth.planting import Edit

_TRANSFER: Final = "chunkq.protocol.transfer:Transfer"
_LANDING: Final = "chunkq.runtime.landing:Landing"
_PEER: Final = "chunkq.runtime.peer"

BELIEF_BUGS: Final = (
    PlantedBug(
        name="leaf-not-checked",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="whatever an origin that lies sends under its seal is written and counted",
        likely=Faults(bad_chunk=0.3),
        changes=(
            Edit(
                "chunkq.runtime.assembler:Assembler._open",
                "elif digest(room) != job.leaf:",
                "elif not job.leaf:",
            ),
        ),
    ),
    PlantedBug(
        name="page-not-proved",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="leaves that the signed head does not know are believed",
        likely=Faults(bad_page=0.6),
        changes=(
            Edit(
                "chunkq.protocol.manifest:verify_page",
                "if page_digest(leaves) != expected:",
                "if not expected:",
            ),
        ),
    ),
    PlantedBug(
        name="manifest-signature-not-checked",
        promise=Promise.ONE_SIGNED_VERSION,
        why="a version that nobody signed is fetched and published",
        likely=Faults(bad_manifest=0.5),
        changes=(
            Edit(
                "chunkq.protocol.manifest:verify_head",
                "    verify(card.verify_key, HEAD_DOMAIN, head_bytes, signature)\n",
                "",
            ),
        ),
    ),
    PlantedBug(
        name="stale-source-mixed",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="chunks of the version before count for the new one, uncompared",
        likely=Faults(change_every=1.0, slow_threads=1.0),
        changes=(
            Edit(
                "chunkq.protocol.holding:Holding.begin",
                "    self.bitmap = Bitmap(head.geometry.chunk_count)\n",
                "    if self.bitmap.count != head.geometry.chunk_count:\n"
                "        self.bitmap = Bitmap(head.geometry.chunk_count)\n",
            ),
        ),
    ),
    PlantedBug(
        name="adopted-chunk-believed",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="a reply to an earlier process counts without being compared with its leaf",
        likely=Faults(kill_every=1.0, change_every=1.0, bad_chunk=0.3),
        changes=(
            Edit(
                f"{_TRANSFER}._on_adopted",
                "    self.doubtful.add(index)\n",
                "    self._present(index, now)\n    return []\n",
            ),
        ),
    ),
    PlantedBug(
        name="duplicate-counted-twice",
        promise=Promise.COMPLETES,
        why="the number of chunks present runs ahead of the bits, and past that of all",
        likely=Faults(duplicate=0.3, reorder=0.5),
        changes=(
            Edit(
                f"{_LANDING}._settle",
                "        self._committer.keep(job.delivery, requester.done)\n",
                "        self._committer.keep(job.delivery, requester.done)\n"
                "        self._transfer.bitmap.present += len(copies)\n",
            ),
        ),
    ),
)

ASKING_BUGS: Final = (
    PlantedBug(
        name="timer-not-armed-after-resume",
        promise=Promise.COMPLETES,
        why="a transfer that is taken up again asks for nothing",
        likely=Faults(kill_every=1.0, delay=10.0),
        changes=(
            Edit(
                "chunkq.runtime.fetch:FileFetch._begin",
                "    self._feed(ev.Tick())\n",
                "    if resumed is None:\n        self._feed(ev.Tick())\n",
            ),
        ),
    ),
    PlantedBug(
        name="lost-request-never-asked-again",
        promise=Promise.COMPLETES,
        why="what the broker loses is waited for until patience ends",
        likely=Faults(lose=0.2),
        changes=(
            Edit(
                "chunkq.protocol.asks:Asks.timeout_s",
                "return min(self._window.rto_s * self._backoff, MAX_RTO_S)",
                "return 1e6",
            ),
        ),
    ),
    PlantedBug(
        name="duplicate-never-let-go",
        promise=Promise.COMPLETES,
        why="what nobody wants is never acknowledged: the carrier stops giving",
        likely=Faults(duplicate=0.3),
        changes=(Edit(f"{_LANDING}.take", "        self._let_go(asked, index, delivery)\n", ""),),
    ),
    PlantedBug(
        name="patience-without-end",
        promise=Promise.COMPLETES,
        why="an origin that is gone for good is waited for for good",
        likely=Faults(kill_every=2.0, delay=5.0),
        changes=(
            Edit(
                "chunkq.protocol.patience:Patience.exhausted",
                "if not self._expecting or now < self._heard_at + self._limit_s:",
                "if now >= 0:",
            ),
        ),
    ),
    PlantedBug(
        name="clock-offset-never-doubted",
        promise=Promise.COMPLETES,
        why="after a clock was set right, or an origin has lied about it, requests are dropped",
        likely=Faults(wall_wrong=1.0, wall_jump_every=2.0),
        changes=(Edit("chunkq.runtime.skew:Skew.doubt", "self.offset_ms = 0", "pass"),),
    ),
    PlantedBug(
        name="epoch-not-new",
        promise=Promise.THE_BROKER_LEARNS_NOTHING,
        why="after a restart a request id comes twice under one ephemeral: a nonce used twice",
        likely=Faults(kill_every=2.0),
        changes=(
            Edit(
                "chunkq.runtime.epochs:Epochs.begin",
                "(self._clock.wall_ms() << EPOCH_RANDOM_BITS) | random",
                "(1_700_000_000_000 << EPOCH_RANDOM_BITS) + 0 * random",
            ),
        ),
    ),
    PlantedBug(
        name="window-miscounted",
        promise=Promise.BOUNDED,
        why="each late reply makes room for one more than there is",
        likely=Faults(delay=20.0, lose=0.1),
        changes=(
            Edit(
                "chunkq.protocol.window:Window.came_late",
                "    self.outstanding += 1\n",
                "",
            ),
        ),
    ),
)
