"""Mistakes on the requester's disk: what is durable, in which order, and when it is told."""

from __future__ import annotations

from typing import Final

from tests.simulation.faults import Faults
from tests.simulation.teeth.bug import PlantedBug, Promise
from tests.simulation.teeth.planting import Edit

_COMMITTING: Final = "chunkq.runtime.committing:Committer"
_STATE: Final = "chunkq.storage.statefile"

COMMIT_BUGS: Final = (
    PlantedBug(
        name="bitmap-before-data-sync",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="a power cut between both syncs leaves bits whose data is not there",
        likely=Faults(),
        changes=(
            Edit(
                f"{_COMMITTING}._commit_blocking",
                "    self._staging.part.sync()\n    self._store_blocking(state)\n",
                "    self._store_blocking(state)\n    self._staging.part.sync()\n",
            ),
        ),
    ),
    PlantedBug(
        name="fsync-retried",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="after a failed fsync the kernel calls the pages clean: the second one means nothing",
        likely=Faults(sync_error=0.15),
        changes=(
            Edit(
                "chunkq.storage.partfile:PartFile._sync",
                "        with suppress(OSError):\n"
                "            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\n"
                '        raise translate(error, "fsync", self.path, sync=True) from error\n',
                "        try:\n            call(fd)\n        except OSError:\n"
                '            raise translate(error, "fsync", self.path, sync=True) from error\n',
            ),
        ),
    ),
    PlantedBug(
        name="demotion-forgotten",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="after a failed sync the chunks of that commit still count, and the next one says so",
        likely=Faults(sync_error=0.15),
        changes=(
            Edit(
                f"{_COMMITTING}.commit",
                "return ev.SyncLost(self.durable, error.message)",
                "return ev.SyncLost(snapshot, error.message)",
            ),
        ),
    ),
    PlantedBug(
        name="ack-before-commit",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="what a crash loses is not delivered again: the origin's link pays for it",
        likely=Faults(kill_every=3.0),
        changes=(
            Edit(
                f"{_COMMITTING}.keep",
                "self._written.append((done, without_body(delivery)))",
                "done(delivery)",
            ),
        ),
    ),
    PlantedBug(
        name="same-slot-always",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="a slot that is torn while it is written leaves no other one",
        likely=Faults(power_every=2.0),
        changes=(Edit(f"{_STATE}:StateFile.store", "state.generation % 2", "0"),),
    ),
    PlantedBug(
        name="generation-not-raised",
        promise=Promise.NOTHING_STUCK_UNTOLD,
        why="the second commit is refused by the state file",
        likely=Faults(delay=10.0),
        changes=(Edit(f"{_COMMITTING}.commit", "self._generation += 1", "pass"),),
    ),
    PlantedBug(
        name="slot-not-synced",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="deliveries are acknowledged for a commit that a power cut takes back",
        likely=Faults(delay=10.0),
        changes=(
            Edit(
                f"{_STATE}:StateFile.store",
                "    self._sync()\n",
                "",
            ),
        ),
    ),
    PlantedBug(
        name="staging-not-settled",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="commits rely on names in a directory that was never synced",
        likely=Faults(delay=10.0),
        changes=(
            Edit(
                "chunkq.storage.staging:Staging.settle",
                "    if self._settled:\n",
                "    if True:\n",
            ),
        ),
    ),
    PlantedBug(
        name="no-room-swallowed",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="a chunk that could not be written for want of room counts as written",
        likely=Faults(no_space=0.05),
        changes=(
            Edit(
                "chunkq.runtime.assembler:Assembler._write",
                "job.outcome = Outcome.NO_ROOM",
                "job.outcome = Outcome.STORED",
            ),
        ),
    ),
    PlantedBug(
        name="recheck-believed",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="whatever a part file without its bitmap holds is taken for what it should",
        likely=Faults(power_every=2.0, sync_error=0.1),
        changes=(
            Edit(
                "chunkq.runtime.assembler:Assembler._recheck",
                "same = digest(data) == job.recheck.leaves[at : at + DIGEST_SIZE_BYTES]",
                "same = bool(job.recheck.leaves[at : at + DIGEST_SIZE_BYTES])",
            ),
        ),
    ),
    PlantedBug(
        name="bits-of-older-version-stand",
        promise=Promise.A_CRASH_COSTS_LITTLE,
        why="the part file is cut for a new version while the slot still speaks of the old one",
        likely=Faults(change_every=1.0),
        changes=(
            Edit(f"{_COMMITTING}.restart", "if not self._generation:", "if head is not None:"),
        ),
    ),
    PlantedBug(
        name="room-not-looked-for",
        promise=Promise.COMPLETES,
        why="a transfer that waited for room never hears that there is some",
        likely=Faults(full_every=1.0),
        changes=(Edit("chunkq.runtime.roomwait:RoomWait._run", "            self._back()\n", ""),),
    ),
)

PUBLISH_BUGS: Final = (
    PlantedBug(
        name="published-without-sync",
        promise=Promise.ONE_SIGNED_VERSION,
        why="a power cut after the name was given leaves a file of zeros at the final path",
        likely=Faults(),
        changes=(
            Edit("chunkq.storage.partfile:PartFile.finish", "self._sync(os.fsync)", "assert fd"),
        ),
    ),
    PlantedBug(
        name="directory-not-synced",
        promise=Promise.ONE_SIGNED_VERSION,
        why="staging is removed while the final name is in memory only: a power cut takes both",
        likely=Faults(),
        changes=(
            Edit(
                "chunkq.storage.publish:publish",
                "        descriptors.sync_directory(fd)\n",
                "        assert fd\n",
            ),
        ),
    ),
    PlantedBug(
        name="publish-clobbers",
        promise=Promise.ONE_SIGNED_VERSION,
        why="a file that appears at the final path at the last moment is replaced unasked",
        likely=Faults(intrude_every=1.0),
        changes=(
            Edit(
                "chunkq.storage.publish:_appear",
                "descriptors.link_no_clobber(staging.directory_fd,"
                " staging.name_of(PART_SUFFIX), fd, name)",
                "_replace(staging, fd, name, path)",
            ),
        ),
    ),
    PlantedBug(
        name="content-digest-not-checked",
        promise=Promise.ONE_SIGNED_VERSION,
        why="what the disk has altered since it was written is published",
        likely=Faults(bad_manifest=0.5),
        changes=(
            Edit(
                "chunkq.runtime.fetch:FileFetch._read_back",
                "await self._reader.digest() == self._transfer.head.content_digest",
                "len(await self._reader.digest()) == len(self._transfer.head.content_digest)",
            ),
        ),
    ),
    PlantedBug(
        name="published-before-read-back",
        promise=Promise.ONE_SIGNED_VERSION,
        why="a file of one commit group is published unread",
        likely=Faults(bad_manifest=0.5),
        changes=(
            Edit(
                "chunkq.protocol.transfer:Transfer._complete",
                'return [self._step("read back", ev.ReadBack(), Phase.VERIFYING)]',
                'return [self._step("publish", ev.Publish(), Phase.PUBLISHING)]',
            ),
        ),
    ),
    PlantedBug(
        name="staging-left-behind",
        promise=Promise.NOTHING_STUCK_UNTOLD,
        why="each file that was got leaves its staging on the disk",
        likely=Faults(),
        changes=(
            Edit(
                "chunkq.runtime.fetch:FileFetch._end",
                "    await self._in_thread(self._staging.remove)\n",
                "",
            ),
        ),
    ),
    PlantedBug(
        name="failed-step-untold",
        promise=Promise.COMPLETES,
        why="a step that fails for good (destination exists, EIO) leaves the transfer waiting",
        likely=Faults(intrude_every=1.0),
        changes=(
            Edit(
                "chunkq.runtime.fetch:FileFetch._on_crash",
                "self._feed(ev.Broken(error))",
                "pass",
            ),
        ),
    ),
)
