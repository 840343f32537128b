"""The nodes of a broker in one URL: `amqp://user:password@one:5672,two:5672/vhost`.

A password that was written as it is may make the URL another one: what is said of a URL that does
not hold has nothing of it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

#: scheme:// and login, then hosts with their ports, then the rest.
_PARTS: Final = re.compile(r"([a-z]+://(?:[^/?#]*@)?)([^/?#]*)(.*)", re.DOTALL)
#: Where the login begins, also where a slash or two were forgotten.
_SCHEME: Final = re.compile(r"\s*(?:amqps?:/{0,2}|[a-z0-9+.-]+:/{1,2})", re.IGNORECASE)
#: `urlsplit` leaves some of them out, so that what is used is not what was written.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED: Final = "in login and virtual host, / is written %2F, ? is %3F, # is %23, @ is %40"


def node_urls(url: str) -> tuple[str, ...]:
    """A URL of one host for each that `url` names, in its order; what is no URL stays as it is.

    User, password, virtual host and options are the same for all.
    """
    found = _PARTS.fullmatch(url)
    if found is None:
        return (url,)
    before, hosts, after = found.groups()
    return tuple(f"{before}{host}{after}" for host in hosts.split(","))


def mask_url(url: str) -> str:
    """The URL with its password replaced by `***`, also where the URL is malformed.

    Rather too much is left out than too little: all from the first colon to the last @.
    """
    found = _SCHEME.match(url)
    start = found.end() if found else 0
    login, at, rest = url[start:].rpartition("@")
    user, colon, _ = login.partition(":")
    if not (at and colon) or url[start : start + 1] == "/":
        return url
    return f"{url[:start]}{user}:***@{rest}"


def check_whole(url: str) -> None:
    """Raises `ValueError`, without a word of the URL, if its parts are not where they seem to be.

    For a URL as it was given, with all its nodes.
    """
    if url != url.strip() or _CONTROL.search(url):
        raise ValueError("has a blank before or behind it, or a control character in it")
    parts = split_url(url, ports=False)
    if parts.scheme != "spool" and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(f"has an @ behind its host; {_ENCODED}")


def split_url(url: str, *, ports: bool = True) -> SplitResult:
    """The parts of a URL of one host (with `ports`), or of any number of them.

    Raises `ValueError` without a word of the URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port if ports else None
    except ValueError:
        raise ValueError(f"does not parse: a port is a number; {_ENCODED}") from None
    return parts
