"""The views by their names, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chunkq.dashboard.views import (
    audit,
    history,
    peers,
    queues,
    refused,
    transfer,
    transfers,
    workers,
)
from chunkq.dashboard.views.view import View

#: Those that have a place in the navigation.
LISTS: Final = (
    transfers.VIEW,
    peers.VIEW,
    queues.VIEW,
    workers.VIEW,
    refused.VIEW,
    history.VIEW,
    audit.VIEW,
)
VIEWS: Final[Mapping[str, View]] = {each.name: each for each in (*LISTS, transfer.VIEW)}
