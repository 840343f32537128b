"""Packets as files in a directory that several processes, hosts or couriers share.

    <root>/.chunkq-spool                     says that this is a spool and that its medium is there
    <root>/req.<site>/                       one mailbox: the requests to a site
    <root>/rep.<site>.<instance>/            one mailbox: the replies to an instance of a site
        tmp/                                 being written
        new/                                 whole, waits for a consumer
        cur/<consumer id>/                   claimed by a consumer, which holds a lock in there
        dead/                                rejected, torn, or delivered too often
        free/                                over; their files serve for the next ones

A packet is written in `tmp/`, renamed into `new/`, claimed by a rename into `cur/<consumer id>/`
and acknowledged by unlinking it, or by a rename into `free/` (see `recycling`). The claims of a
consumer that died (its lock is free) go back to `new/` as soon as another one of the mailbox looks.

Packets are not synced to the disk: a power cut may lose some or tear one (a torn one is put aside:
its size is not what its name says), and the protocol asks again. One mailbox must be consumed from
one host, or through a file system whose locks reach every host; publishers may be anywhere. Names
and lifetimes go by the wall clock, so the directory may travel.
"""

from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.transport import SpoolTransport

__all__ = ["SpoolOptions", "SpoolTransport"]
