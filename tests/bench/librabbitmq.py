"""The peer librabbitmq: `librabbitmq.c`, compiled where the benchmark keeps its files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.bench.measure import PeerMissing

SOURCE = Path(__file__).with_name("librabbitmq.c")
INSTALL = "apt-get install gcc libc6-dev librabbitmq-dev"


def compiled(directory: Path) -> Path:
    """The program. Raises PeerMissing where there is no C compiler or no librabbitmq."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise PeerMissing(f"no C compiler; {INSTALL}")
    program = directory / "librabbitmq"
    done = subprocess.run(
        [compiler, "-O2", "-o", program, SOURCE, "-lrabbitmq"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return program
    if "amqp.h" in done.stderr or "-lrabbitmq" in done.stderr:
        raise PeerMissing(f"librabbitmq is not installed; {INSTALL}")
    raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr}")


def version() -> str:
    """As the compiler's own search finds it: the library says `0.11.0`."""
    done = subprocess.run(
        ["cc", "-E", "-P", "-include", "amqp.h", "-"],
        input="AMQP_VERSION_MAJOR AMQP_VERSION_MINOR AMQP_VERSION_PATCH",
        capture_output=True,
        text=True,
        check=True,
    )
    return ".".join(done.stdout.split()[-3:])
