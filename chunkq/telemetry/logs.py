"""The one configuration of structlog: what is logged, in which form, and where to.

A record is an event name and fields. Only the fields listed here come through, only as plain
values, and an event name is words, not a sentence: so no key, no content and (unless allowed) no
path can end up in a log by accident.

structlog is loaded with the first record, as it takes a sixth of a command's start: most commands
never log.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

#: What may be logged. Identities are names and ids; sizes, counts and times are numbers.
FIELDS: Final = frozenset(
    {
        *("event", "level", "timestamp", "version", "python", "pid", "signal", "status"),
        *("site", "peer", "address", "share", "link", "transport", "instance", "mailbox", "queue"),
        *("transfer", "request", "epoch", "kind", "reason", "code", "error", "hint"),
        *(
            "chunk",
            "chunks",
            "index",
            "first",
            "count",
            "total",
            "size",
            "bytes",
            "new_bytes",
            "pages",
        ),
        *("phase", "generation", "popcount", "window", "round", "rate", "percent", "files"),
        *("rtt_ms", "duration_ms", "retry_after_ms", "offset_ms", "delay_s", "lifetime_s"),
        *("attempt", "depth", "pending", "unacked", "unconfirmed", "workers", "exit_code"),
        *("chunk_size", "counters", "fingerprint", "library"),
    }
)
#: Names of files, and messages that may repeat one; only where `log.paths` is set.
PATH_FIELDS: Final = frozenset({"path", "destination", "source", "staging", "directory", "detail"})
#: A longer value is somebody's text, not ours.
MAX_VALUE_LENGTH: Final = 300
#: Takes the place of an event that is not a stable name.
UNNAMED: Final = "unnamed"

_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,3}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_Record = MutableMapping[str, Any]


class _Waiting:
    """The configuration until structlog is loaded, and what is below its level."""

    configure: Callable[[], None] | None = None
    level: int = 0


def configure(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["auto", "console", "json"] = "auto",
    paths: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send records of `level` and above to `stream` (stderr).

    `form` auto: for people on a terminal, one JSON object a line otherwise.
    """
    stream = stream or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    _Waiting.level = _LEVELS[level]
    _Waiting.configure = partial(_configure, _LEVELS[level], console, paths, stream)
    if "structlog" in sys.modules:
        _configure_what_waits()
    _take_over_libraries(_LEVELS[level])


def _configure_what_waits() -> None:
    """From any thread; twice does no harm."""
    waiting = _Waiting.configure
    if waiting is not None:
        waiting()
        _Waiting.configure, _Waiting.level = None, 0


def _configure(level: int, console: bool, paths: bool, stream: TextIO) -> None:
    import structlog

    last: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if console
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            AllowList(FIELDS | PATH_FIELDS if paths else FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def get_logger(**bound: object) -> FilteringBoundLogger:
    """A logger whose records all carry the given fields."""
    import structlog

    _configure_what_waits()
    logger: FilteringBoundLogger = structlog.get_logger(**bound)
    return logger


def write(event: str, /, *, level: str = "info", **fields: object) -> None:
    """Write one record (`ports.Log`)."""
    if _LEVELS[level] < _Waiting.level:
        return
    get_logger().log(_LEVELS[level], event, **fields)


class AllowList:
    """Drops every field that is not listed and everything that is not a plain value."""

    def __init__(self, fields: frozenset[str]) -> None:
        self._fields = fields

    def __call__(self, _logger: object, _method: str, record: _Record) -> _Record:
        event = record.get("event")
        kept: _Record = {
            "event": event if isinstance(event, str) and _EVENT.fullmatch(event) else UNNAMED
        }
        for name, value in record.items():
            if name in self._fields and name != "event":
                plain = _plain(value)
                if plain is not None:
                    kept[name] = plain
        return kept


def _plain(value: object) -> str | int | float | dict[str, int] | None:
    """The value if it is a number, a flag, a short text or counters; otherwise None."""
    if isinstance(value, str):
        text = "".join(char if char.isprintable() else "�" for char in value)
        return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
    if isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        return {
            name: count
            for name, count in value.items()
            if isinstance(name, str) and isinstance(count, int)
        }
    return None


class _LibraryHandler(logging.Handler):
    """What libraries say through `logging`, at level debug only: it may be about anything."""

    def emit(self, record: logging.LogRecord) -> None:
        library = record.name.partition(".")[0]
        write("library.message", level="debug", library=library, detail=record.getMessage())


def _take_over_libraries(level: int) -> None:
    """Without a handler of ours, `logging` would print warnings to stderr by itself."""
    if level <= logging.DEBUG:
        # the transport silences it, unless somebody asked to hear it
        logging.getLogger("pika").setLevel(logging.WARNING)
    root = logging.getLogger()
    if not any(isinstance(handler, _LibraryHandler) for handler in root.handlers):
        root.addHandler(_LibraryHandler(logging.WARNING))
