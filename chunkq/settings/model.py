"""What can be set, with its default and its bounds.

Keys in `config.toml` are the aliases (`largest_chunk = "256KiB"`); attributes carry the unit
(`largest_chunk_bytes`). Everything is frozen; whoever embeds chunkq builds `Settings` directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from chunkq.errors import ConfigError, NotFound, UsageError
from chunkq.protocol.brokerurl import check_whole, mask_url, node_urls, split_url
from chunkq.protocol.limits import (
    COMMIT_BYTES,
    COMMIT_INTERVAL_MS,
    DEFAULT_LIFETIME_MS,
    KIB,
    MAX_CHUNK_SIZE_BYTES,
    MAX_LIFETIME_MS,
    MIB,
    MIN_CHUNK_SIZE_BYTES,
)
from chunkq.protocol.quota import (
    DEFAULT_BYTES_IN_FLIGHT,
    DEFAULT_PENDING_HASHES,
    DEFAULT_PENDING_REQUESTS,
    DEFAULT_REQUESTS_PER_S,
    Quota,
)
from chunkq.settings.nearest import did_you_mean
from chunkq.settings.places import Directories
from chunkq.settings.quantity import DurationSeconds, RateBytes, SizeBytes, SizeOrAuto

#: Names of sites, peers, links and shares: a DNS label, so that they fit routing keys and files.
LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LABEL_RULE: Final = "1 to 63 of a-z, 0-9 and -, not beginning with -"


def _check_label(word: str) -> str:
    if LABEL.fullmatch(word) is None:
        raise ValueError(f"{word!a} is no name; use {LABEL_RULE}")
    return word


Label = Annotated[str, AfterValidator(_check_label)]

#: The link that is used where none is named.
DEFAULT_LINK: Final = "default"
#: RabbitMQ refuses larger messages unless told otherwise (4.x: 16 MiB).
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * MIB
#: Header, seal and framing around a chunk; generous, so that a link's limit is never met exactly.
PACKET_OVERHEAD_BYTES: Final = 64 * KIB
#: Slowest rate of a link: the smallest chunk in four seconds; below it nothing of use moves.
MIN_RATE_BYTES_PER_S: Final = 1 * KIB
#: Transfers of one peer that are under way at once in a process. Where more are begun (a server
#: that embeds this may begin thousands) the others wait, and keep nothing open meanwhile.
DEFAULT_PENDING_TRANSFERS: Final = 64
MAX_PORT: Final = 65535
#: Most files fetched at once: each holds a part file, a state file and a window.
MAX_CONCURRENCY: Final = 64


class Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, arbitrary_types_allowed=True
    )


class Link(Model):
    """How peers are reached: a transport, and its limits.

    `url` is `spool:///directory`, `amqp://user:password@host:port/vhost` or `amqps://…`, with
    `host:port,host:port` for the nodes of a cluster. The password is shown nowhere: use `safe_url`.

    `send_rate`, `receive_rate`: bytes a second that each process puts on the link and takes from
    it; several workers on one host each get the whole rate, so divide it among them. `burst`: what
    may pass at once after a pause (and one packet more), a quarter of a second's bytes by default.

    `compression`: "auto" packs file content where that saves time on the link, if both sides say
    so; the sizes of packets then depend on the content, which "off" avoids.

    `by_policy`: the broker's administrator limits the queues by policies, so they are declared
    without arguments. `shared_group`: the spool's directories are open to their group.

    `management`: `http://user:password@host:15672`, the broker's management API with an operator's
    login, for what `chunkq` shows of queues and does with dead letters.
    """

    name: Label = DEFAULT_LINK
    url: str = Field(repr=False)
    largest_chunk_bytes: SizeBytes = Field(default=MAX_CHUNK_SIZE_BYTES, alias="largest_chunk")
    max_message_bytes: SizeBytes = Field(default=DEFAULT_MAX_MESSAGE_BYTES, alias="max_message")
    request_lifetime_s: DurationSeconds = Field(
        default=DEFAULT_LIFETIME_MS / 1000,
        alias="request_lifetime",
        ge=1,
        le=MAX_LIFETIME_MS / 1000,
    )
    send_rate_bytes_per_s: RateBytes | None = Field(
        default=None, alias="send_rate", ge=MIN_RATE_BYTES_PER_S
    )
    receive_rate_bytes_per_s: RateBytes | None = Field(
        default=None, alias="receive_rate", ge=MIN_RATE_BYTES_PER_S
    )
    burst_bytes: SizeBytes | None = Field(default=None, alias="burst")
    compression: Literal["auto", "off"] = "auto"
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    external: bool = False
    by_policy: bool = False
    shared_group: bool = False
    management: str | None = Field(default=None, repr=False)

    @property
    def safe_management(self) -> str | None:
        """The management URL without its password."""
        return None if self.management is None else mask_url(self.management)

    @property
    def transport(self) -> Literal["spool", "rabbitmq"]:
        return "spool" if self.url.startswith("spool:") else "rabbitmq"

    @property
    def packs(self) -> bool:
        """Whether replies on this link may be packed."""
        return self.compression == "auto"

    @property
    def slowest_rate_bytes_per_s(self) -> int | None:
        """The smaller of the two rates; None where neither is limited."""
        rates = (self.send_rate_bytes_per_s, self.receive_rate_bytes_per_s)
        return min((rate for rate in rates if rate is not None), default=None)

    @property
    def spool_path(self) -> Path:
        """The directory of queues. Only for spool links."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def node_urls(self) -> tuple[str, ...]:
        """One URL for each of the broker's nodes that `url` names; else just `url`."""
        return node_urls(self.url)

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return mask_url(self.url)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_url(self.url)
        size = self.largest_chunk_bytes
        if not MIN_CHUNK_SIZE_BYTES <= size <= MAX_CHUNK_SIZE_BYTES or size & (size - 1):
            raise ValueError(f"largest_chunk {size} is not a power of two from 4KiB to 4MiB")
        if size + PACKET_OVERHEAD_BYTES > self.max_message_bytes:
            raise ValueError(
                f"largest_chunk {size} and {PACKET_OVERHEAD_BYTES} bytes around it do not fit into "
                f"max_message {self.max_message_bytes}"
            )
        if self.burst_bytes is not None and self.slowest_rate_bytes_per_s is None:
            raise ValueError("burst has no effect without send_rate or receive_rate")
        self._check_keys_belong()
        if self.management is not None:
            _check_management(self.management)
        return self

    def _check_keys_belong(self) -> None:
        """A key that has no effect on this kind of link was meant for another."""
        wanted = {"ca": "amqps", "cert": "amqps", "key": "amqps", "external": "amqps"}
        wanted |= {"by_policy": "amqp", "shared_group": "spool", "management": "amqp"}
        for word, scheme in wanted.items():
            if getattr(self, word) and not self.url.startswith(scheme):
                raise ValueError(f"{word} is for {scheme}:// links, not to {self.safe_url}")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both or neither")
        if self.external and self.cert is None:
            raise ValueError("external = true logs in by certificate: give cert and key")


class RequesterSettings(Model):
    """How files are fetched. `patience_s`: how long a peer may be silent before giving up.

    `pending_transfers`: of one peer at once in a process, the others wait. `disk_per_peer_bytes`:
    what unfinished files of one peer may take at once in a process; 0: any number.
    `disk_floor_bytes`: what stays free on a disk that is written to; None: the smaller of 1 GiB
    and a twentieth of it; 0: nothing.
    """

    concurrency: int = Field(default=8, ge=1, le=MAX_CONCURRENCY)
    patience_s: DurationSeconds = Field(default=120.0, alias="patience", ge=1)
    commit_size_bytes: SizeBytes = Field(default=COMMIT_BYTES, alias="commit_size", ge=1)
    commit_interval_s: DurationSeconds = Field(
        default=COMMIT_INTERVAL_MS / 1000, alias="commit_interval", gt=0, le=60
    )
    pending_transfers: int = Field(default=DEFAULT_PENDING_TRANSFERS, ge=1)
    disk_per_peer_bytes: SizeBytes = Field(default=0, alias="disk_per_peer")
    disk_floor_bytes: SizeOrAuto = Field(default=None, alias="disk_floor")


class OriginSettings(Model):
    """How files are served: requests worked on at once, and what one peer may have of a worker.

    The quotas are those of `chunkq.protocol.quota.Quota`.
    """

    concurrency: int = Field(default=8, ge=1, le=MAX_CONCURRENCY)
    requests_per_second: float = Field(default=DEFAULT_REQUESTS_PER_S, gt=0)
    in_flight_bytes: SizeBytes = Field(
        default=DEFAULT_BYTES_IN_FLIGHT, alias="bytes_in_flight", ge=1
    )
    day_bytes: SizeBytes = Field(default=0, alias="bytes_per_day")
    pending_requests: int = Field(default=DEFAULT_PENDING_REQUESTS, ge=1)
    pending_hashes: int = Field(default=DEFAULT_PENDING_HASHES, ge=1)

    @property
    def quota(self) -> Quota:
        """What one peer may have, of which nothing else is said."""
        return Quota(
            requests_per_s=self.requests_per_second,
            bytes_in_flight=self.in_flight_bytes,
            bytes_per_day=self.day_bytes,
            pending_requests=self.pending_requests,
            pending_hashes=self.pending_hashes,
        )


class LogSettings(Model):
    """`paths`: whether names of files may appear in the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    paths: bool = False


class ProgressSettings(Model):
    """`interval_s`: seconds between progress lines where there is no terminal; 0: none."""

    interval_s: DurationSeconds = Field(default=0.0, alias="interval")


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and int(port) <= MAX_PORT):
        raise ValueError(f"{text!a} is no address; write HOST:PORT, as in 127.0.0.1:9753")
    return text


class MetricsSettings(Model):
    """`listen`: where a worker answers /metrics, /healthz and /readyz, `HOST:PORT`; None: nowhere.

    Whoever reaches it reads names of peers and links: a host's own, or a network's for that alone.
    """

    listen: Annotated[str, AfterValidator(_check_address)] | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def _check_share(text: str) -> str:
    peer, colon, share = text.partition(":")
    if not colon or not (LABEL.fullmatch(peer) and LABEL.fullmatch(share)):
        raise ValueError(f"{text!a} is no share of a peer; write PEER:SHARE, as in bob:docs")
    return text


#: A share at a peer, `PEER:SHARE`.
PeerShare = Annotated[str, AfterValidator(_check_share)]
#: Most peers that one file comes from at once: each has a window of 64 MiB, and is asked first.
MAX_ORIGINS: Final = 16


class Settings(Model):
    """Everything that a site can be told. `name` is None until `chunkq init`.

    `mirrors`: shares, and where else the same files are to be had.
    """

    directories: Directories = Field(default_factory=Directories.standard)
    name: Label | None = None
    links: Mapping[Label, Link] = Field(default_factory=dict)
    requester: RequesterSettings = RequesterSettings()
    origin: OriginSettings = OriginSettings()
    log: LogSettings = LogSettings()
    progress: ProgressSettings = ProgressSettings()
    metrics: MetricsSettings = MetricsSettings()
    mirrors: Mapping[PeerShare, tuple[PeerShare, ...]] = Field(default_factory=dict)

    @field_validator("mirrors")
    @classmethod
    def _check_mirrors(
        cls, mirrors: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, tuple[str, ...]]:
        for share, others in mirrors.items():
            peers = [each.partition(":")[0] for each in (share, *others)]
            again = next((peer for peer in peers if peers.count(peer) > 1), None)
            if again is not None:
                raise ValueError(f"{share}: {again} is named twice; mirrors are at other peers")
            if len(peers) > MAX_ORIGINS:
                raise ValueError(f"{share}: {len(peers)} peers are too many, at most {MAX_ORIGINS}")
        return mirrors

    @model_validator(mode="before")
    @classmethod
    def _fill_links(cls, data: Any) -> Any:
        """Give every link its name, and the default link its default URL."""
        if not isinstance(data, dict):
            return data
        directories = data.get("directories") or Directories.standard()
        if isinstance(directories, Mapping):
            directories = Directories(**{word: Path(path) for word, path in directories.items()})
        links = data.get("links") or {}
        if not isinstance(links, Mapping):
            return data
        links = {DEFAULT_LINK: {}, **links}
        filled: dict[str, Any] = {}
        for name, link in links.items():
            if isinstance(link, Mapping):
                link = {**link, "name": name}  # noqa: PLW2901
                if name == DEFAULT_LINK:
                    link.setdefault("url", spool_url(directories.spool))
            filled[name] = link
        return {**data, "directories": directories, "links": filled}

    def link(self, name: str) -> Link:
        """The link called so. Raises `NotFound`."""
        try:
            return self.links[name]
        except KeyError:
            known = sorted(self.links)
            hint = did_you_mean(name, known) or f"known: {', '.join(known)}; see config.toml"
            raise NotFound(f"no link is called {name!r}", hint=hint) from None

    @property
    def site_name(self) -> str:
        """The site's name. Raises `ConfigError` where there is none yet."""
        if self.name is None:
            raise ConfigError(
                f"this site has no name yet: {self.directories.config_file} does not set one",
                hint="run: chunkq init --name NAME",
            )
        return self.name


def spool_url(directory: Path) -> str:
    """The link URL of a directory."""
    return "spool://" + directory.as_posix().replace("%", "%25").replace("?", "%3F").replace(
        "#", "%23"
    )


def check_link_url(url: str) -> None:
    """Raises `UsageError` if no link can have this URL."""
    try:
        _check_url(url)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_url(url: str) -> None:
    """Raises `ValueError`, never with the password in it."""
    try:
        check_whole(url)
    except ValueError as error:
        raise ValueError(f"url {mask_url(url)} {error}") from None
    for each in node_urls(url):
        _check_node_url(each)


def _check_management(url: str) -> None:
    """Raises `ValueError`, never with the password in it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError(
            f"management {mask_url(url)} is no URL of a management API; write"
            " http://user:password@host:15672"
        )


def _check_node_url(url: str) -> None:
    shown = mask_url(url)
    try:
        parts = split_url(url)
    except ValueError as error:
        raise ValueError(f"url {shown} {error}") from None
    if parts.scheme == "spool":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"url {shown}: write spool:/// and an absolute path (three slashes)")
        return
    if parts.scheme not in ("amqp", "amqps"):
        raise ValueError(f"url {shown}: it begins with spool:///, amqp:// or amqps://")
    if not parts.hostname:
        raise ValueError(f"url {shown} names no host")
    if parts.port == 0:
        raise ValueError(f"url {shown}: port 0 is none")
