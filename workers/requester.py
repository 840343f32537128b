"""A requester worker process: what `chunkq work` does, for a service manager to start.

It takes the jobs that `chunkq get --queue` left in the state directory. SIGTERM commits what is
under way, gives the job back, and exits 0.
"""

import sys

from chunkq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["work", *sys.argv[1:]]))
