"""Says in the log when a link is lost, and when it is back."""

from __future__ import annotations

from collections.abc import Iterable

from chunkq.ports import Log
from chunkq.protocol.report import LinkReport


class LinkLog:
    """Shown the links at each report, it tells of those that are not well for two in succession.

    What lasts for less is no news: a connection is being opened, or made anew.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._unwell: set[str] = set()
        self._told: set[str] = set()

    def see(self, links: Iterable[LinkReport]) -> None:
        unwell = set()
        for link in links:
            name = link.link
            if link.reason is None:
                if name in self._told:
                    self._log("link_back", link=name)
                continue
            unwell.add(name)
            if name in self._unwell - self._told:
                self._log(
                    "link_lost", level="warning", link=name, reason=link.reason, detail=link.detail
                )
                self._told.add(name)
        self._told &= unwell
        self._unwell = unwell
