"""TOML files: read with messages that name file and line, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomli_w

from chunkq.errors import ConfigError, StorageError

#: No configuration of ours is larger; a larger file is not one.
MAX_FILE_SIZE_BYTES: Final = 1 << 20

_POSITION: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """The tables of a text that was read from `path`. Raises `ConfigError`, naming its lines."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = _POSITION.search(str(error))
        place = f"{path}:{where[1]}:{where[2]}" if where else str(path)
        reason = _POSITION.sub("", str(error))
        raise ConfigError(f"{place}: not valid TOML: {reason}", hint="mend that line") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        raise ConfigError(f"{path}: not TOML that could be meant") from None


def read_text(path: Path) -> str | None:
    """The file's text, or None if there is no such file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_SIZE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_SIZE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_SIZE_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None


def find_line(text: str, dotted: str) -> int | None:
    """The line that sets `dotted` in a TOML text, from 1: `tomllib` does not tell."""
    *tables, key = dotted.split(".")
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()  # noqa: PLW2901
        if line.startswith("["):
            header = line.lstrip("[").partition("]")[0]
            inside = [part.strip(" \"'") for part in header.strip().split(".")]
            if [*tables, key] == inside:
                return number
            continue
        name, equals, _ = line.partition("=")
        if equals and [*inside, *(p.strip(" \"'") for p in name.split("."))] == [*tables, key]:
            return number
    return None


def write_toml(path: Path, data: Mapping[str, Any]) -> None:
    """Write the tables, readable by the owner only, atomically. Raises `StorageError`."""
    write_text(path, tomli_w.dumps(data))


def write_text(path: Path, text: str) -> None:
    """Write the text, readable by the owner only, atomically. Raises `StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkstemp creates with 0600
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
