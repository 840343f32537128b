"""The library: a site that fetches, lists and serves. The command line is written against it.

async with Site.open() as site:
    transfer = site.fetch("bob:docs/report.pdf", "report.pdf")
    async for progress in transfer:
        print(progress.bytes_present, progress.bytes_total)
    print((await transfer).content_digest)
"""

from chunkq.api.site import Site
from chunkq.api.source import Source
from chunkq.api.transfer import Transfer
from chunkq.api.trust import KeyNews
from chunkq.api.verification import Verification, Verified, forget
from chunkq.protocol.keyring import KeyRing

__all__ = [
    "KeyNews",
    "KeyRing",
    "Site",
    "Source",
    "Transfer",
    "Verification",
    "Verified",
    "forget",
]
