"""What bob offers, its digests, and how alice is told to get it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from tests.killloop.plan import Work

MIB = 1 << 20
SHARE = "pool"
#: At the rate of the workers' links the largest takes some two seconds.
LARGE_MIB = (20, 32, 48)
SEVERAL_MIB = (6, 9, 12)
TREE_FILES = 300
MOST_TREE_FILE_BYTES = 60_000

#: What is at a place: its digest, None for a directory.
Found = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked for: sources and where to, each one command; and what must be there then."""

    commands: tuple[tuple[str, ...], ...]
    wanted: Found
    size_bytes: int


class Pool:
    """A directory of files and a tree, made once."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self.root = root
        for name, size_mib in self._plain():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dice.randbytes(size_mib * MIB + dice.randrange(3)))
        for number in range(TREE_FILES):
            path = root / "tree" / f"d{number % 7}" / f"e{number % 3}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = 0 if number % 25 == 0 else dice.randrange(MOST_TREE_FILE_BYTES)
            path.write_bytes(dice.randbytes(size))
        for number in range(2):
            (root / "tree" / f"big{number}").write_bytes(dice.randbytes(3 * MIB + 17))
        self._found = found(root)

    def errand(self, work: Work, draw: float, dest: str) -> Errand:
        """`draw`, from 0 to 1, chooses among what there is."""
        large = [f"large{number}" for number in range(len(LARGE_MIB))]
        several = [f"several{number}" for number in range(len(SEVERAL_MIB))]
        match work:
            case Work.LARGE:
                name = large[int(draw * len(large))]
                return self._errand([[name]], dest)
            case Work.SEVERAL:
                return self._errand([several], dest)
            case Work.AT_ONCE | Work.JOBS:
                return self._errand([[name] for name in several], dest)
            case _:
                wanted = {
                    name.removeprefix("tree/"): digest
                    for name, digest in self._found.items()
                    if name.startswith("tree/")
                }
                size = sum((self.root / "tree" / name).stat().st_size for name in wanted)
                return Errand(((f"bob:{SHARE}/tree/", dest),), wanted, size)

    def _errand(self, groups: list[list[str]], dest: str) -> Errand:
        commands = tuple((*(f"bob:{SHARE}/{name}" for name in each), dest) for each in groups)
        names = [name for each in groups for name in each]
        wanted = {name: self._found[name] for name in names}
        return Errand(commands, wanted, sum((self.root / name).stat().st_size for name in names))

    def _plain(self) -> list[tuple[str, int]]:
        large = [(f"large{number}", size) for number, size in enumerate(LARGE_MIB)]
        return large + [(f"several{number}", size) for number, size in enumerate(SEVERAL_MIB)]


def found(directory: Path) -> Found:
    """Everything below a directory; what has a name there counts, whatever it is."""
    there: Found = {}
    for place, directories, files in os.walk(directory):
        for name in directories:
            there[os.path.relpath(os.path.join(place, name), directory)] = None
        for name in files:
            path = Path(place, name)
            there[str(path.relative_to(directory))] = blake3(path.read_bytes()).hexdigest()
    return there
