"""What RabbitMQ's management API says of queues, by HTTP. Optional: AMQP tells the most of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from chunkq.errors import BrokerRefused, BrokerUnreachable, ConfigError
from chunkq.ports.viewing import QueueState
from chunkq.protocol.limits import MIB

#: A broker that is well answers within milliseconds.
TIMEOUT_S: Final = 5.0
#: A page of five hundred queues, of which only the columns below are asked for.
MAX_ANSWER_BYTES: Final = 4 * MIB
PAGE_QUEUES: Final = 500
_COLUMNS: Final = (
    "name",
    "messages_ready",
    "messages_unacknowledged",
    "consumers",
    "message_bytes_ready",
    "head_message_timestamp",
)


class _NoRedirect(HTTPRedirectHandler):
    """The password goes where the setting says, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Management:
    """`url`: `http://user:password@host:port`. Blocks. Raises `ConfigError` if it is none."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("management is no http:// or https:// URL with a host")

    @property
    def login(self) -> tuple[str, str]:
        """User and password."""
        parts = urlsplit(self.url)
        return unquote(parts.username or "guest"), unquote(parts.password or "guest")

    @property
    def place(self) -> str:
        """For messages: without the password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def queues(self, vhost: str, names: str) -> list[QueueState]:
        """Those whose name the pattern matches. Raises `BrokerUnreachable`, `BrokerRefused`."""
        query = urlencode(
            {
                "page": 1,
                "page_size": PAGE_QUEUES,
                "name": names,
                "use_regex": "true",
                "columns": ",".join(_COLUMNS),
            }
        )
        answer = self._get(f"/api/queues/{quote(vhost, safe='')}?{query}")
        items = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise BrokerRefused(f"what answers at {self.place} is not RabbitMQ's management API")
        pattern = re.compile(names)
        return [
            _state(item)
            for item in items
            if isinstance(item, dict) and pattern.fullmatch(str(item.get("name")))
        ]

    def _get(self, path: str) -> Any:
        parts = urlsplit(self.url)
        where = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, where, parts.path.rstrip("/"), "", "")) + path
        login = base64.b64encode(":".join(self.login).encode()).decode()
        request = Request(url, headers={"Authorization": f"Basic {login}"})  # noqa: S310 checked
        try:
            opener = build_opener(ProxyHandler({}), _NoRedirect())
            with opener.open(request, timeout=TIMEOUT_S) as response:
                raw = response.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            with error:
                raise self._refused(error.code) from error
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise BrokerUnreachable(
                f"no answer from RabbitMQ's management at {self.place}: {reason}",
                hint="rabbitmq-plugins enable rabbitmq_management; check `management` of the link",
            ) from error
        try:
            if len(raw) > MAX_ANSWER_BYTES:
                raise ValueError("it is too long")
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BrokerRefused(
                f"what answers at {self.place} is not RabbitMQ's management API: {error}"
            ) from error

    def _refused(self, code: int) -> BrokerRefused:
        user = self.login[0]
        if code in (401, 403):
            return BrokerRefused(
                f"RabbitMQ's management at {self.place} refused the user {user!r}",
                hint=f"rabbitmqctl set_user_tags {user} monitoring; check `management` of the link",
            )
        return BrokerRefused(f"RabbitMQ's management at {self.place} answered with status {code}")


def _state(item: Mapping[str, Any]) -> QueueState:
    def number(name: str) -> int | None:
        value = item.get(name)
        return value if isinstance(value, int) and value >= 0 else None

    stamp = number("head_message_timestamp")
    return QueueState(
        name=str(item.get("name")),
        depth=number("messages_ready"),
        consumers=number("consumers"),
        unacknowledged=number("messages_unacknowledged"),
        oldest_ms=None if stamp is None else 1000 * stamp,
        size_bytes=number("message_bytes_ready"),
    )
