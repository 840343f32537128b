"""The configuration that `chunkq init` leaves: small, and teaching what else there is."""

from __future__ import annotations

from typing import Final

import tomli_w

_HEAD: Final = """\
# chunkq's configuration. Lines with # are the defaults or examples.
# What is in force, and where each value comes from: chunkq config show
# Each can be set for one run, too: CHUNKQ_REQUESTER_PATIENCE=10m chunkq get ...

# What this site calls itself: peers see it, and it names its queues.
"""

_LINK_HEAD: Final = """
# A link is how peers are reached. The one called "default" is used where none is named.
[links.default]
"""

_LINK_EXAMPLE: Final = """\
# url = "spool:///var/spool/chunkq"       # a directory: shared, mounted, or carried about
# url = "amqps://alpha:password@broker.example:5671/chunkq"
# url = "amqps://alpha:password@one.example:5671,two.example:5671/chunkq"   # nodes of a cluster
"""

_TAIL: Final = """\
# largest_chunk = "4MiB"                  # the largest piece of a file that the link carries
# max_message = "16MiB"                   # the broker's limit; chunks have to fit
# request_lifetime = "10m"                # "30d" for a directory that travels by post
# send_rate = "10Mbit/s"                  # or "1MiB/s": what each process may send; none: no limit
# receive_rate = "10Mbit/s"               # what each process may take; `chunkq bench PEER` advises
# burst = "256KiB"                        # at once after a pause; default: a quarter of a second
# compression = "auto"                    # "off": never; sizes of packets then tell no content
# ca = "broker-ca.pem"                    # for amqps; beside this file
# cert = "alpha.pem"                      # to show the broker a certificate
# key = "alpha.key"
# external = false                        # true: the certificate is the log-in
# by_policy = false                       # true: the administrator limits queues by policies
# shared_group = false                    # true: the spool is open to its group

# [requester]
# concurrency = 8                         # files got at once
# patience = "2m"                         # how long a peer may be silent before giving up
# commit_size = "64MiB"                   # progress is made safe after so many bytes
# commit_interval = "1s"                  # or so long
# pending_transfers = 64                  # of one peer at once; more wait for their turn
# disk_per_peer = "0B"                    # what unfinished files of a peer may take; 0: anything
# disk_floor = "auto"                     # stays free; auto: 1GiB, or 5% of a disk below 20GiB

# [origin]
# concurrency = 8                         # requests a worker answers at once
# What one peer may have of a worker; for one in particular: chunkq peer set PEER
# requests_per_second = 1000              # more are refused for the moment
# bytes_in_flight = "256MiB"              # of answers being made or on their way
# bytes_per_day = "0B"                    # of files in 24 hours, from all workers; 0: any number
# pending_requests = 256                  # taken from the queue and not yet answered
# pending_hashes = 64                     # large files that wait to be hashed for it

# [log]
# level = "info"                          # debug, info, warning, error
# format = "auto"                         # console on a terminal, json otherwise
# paths = false                           # true: names of files may appear in the log

# [metrics]                               # pip install 'chunkq[metrics]'
# listen = "127.0.0.1:9753"               # /metrics, /healthz, /readyz; no default: nowhere

# [mirrors]                               # where else the files of a share are to be had
# "bob:docs" = ["eve:docs", "dan:copies"] # `get bob:docs/x` then comes from all three

# [progress]
# interval = "0s"                         # a line so often where there is no terminal; 0: none
"""


def render_config(name: str, link_url: str | None) -> str:
    """The text of a new `config.toml`."""
    link = _LINK_EXAMPLE if link_url is None else tomli_w.dumps({"url": link_url})
    return f"{_HEAD}{tomli_w.dumps({'name': name})}{_LINK_HEAD}{link}{_TAIL}"
