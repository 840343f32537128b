"""An origin worker process: what `chunkq serve` does, for a service manager to start.

Configured by the CHUNKQ_* variables and the configuration directory. SIGTERM lets it finish what it
has and exit 0; with NOTIFY_SOCKET set it says when it is ready.
"""

import sys

from chunkq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
