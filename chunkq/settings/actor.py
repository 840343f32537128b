"""Who runs this process: what is written down beside what a person did."""

from __future__ import annotations

import os
import pwd
import socket


def actor() -> str:
    """`user@host`; a user without a name by number."""
    user_id = os.getuid()
    try:
        user = pwd.getpwuid(user_id).pw_name
    except KeyError:
        user = str(user_id)
    return f"{user}@{socket.gethostname()}"
