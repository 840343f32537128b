"""Names and paths that a peer sends: which of them may ever touch a file system.

Refused everywhere, not only where they would do harm: a file from one site must be able to go on
to the next, whatever that runs on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from chunkq.errors import UnsafeName
from chunkq.protocol.limits import MAX_NAME_SIZE_BYTES, MAX_PATH_DEPTH, MAX_PATH_SIZE_BYTES

#: Where unfinished transfers live beside their destination: no peer may name a file there.
STAGING_NAME: Final = ".chunkq"

#: The backslash separates on Windows; a colon names a drive or a stream there.
_SEPARATORS: Final = {"/": "a slash", "\\": "a backslash", ":": "a colon"}
#: Marks, embeddings, overrides and isolates: they make `gpj.exe` read as `exe.jpg`.
_BIDI_CONTROLS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
#: C0, DEL and C1; and the line and paragraph separators, which break a line as well.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp"})
#: Windows opens the device for these, with any extension. ¹²³ count as digits there.
_DEVICE_NAMES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}
)
#: What nearly all names are made of, and none that would be refused for a character or its end:
#: looked at in one step, where the rules below take one for each character.
_PLAIN: Final = re.compile(r"\.?[0-9A-Za-z_+=,@~#%-]+(?:[. ][0-9A-Za-z_+=,@~#%-]+)*")
#: How much of a bad name is worth repeating in a message.
_SHOWN_CHARS: Final = 60


def check_name(name: str) -> str:
    """Return `name` if it is safe as one component of a path. Raises `UnsafeName`."""
    if not name:
        raise UnsafeName("an empty name")
    if name in {".", ".."}:
        raise UnsafeName(f"{name!a} is a step, not a name")
    _check_size(name, MAX_NAME_SIZE_BYTES)
    if _PLAIN.fullmatch(name) is None:
        for char in name:
            _check_char(char, name)
        if name[-1] in ". ":
            raise _unsafe(name, "ends with a dot or a space, which Windows drops")
    if name.partition(".")[0].rstrip(" ").upper() in _DEVICE_NAMES:
        raise _unsafe(name, "is a device on Windows")
    if fold_key(name) == STAGING_NAME:
        raise _unsafe(name, "is where unfinished transfers are kept")
    return name


def check_path(path: str) -> tuple[str, ...]:
    """The names in a relative, `/`-separated path; `()` for the empty path, the share's root.

    Raises `UnsafeName`.
    """
    if not path:
        return ()
    _check_size(path, MAX_PATH_SIZE_BYTES)
    if path.startswith("/"):
        raise _unsafe(path, "is absolute")
    parts = path.split("/")
    if len(parts) > MAX_PATH_DEPTH:
        raise _unsafe(path, f"is {len(parts)} deep; the most is {MAX_PATH_DEPTH}")
    if "" in parts:
        raise _unsafe(path, "has an empty component")
    return tuple(check_name(part) for part in parts)


def fold_key(name: str) -> str:
    """What two names have in common that some file system takes for one: case and Unicode form."""
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded)


def find_collisions(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of one directory that would meet: fold key to two or more names, as given."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(fold_key(name), []).append(name)
    return {key: same for key, same in by_key.items() if len(same) > 1}


def check_link_target(link_path_parts: Sequence[str], target: str) -> None:
    """Return if a symbolic link at `link_path_parts` to `target` stays inside the tree.

    `..` is taken only at the beginning, where it climbs real directories: after a name it would
    climb from wherever another link leads. Raises `UnsafeName`.
    """
    if not target:
        raise UnsafeName("a link without a target")
    _check_size(target, MAX_PATH_SIZE_BYTES)
    if target.startswith("/"):
        raise _unsafe(target, "is an absolute target of a link")
    steps = [step for step in target.split("/") if step not in {"", "."}]
    climbs = 0
    while climbs < len(steps) and steps[climbs] == "..":
        climbs += 1
    if climbs > len(link_path_parts) - 1:
        raise _unsafe(target, "leads out of the tree")
    for step in steps[climbs:]:
        if step == "..":
            raise _unsafe(target, "climbs after it has descended")
        check_name(step)


def _check_char(char: str, name: str) -> None:
    if char in _SEPARATORS:
        raise _unsafe(name, f"contains {_SEPARATORS[char]}")
    if char in _BIDI_CONTROLS:
        raise _unsafe(name, f"contains U+{ord(char):04X}, which reorders what is shown")
    if unicodedata.category(char) in _CONTROL_CATEGORIES:
        raise _unsafe(name, f"contains the control character U+{ord(char):04X}")


def _check_size(name: str, largest: int) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise _unsafe(name, "is not valid UTF-8") from None
    if size > largest:
        raise _unsafe(name, f"has {size} bytes; the most is {largest}")


def _unsafe(name: str, why: str) -> UnsafeName:
    shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…"
    return UnsafeName(f"{shown!a} {why}")
