"""What the environment says about this process, as opposed to this site."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Supervisor:
    """How the service manager wants to be told: a socket's address, and how often (seconds)."""

    notify_socket: str | None = None
    watchdog_interval_s: float | None = None


def supervisor(environ: Mapping[str, str] | None = None) -> Supervisor:
    """Read what systemd passes (sd_notify(3), sd_watchdog_enabled(3))."""
    environ = os.environ if environ is None else environ
    socket = environ.get("NOTIFY_SOCKET") or None
    period = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not period.isdecimal() or int(period) == 0 or meant_for not in ("", str(os.getpid())):
        return Supervisor(socket)
    # half the period, as sd_watchdog_enabled(3) recommends
    return Supervisor(socket, int(period) / 2 / 1_000_000)


def debug_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether CHUNKQ_DEBUG asks for tracebacks."""
    environ = os.environ if environ is None else environ
    return environ.get("CHUNKQ_DEBUG", "") not in ("", "0")


def environment_with(values: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child, with more variables."""
    return {**os.environ, **values}
