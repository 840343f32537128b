"""Users and passwords for a page that is not on loopback: `user:password` lines of a file."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from chunkq.dashboard.access import plain_user
from chunkq.errors import ConfigError

#: Some hundred users.
_MAX_FILE_BYTES: Final = 64 * 1024
#: What a dictionary holds is shorter.
MIN_PASSWORD_CHARS: Final = 12


def load_passwords(path: Path) -> Mapping[str, str]:
    """User → password. Raises `ConfigError`, naming the line."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"others can read {path}", hint=f"chmod 600 {path}")
            text = file.read(_MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        if not colon or plain_user(user) != user:
            raise ConfigError(f"{path}, line {number}: write user:password")
        if len(password) < MIN_PASSWORD_CHARS:
            raise ConfigError(
                f"{path}, line {number}: the password is shorter than {MIN_PASSWORD_CHARS}"
            )
        found[user] = password
    if not found:
        raise ConfigError(f"{path} names no user", hint="write lines user:password")
    return found


def right(passwords: Mapping[str, str], user: str, password: str) -> bool:
    """Whether they belong together; takes as long for a user whom nobody knows."""
    known = passwords.get(user)
    same = hmac.compare_digest((known or "").encode(), password.encode("utf-8", "replace"))
    return same and known is not None
