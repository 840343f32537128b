"""The only reader of the environment and of configuration files.

`load` gives `Settings` with the source of every value; `Registry` gives peers and shares as they
are on disk right now. Whoever embeds chunkq may build `Settings` directly instead.
"""

from chunkq.protocol.brokerurl import mask_url
from chunkq.settings.load import Loaded, Source, load, show
from chunkq.settings.model import (
    DEFAULT_LINK,
    MAX_ORIGINS,
    Link,
    LogSettings,
    OriginSettings,
    ProgressSettings,
    RequesterSettings,
    Settings,
    check_link_url,
    spool_url,
)
from chunkq.settings.places import Directories
from chunkq.settings.process import Supervisor, debug_wanted, supervisor
from chunkq.settings.registry import Registry
from chunkq.settings.trust import Grant, Peer, ShareConfig, check_label, check_prefix, make_share

__all__ = [
    "DEFAULT_LINK",
    "MAX_ORIGINS",
    "Directories",
    "Grant",
    "Link",
    "Loaded",
    "LogSettings",
    "OriginSettings",
    "Peer",
    "ProgressSettings",
    "Registry",
    "RequesterSettings",
    "Settings",
    "ShareConfig",
    "Source",
    "Supervisor",
    "check_label",
    "check_link_url",
    "check_prefix",
    "debug_wanted",
    "load",
    "make_share",
    "mask_url",
    "show",
    "spool_url",
    "supervisor",
]
