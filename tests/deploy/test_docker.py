"""The image and the compose file of deploy/docker: linted, and made of what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name(name))
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_dockerfile_is_clean() -> None:
    """Nothing that hadolint knows to be a mistake, down to its hints."""
    found = tool("hadolint", str(DOCKERFILE))

    assert (0, "") == (found.returncode, found.stdout)


def test_the_compose_file_is_one() -> None:
    """By the schema of the Compose specification."""
    found = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))

    assert 0 == found.returncode, found.stdout


def test_a_wrong_compose_file_is_found(tmp_path: Path) -> None:
    """So that the test above cannot pass without having looked."""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("pids_limit:", "pid_limit:"))
    found = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong))

    assert 1 == found.returncode


def test_what_is_copied_makes_the_package(tmp_path: Path) -> None:
    """Every file that the image's build needs is among those that it copies."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    source = tmp_path / "src"
    source.mkdir()
    for name in " ".join(copied).split():
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    subprocess.run(build, check=True, capture_output=True)

    assert 1 == len(list((source / "dist").glob("chunkq-*.whl")))


def test_every_file_that_the_compose_file_mounts_is_there() -> None:
    """What is of the project is found from where the file lies."""
    mounted = re.findall(r"^ +- (\.\./[^:]+):", COMPOSE.read_text(), re.MULTILINE)

    assert ["../rabbitmq/add-site"] == mounted
    assert (COMPOSE.parent / mounted[0]).is_file()
