"""Logging as the settings ask for it."""

from __future__ import annotations

from chunkq.settings import Settings
from chunkq.telemetry import logs


def configure(settings: Settings) -> None:
    logs.configure(level=settings.log.level, form=settings.log.format, paths=settings.log.paths)
