"""`python -m tests.killloop --rounds N --seed S [--only K]`: exits with 1 if a round failed."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.killloop.campaign import Campaign
from tests.killloop.table import table
from tests.killloop.world import Failure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killloop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="K", help="round K alone")
    parser.add_argument("--each-once", action="store_true", help="every kind of fault, soon")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int(time.time())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="chunkq-killloop-"))
    campaign = Campaign(seed, given.rounds, given.only, given.each_once)
    print(f"{given.rounds} rounds, seed {seed}", flush=True)
    failure: Failure | None = None
    try:
        campaign.run(root, lambda said: print(said, flush=True))
    except Failure as error:
        failure = error
    except KeyboardInterrupt:
        if campaign.outcomes:
            print(table(campaign.outcomes, campaign.trends))
        print("stopped", file=sys.stderr)
        shutil.rmtree(root, ignore_errors=True)
        return 130
    if campaign.outcomes:
        print(table(campaign.outcomes, campaign.trends))
    if failure is not None:
        print(f"FAILED: {failure}\nseed {seed}; what there is of it: {root}", file=sys.stderr)
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
