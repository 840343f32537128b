"""Flag > environment > file > default; where every value came from is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError

from chunkq.errors import ConfigError
from chunkq.settings.files import find_line, parse_toml, read_text
from chunkq.settings.model import (
    DEFAULT_LINK,
    Link,
    LogSettings,
    MetricsSettings,
    OriginSettings,
    ProgressSettings,
    RequesterSettings,
    Settings,
)
from chunkq.settings.nearest import did_you_mean
from chunkq.settings.places import Directories, expand_home
from chunkq.settings.quantity import AUTO, show_duration, show_rate, show_size

PREFIX: Final = "CHUNKQ_"
#: Variables that are no setting: read where they are needed, or by the test suite.
_OTHER_VARIABLES: Final = ("CHUNKQ_CONFIG_DIR", "CHUNKQ_STATE_DIR", "CHUNKQ_DEBUG")
_TEST_PREFIX: Final = "CHUNKQ_TEST_"

_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "requester": RequesterSettings,
    "origin": OriginSettings,
    "log": LogSettings,
    "progress": ProgressSettings,
    "metrics": MetricsSettings,
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from; `place` is the flag, the variable, or the file and line."""

    kind: Literal["flag", "environment", "file", "default"]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".strip()


_DEFAULT: Final = Source("default")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and the source of every key that is not at its default."""

    settings: Settings
    sources: Mapping[str, Source]

    def source(self, key: str) -> Source:
        """Where the value of `key` (dotted, as in the file) came from."""
        return self.sources.get(key, _DEFAULT)


def load(
    *,
    config_dir: Path | None = None,
    state_dir: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the configuration. `flags` maps dotted keys to what the command line gave.

    Raises `ConfigError` for whatever is unknown or out of bounds, naming where it stands.
    """
    environ = os.environ if environ is None else environ
    directories, sources = _find_directories(config_dir, state_dir, environ)
    values: dict[str, Any] = {}
    for key, value, source in _from_file(directories.config_file):
        _put(values, key, value)
        sources[key] = source
    for key, text, source in _from_environment(environ):
        _put(values, key, text)
        sources[key] = source
    for key, given in (flags or {}).items():
        _put(values, key, given)
        sources[key] = Source("flag")
    _anchor_paths(values, directories, sources)
    try:
        settings = Settings.model_validate({**values, "directories": directories})
    except ValidationError as error:
        raise _translate(error, sources, directories.config_file) from None
    return Loaded(settings, sources)


def show(loaded: Loaded) -> Iterator[tuple[str, object, Source]]:
    """Every key, its value as one would write it (passwords masked), and its source."""
    directories = loaded.settings.directories
    yield "config_dir", str(directories.config), loaded.source("config_dir")
    yield "state_dir", str(directories.state), loaded.source("state_dir")
    yield "name", loaded.settings.name, loaded.source("name")
    for name, link in loaded.settings.links.items():
        for key, value in _show_fields(link, skip=("name",)):
            masked = {"url": link.safe_url, "management": link.safe_management}
            shown = masked.get(key, value)
            yield f"links.{name}.{key}", shown, loaded.source(f"links.{name}.{key}")
    for share, mirrors in loaded.settings.mirrors.items():
        yield f"mirrors.{share}", list(mirrors), loaded.source(f"mirrors.{share}")
    for section in _SECTIONS:
        for key, value in _show_fields(getattr(loaded.settings, section)):
            yield f"{section}.{key}", value, loaded.source(f"{section}.{key}")


def _show_fields(model: BaseModel, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    for attribute, field in type(model).model_fields.items():
        if attribute in skip:
            continue
        value = getattr(model, attribute)
        if value is None:
            value = AUTO if attribute == "disk_floor_bytes" else None
        elif attribute.endswith("_bytes_per_s"):
            value = show_rate(value)
        elif attribute.endswith("_bytes"):
            value = show_size(value)
        elif attribute.endswith("_s"):
            value = show_duration(value)
        elif isinstance(value, Path):
            value = str(value)
        yield field.alias or attribute, value


def _find_directories(
    config_dir: Path | None, state_dir: Path | None, environ: Mapping[str, str]
) -> tuple[Directories, dict[str, Source]]:
    sources: dict[str, Source] = {}
    standard = Directories.standard()
    found: dict[str, Path] = {"config_dir": standard.config, "state_dir": standard.state}
    for key, flag in (("config_dir", config_dir), ("state_dir", state_dir)):
        variable = PREFIX + key.upper()
        if flag is not None:
            found[key], sources[key] = flag, Source("flag", f"--{key.replace('_', '-')}")
        elif environ.get(variable):
            found[key], sources[key] = Path(environ[variable]), Source("environment", variable)
    directories = Directories(
        config=expand_home(found["config_dir"]).absolute(),
        state=expand_home(found["state_dir"]).absolute(),
    )
    return directories, sources


def _from_file(path: Path) -> Iterator[tuple[str, object, Source]]:
    text = read_text(path)
    if text is None:
        return
    data = parse_toml(path, text)
    known = list(dict.fromkeys(_known_keys(data)))
    for key, value in _flatten(data):
        line = find_line(text, key)
        place = f"{path}:{line}" if line else str(path)
        if key not in known and value != {}:
            raise ConfigError(
                f"{place}: unknown key {_plain(key)}",
                hint=_nearest_key(_plain(key), known),
            )
        yield key, value, Source("file", place)


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; a section without keys sets nothing, a link without does."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif value != {} or prefix == "links.":
            yield f"{prefix}{key}", value
        elif prefix or (key not in ("links", "mirrors") and key not in _SECTIONS):
            yield f"{prefix}{key}", None


def _known_keys(data: Mapping[str, Any]) -> Iterator[str]:
    yield "name"
    for section, model in _SECTIONS.items():
        yield from (f"{section}.{key}" for key in _keys(model))
    mirrors = data.get("mirrors")
    yield from (f"mirrors.{share}" for share in mirrors or () if isinstance(mirrors, Mapping))
    links = data.get("links")
    for name in {DEFAULT_LINK, *(links if isinstance(links, Mapping) else ())}:
        yield from (f"links.{name}.{key}" for key in _keys(Link) if key != "name")


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for attribute, field in model.model_fields.items():
        yield field.alias or attribute


@cache
def _variables() -> Mapping[str, str]:
    """Environment variable → dotted key."""
    table = {f"{PREFIX}NAME": "name"}
    for section, model in _SECTIONS.items():
        for key in _keys(model):
            table[f"{PREFIX}{section}_{key}".upper()] = f"{section}.{key}"
    for key in _keys(Link):
        if key != "name":
            table[f"{PREFIX}LINK_{key}".upper()] = f"links.{DEFAULT_LINK}.{key}"
    return table


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Source]]:
    table = _variables()
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(_TEST_PREFIX):
            continue
        if variable in _OTHER_VARIABLES or (not text and variable in table):
            continue
        if variable not in table:
            known = [*table, *_OTHER_VARIABLES]
            raise ConfigError(
                f"unknown environment variable {variable}",
                hint=_nearest_variable(variable, known),
            )
        yield table[variable], text, Source("environment", variable)


def _nearest_key(key: str, known: list[str]) -> str:
    """In its own section first: there the section's name makes all keys look alike."""
    section, dot, word = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    near = did_you_mean(word, beside)
    if near is not None:
        return near.replace("mean ", f"mean {section}{dot}").replace(" or ", f" or {section}{dot}")
    return did_you_mean(key, known) or f"known keys: {', '.join(sorted(known))}"


def _nearest_variable(variable: str, known: list[str]) -> str:
    """Compared without the prefix, which makes all of them look alike."""
    near = did_you_mean(variable.removeprefix(PREFIX), [name[len(PREFIX) :] for name in known])
    if near is None:
        return f"known ones: {', '.join(sorted(known))}"
    return near.replace("did you mean ", f"did you mean {PREFIX}").replace(" or ", f" or {PREFIX}")


def _put(values: dict[str, Any], key: str, value: object) -> None:
    *tables, last = key.split(".")
    for table in tables:
        below = values.setdefault(table, {})
        if not isinstance(below, dict):
            below = values[table] = {}
        values = below
    values[last] = value


def _anchor_paths(
    values: Mapping[str, Any], directories: Directories, sources: Mapping[str, Source]
) -> None:
    """Certificates are given relative to the configuration, wherever the command is run."""
    links = values.get("links")
    for name, link in links.items() if isinstance(links, Mapping) else ():
        for key in ("ca", "cert", "key"):
            if not isinstance(link, dict) or not isinstance(link.get(key), str):
                continue
            try:
                link[key] = directories.config / expand_home(Path(link[key]))
            except ConfigError as error:
                full = f"links.{name}.{key}"
                raise _wrong(full, error.message, sources, directories.config_file) from None


def _translate(
    error: ValidationError, sources: Mapping[str, Source], config_file: Path
) -> ConfigError:
    """The first thing that is wrong, as one sentence with its place; never the value itself."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    reason = first["msg"].removeprefix("Value error, ")
    return _wrong(key, reason, sources, config_file)


def _wrong(key: str, reason: str, sources: Mapping[str, Source], config_file: Path) -> ConfigError:
    """Says what is wrong with the value of `key`, and where it stands."""
    source = sources.get(key) or sources.get(key.rpartition(".")[0])  # one of a list has no line
    if source is None:
        below = [found for name, found in sources.items() if name.startswith(f"{key}.")]
        source = below[0] if below else None
    if source is None or source.kind == "flag":
        place = f"{config_file}: " if source is None else ""
    else:
        place = f"{source.place}: "
    return ConfigError(f"{place}{_plain(key)}: {_plain(reason)}")


def _plain(text: str) -> str:
    """Names from a file, safe to print."""
    return "".join(char if char.isprintable() else "?" for char in text)
