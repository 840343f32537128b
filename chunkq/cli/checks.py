"""What `chunkq doctor` looks at, one function a subject; each finding says how to mend it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from chunkq.cli.version import LIBRARIES, NOT_INSTALLED, installed
from chunkq.errors import ChunkqError
from chunkq.protocol.aead import has_aes
from chunkq.protocol.identity import SiteKeys, card_of, fingerprint
from chunkq.protocol.limits import COMMIT_BYTES, GIB
from chunkq.settings import Directories, Registry, Settings

#: Below it a site cannot keep manifests, replay records and a spool for long.
LOW_SPACE_BYTES: Final = 1 * GIB
#: Below it not even one commit group fits.
NO_SPACE_BYTES: Final = COMMIT_BYTES
#: 2025-01-01: chunkq did not exist before, so a clock that says so is wrong.
EARLIEST_TIME_S: Final = 1_735_689_600
#: What adjtimex(2) returns where nothing keeps the clock right.
_TIME_ERROR: Final = 5
#: Larger than struct timex on every architecture (208 bytes on 64 bit).
_TIMEX_SIZE_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's report. `unreachable`: it fails because the link is down."""

    subject: str
    status: Literal["ok", "warn", "fail"]
    text: str
    mend: str = ""
    unreachable: bool = False


def failed(subject: str, error: ChunkqError, *, unreachable: bool = False) -> Finding:
    """An error as a finding."""
    return Finding(
        subject=subject,
        status="fail",
        text=error.message,
        mend=error.hint or "",
        unreachable=unreachable,
    )


def check_runtime() -> Iterator[Finding]:
    """Python, the libraries and the processor."""
    yield Finding(subject="python", status="ok", text=platform.python_version())
    versions = {name: installed(name) for name in LIBRARIES}
    if missing := [name for name, number in versions.items() if number == NOT_INSTALLED]:
        text = f"not installed: {', '.join(missing)}"
        yield Finding(
            subject="libraries", status="fail", text=text, mend="install chunkq anew with pip"
        )
    else:
        text = ", ".join(f"{name} {number}" for name, number in versions.items())
        yield Finding(subject="libraries", status="ok", text=text)
    if has_aes():
        yield Finding(subject="cipher", status="ok", text="AES-256-GCM in hardware")
    else:
        yield Finding(
            subject="cipher",
            status="ok",
            text="no AES in hardware: XChaCha20-Poly1305, a third of the speed",
        )


def check_directories(directories: Directories) -> Iterator[Finding]:
    """That they can be written, and that others cannot."""
    for subject, path in (("config_dir", directories.config), ("state_dir", directories.state)):
        above = _existing(path)
        if not os.access(above, os.W_OK | os.X_OK):
            yield Finding(
                subject=subject,
                status="fail",
                text=f"{above} cannot be written by this user",
                mend=f"chown it to this user, or choose another with --{subject.replace('_', '-')}",
            )
        elif path.exists() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield Finding(
                subject=subject,
                status="fail",
                text=f"{path} can be written by other users",
                mend=f"chmod go-w {path}",
            )
        else:
            yield Finding(subject=subject, status="ok", text=str(path))


def check_config_file(settings: Settings) -> Iterator[Finding]:
    """That a password in it is for its owner's eyes only."""
    path = settings.directories.config_file
    if not path.exists():
        yield Finding(
            subject="config",
            status="warn",
            text=f"{path} does not exist: all settings are defaults",
            mend="chunkq init",
        )
        return
    secret = any(link.safe_url != link.url for link in settings.links.values())
    if secret and path.stat().st_mode & 0o077:
        yield Finding(
            subject="config",
            status="fail",
            text=f"{path} holds a password and can be read by other users",
            mend=f"chmod 600 {path}",
        )
    else:
        yield Finding(subject="config", status="ok", text=str(path))


def check_identity(settings: Settings, keys: SiteKeys) -> Iterator[Finding]:
    """Name and fingerprint."""
    try:
        mark = fingerprint(card_of(keys, settings.site_name))
    except ChunkqError as error:
        yield failed("keys", error)
    else:
        yield Finding(subject="keys", status="ok", text=f"{settings.name}, fingerprint {mark}")


def check_trust(settings: Settings) -> Iterator[Finding]:
    """Peers, shares and grants: that their files hold and fit together."""
    registry = Registry(settings.directories)
    for problem in registry.problems:
        yield failed("peers and shares", problem)
    for alias, peer in sorted(registry.peers.items()):
        if peer.link not in settings.links:
            yield Finding(
                subject=f"peer {alias}",
                status="fail",
                text=f"its link {peer.link} is not configured",
                mend=f"add [links.{peer.link}] to config.toml, or pin it anew with --link",
            )
    for name, share in sorted(registry.shares.items()):
        if not os.access(share.path, os.R_OK):
            yield Finding(
                subject=f"share {name}",
                status="fail",
                text=f"{share.path} is not there or cannot be read by this user",
                mend=f"mend that, or: chunkq share rm {name}",
            )
        for grant in share.grants:
            if grant.peer not in registry.peers:
                yield Finding(
                    subject=f"share {name}",
                    status="warn",
                    text=f"it is granted to {grant.peer}, who is not pinned",
                    mend=f"chunkq peer add CARD --as {grant.peer}",
                )
    yield Finding(
        subject="peers and shares",
        status="ok",
        text=f"{len(registry.peers)} peers, {len(registry.shares)} shares",
    )


def check_clock(now_s: float, config_file: Path) -> Iterator[Finding]:
    """That the clock can be right: requests are refused where two clocks differ by 10 minutes."""
    mend = "set the clock, and keep it right with chrony or systemd-timesyncd"
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < EARLIEST_TIME_S:
        yield Finding(subject="clock", status="fail", text=f"it says {shown}", mend=mend)
    elif config_file.exists() and config_file.stat().st_mtime > now_s + 60:
        text = f"it says {shown}, but {config_file} was written later"
        yield Finding(subject="clock", status="fail", text=text, mend=mend)
    elif _unsynchronised():
        text = f"it says {shown}, and nothing keeps it right"
        mend = "peers whose clocks differ by 10 minutes are refused; use chrony"
        yield Finding(subject="clock", status="warn", text=text, mend=mend)
    else:
        yield Finding(subject="clock", status="ok", text=f"synchronised, {shown}")


def check_space(state: Path) -> Iterator[Finding]:
    """Room for what chunkq remembers."""
    free = shutil.disk_usage(_existing(state)).free
    text = f"{free / GIB:.1f} GiB free for {state}"
    if free < NO_SPACE_BYTES:
        yield Finding(subject="disk", status="fail", text=text, mend="make room")
    elif free < LOW_SPACE_BYTES:
        yield Finding(subject="disk", status="warn", text=text, mend="make room soon")
    else:
        yield Finding(subject="disk", status="ok", text=text)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _unsynchronised() -> bool:
    """What the kernel says of its clock; False where it does not say."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE_BYTES))) == (
            _TIME_ERROR
        )
    except (OSError, AttributeError):
        return False
