"""The nodes of a broker in one URL: `amqp://user:password@one:5672,two:5672/vhost`."""

from __future__ import annotations

import re
from typing import Final

#: scheme:// and login, then hosts with their ports, then the rest.
_PARTS: Final = re.compile(r"([a-z]+://(?:[^/?#]*@)?)([^/?#]*)(.*)", re.DOTALL)


def node_urls(url: str) -> tuple[str, ...]:
    """A URL of one host for each that `url` names, in its order; what is no URL stays as it is.

    User, password, virtual host and options are the same for all.
    """
    found = _PARTS.fullmatch(url)
    if found is None:
        return (url,)
    before, hosts, after = found.groups()
    return tuple(f"{before}{host}{after}" for host in hosts.split(","))
