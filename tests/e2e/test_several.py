"""One file from several origins: real processes; some die, have another version, or refuse."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.storage.transfers import list_transfers
from tests.support.pair import OFTEN, Actor, Running, until
from tests.support.quick import Done

MIB = 1 << 20


class Sites:
    """alice, who gets, and others who each offer a directory of their own as the share `docs`."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        self.inbox = root / "inbox"
        self.inbox.mkdir()
        spool = root / "spool"
        spool.mkdir()
        self.alice = Actor("alice", root)
        self.origins = {name: Actor(name, root) for name in names}
        self.workers: dict[str, Running] = {}
        for actor in (self.alice, *self.origins.values()):
            actor.quick("init", "--name", actor.name, "--link", f"spool://{spool}")
        for name, origin in self.origins.items():
            self.files(name).mkdir()
            self.alice.quick("peer", "add", origin.quick("id"))
            origin.quick("peer", "add", self.alice.quick("id"))
            origin.quick("share", "add", "docs", str(self.files(name)), "--to", "alice")

    def files(self, name: str) -> Path:
        return self.root / f"files-{name}"

    def offer(self, content: bytes, *names: str) -> None:
        for name in names or self.origins:
            (self.files(name) / "f").write_bytes(content)

    def serve(self, *names: str) -> None:
        for name in names or self.origins:
            self.workers[name] = self.origins[name].start("serve")
        for name in names or self.origins:
            self.workers[name].until_said('"serving"')

    def start_get(self, *arguments: str, **environ: str) -> Running:
        return self.alice.start("get", *arguments, str(self.inbox) + "/", **environ)

    def get(self, *arguments: str, **environ: str) -> Done:
        return self.start_get(*arguments, **environ).wait()

    def sources(self, *names: str) -> list[str]:
        return [f"{name}:docs/f" for name in names or self.origins]

    def configure(self, text: str) -> None:
        with (self.alice.config / "config.toml").open("a") as file:
            file.write(text)

    def close(self) -> None:
        for actor in (self.alice, *self.origins.values()):
            actor.end()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path, "bob", "carol", "dave")
    yield made
    made.close()


def result(done: Done) -> dict[str, object]:
    """The last word of a `get --json` that ended well."""
    assert done.code == 0, (done.out, done.err)
    return next(each for each in done.objects if each["type"] == "result")


def test_a_file_comes_from_all_of_them(sites: Sites) -> None:
    """Each brings a part, the parts are the file, and one line says who brought how much."""
    content = random.Random(1).randbytes(24 * MIB)
    sites.offer(content)
    sites.serve()
    said = result(sites.get("--json", *sites.sources()))
    assert content == (sites.inbox / "f").read_bytes()
    origins = said["origins"]
    assert isinstance(origins, dict)
    assert {"bob", "carol", "dave"} == origins.keys()
    assert all(origins.values()), origins
    assert len(content) == sum(origins.values())
    assert {} == said["left"]
    (sites.inbox / "f").unlink()
    done = sites.get(*sites.sources())
    assert done.code == 0
    assert "from bob" in done.err
    assert "carol" in done.err


def test_other_versions_and_refusals_leave_and_are_named(sites: Sites) -> None:
    """One changed its file, one does not grant it: it comes from the one that is left."""
    content = random.Random(2).randbytes(4 * MIB)
    sites.offer(content)
    (sites.files("carol") / "f").write_bytes(content[:-1] + b"?")
    sites.origins["dave"].quick("share", "rm", "docs")
    sites.serve()
    said = result(sites.get("--json", *sites.sources()))
    assert content == (sites.inbox / "f").read_bytes()
    assert {"bob": len(content), "carol": 0, "dave": 0} == said["origins"]
    left = said["left"]
    assert isinstance(left, dict)
    assert {"carol": "it has another version"} == {k: v for k, v in left.items() if k == "carol"}
    assert "no such file" in left["dave"]


def test_one_that_is_killed_half_way_costs_nothing_but_time(sites: Sites) -> None:
    """SIGKILL in the middle: the others bring what it had been asked for, and the rest."""
    content = random.Random(3).randbytes(96 * MIB)
    sites.offer(content)
    sites.serve()
    getting = sites.start_get("--json", *sites.sources(), **OFTEN)
    until(lambda: _present(sites) > 16 or not getting.alive)
    assert getting.alive
    sites.workers["bob"].end()
    said = result(getting.wait())
    assert content == (sites.inbox / "f").read_bytes()
    origins = said["origins"]
    assert isinstance(origins, dict)
    assert 0 < origins["bob"] < len(content)


def test_the_one_named_first_need_not_live(sites: Sites) -> None:
    """It is not waited for longer than its timer."""
    content = random.Random(4).randbytes(2 * MIB)
    sites.offer(content)
    sites.serve("carol")
    said = result(sites.get("--json", "--patience", "30s", *sites.sources("bob", "carol")))
    assert content == (sites.inbox / "f").read_bytes()
    assert {"bob": 0, "carol": len(content)} == said["origins"]


def test_the_link_of_the_first_one_need_not_open(sites: Sites) -> None:
    """Its broker is not there: the other brings it, and both belong to one transfer."""
    content = random.Random(7).randbytes(2 * MIB)
    sites.offer(content)
    sites.serve("carol")
    sites.configure('\n[links.gone]\nurl = "amqp://127.0.0.1:1/nowhere"\n')
    card = sites.origins["bob"].quick("id")
    sites.alice.quick("peer", "rm", "bob")
    sites.alice.quick("peer", "add", card, "--link", "gone")
    said = result(sites.get("--json", *sites.sources("bob", "carol")))
    assert content == (sites.inbox / "f").read_bytes()
    left = said["left"]
    assert isinstance(left, dict)
    assert {"carol": len(content)} == said["origins"]
    assert "127.0.0.1:1" in left["bob"]


def test_nobody_left_tells_of_each(sites: Sites) -> None:
    """Not found anywhere: exit 4, and what each of them said."""
    sites.serve("bob", "carol")
    done = sites.get(*sites.sources("bob", "carol"))
    assert done.code == 4
    assert "bob: " in done.err
    assert "carol: " in done.err


def test_mirrors_of_the_configuration_are_used(sites: Sites) -> None:
    """`get bob:docs/f` comes from those that the configuration names, too; for trees as well."""
    content = random.Random(5).randbytes(12 * MIB)
    sites.offer(content)
    sites.serve("bob", "dave")
    sites.configure('\n[mirrors]\n"bob:docs" = ["dave:docs", "ghost:docs"]\n')
    said = result(sites.get("--json", "bob:docs/f"))
    origins, left = said["origins"], said["left"]
    assert isinstance(origins, dict)
    assert isinstance(left, dict)
    assert all(origins.values()), origins
    assert {"bob", "dave"} == origins.keys()
    assert {"ghost"} == left.keys()
    shutil.rmtree(sites.inbox)
    said = result(sites.get("--json", "bob:docs/"))
    assert content == (sites.inbox / "f").read_bytes()
    assert isinstance(said["origins"], dict)
    assert all(said["origins"].values()), said["origins"]


def test_a_job_keeps_all_sources(sites: Sites) -> None:
    """`get --queue` with several: one job, done from all of them."""
    content = random.Random(6).randbytes(12 * MIB)
    sites.offer(content)
    sites.serve("bob", "carol")
    queued = sites.get("--queue", "--json", *sites.sources("bob", "carol"))
    assert ["queued"] == [each["type"] for each in queued.objects]
    done = sites.alice.run("work", "--once")
    assert done.code == 0, done.err
    assert content == (sites.inbox / "f").read_bytes()
    served = [sites.workers[name].err for name in ("bob", "carol")]
    assert all('"receipt"' in said for said in served), served


def _present(sites: Sites) -> int:
    return sum(each.chunks_present for each in list_transfers(sites.inbox))


def test_the_configuration_is_checked(sites: Sites) -> None:
    """What is no share, and a site twice, are told with their place."""
    config = sites.alice.config / "config.toml"
    before = config.read_text()
    for wrong, word in (
        ('"bob:docs" = ["dave"]', "PEER:SHARE"),
        ('"bob:docs" = ["dave:docs", "bob:x"]', "named twice"),
        ('"bob" = ["dave:docs"]', "PEER:SHARE"),
    ):
        config.write_text(f"{before}\n[mirrors]\n{wrong}\n")
        done = sites.alice.run("config", "show")
        assert done.code == 2
        assert word in done.err
        assert "config.toml:" in done.err
    config.write_text(f'{before}\n[mirrors]\n"bob:docs" = ["dave:docs"]\n')
    shown = sites.alice.run("config", "show", "--json").objects
    assert ["mirrors.bob:docs"] == [each["key"] for each in shown if "mirrors" in each["key"]]
    json.dumps(shown)
