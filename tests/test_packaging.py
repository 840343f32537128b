"""What is in the wheel, and what is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without network from a copy of what the repository holds."""
    source = tmp_path_factory.mktemp("source") / "chunkq"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("chunkq", "workers"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_only_chunkq_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """No `workers`, no `tests`: such names would be rude in site-packages."""
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"chunkq"}


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """And the marker that it is typed."""
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "chunkq").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "chunkq/py.typed" in wanted
    assert wanted <= set(wheel.namelist())


def test_the_console_script(wheel: zipfile.ZipFile) -> None:
    """`chunkq` is the only command."""
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))

    assert wheel.read(name).decode().split("\n\n")[0].splitlines() == [
        "[console_scripts]",
        "chunkq = chunkq.cli.main:main",
    ]


def test_the_licence_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Apache-2.0 asks for it."""
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_workers_are_programs_and_not_a_package() -> None:
    """No `__init__.py`, and no name that would hide a standard module beside it."""
    found = list((ROOT / "workers").rglob("*.py"))

    assert found
    assert not [path for path in found if path.name == "__init__.py"]
    assert not [path for path in found if path.stem in sys.stdlib_module_names]
