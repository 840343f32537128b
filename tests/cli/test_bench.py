"""`chunkq bench`: a link measured between real processes, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.protocol import cbor
from chunkq.protocol.limits import KIB, MAX_BYTES_PER_REQUEST, MIB
from chunkq.protocol.messages import Probe
from tests.support.pair import Pair
from tests.support.quick import Done


def bench(pair: Pair, *args: str, **environ: str) -> Done:
    return pair.alice.run("bench", "--seconds", "4", *args, "bob", **environ)


def test_a_limited_link_is_advised_on(pair: Pair) -> None:
    """Round trip, rates and advice, in this order; the advice is what config.toml takes."""
    pair.serve(CHUNKQ_LINK_SEND_RATE="10Mbit/s")

    done = bench(pair, "--json")

    assert 0 == done.code, done.err
    kinds = [each["type"] for each in done.objects]
    assert kinds == sorted(kinds, key=["round_trip", "rate", "advice"].index)
    assert 0 < done.objects[0]["fastest_s"] <= done.objects[0]["median_s"]
    rates = {each["chunk_size"]: each for each in done.objects if each["type"] == "rate"}
    assert rates[64 * KIB]["bytes_per_s"] > 0
    assert 1 == sum(each["best"] for each in rates.values())
    advice = [each for each in done.objects if each["type"] == "advice"]
    assert {("here", "receive_rate"), ("peer", "send_rate")} <= {
        (each["where"], each["key"]) for each in advice
    }
    here = {each["key"]: each["value"] for each in advice if each["section"] == "links.default"}
    given = {f"CHUNKQ_LINK_{key.upper()}": value for key, value in here.items()}
    assert 0 == pair.alice.run("config", "show", **given).code


def test_a_table_for_people(served: Pair) -> None:
    """Round trip, a row for each size, and one of them best; nothing but notes on stderr."""
    done = bench(served, "--max", "24MiB")

    assert 0 == done.code, done.err
    first, heading, *rows = done.out.splitlines()
    assert first.startswith("round trip  ")
    assert ["chunk", "size", "rate", "measured"] == heading.split()
    sizes = [row.split()[0] for row in rows if "MB/s" in row]
    assert {"64KiB", "256KiB"} <= set(sizes)
    assert 1 == sum(row.endswith("best") for row in rows)
    assert done.err.startswith("measuring bob over link default, spool://")


def test_the_bytes_are_bounded(served: Pair) -> None:
    """No more than was allowed arrives, but for the least that tells a rate."""
    done = bench(served, "--json", "--max", "8MiB", CHUNKQ_LINK_LARGEST_CHUNK="64KiB")

    rates = [each for each in done.objects if each["type"] == "rate"]
    assert [64 * KIB] == [each["chunk_size"] for each in rates]
    assert sum(each["bytes"] for each in rates) <= 8 * MIB


@pytest.mark.rabbitmq
def test_over_rabbitmq(tmp_path: Path, amqp_url: str) -> None:
    """The same command measures a broker's link."""
    pair = Pair(tmp_path, amqp_url)
    try:
        pair.serve()
        done = bench(pair, "--json", "--max", "64MiB")
    finally:
        pair.close()

    assert 0 == done.code, done.err
    assert 256 * KIB in {each.get("chunk_size") for each in done.objects}


def test_who_is_no_peer(served: Pair) -> None:
    """A name that is not pinned is exit code 4 before anything is sent."""
    done = served.alice.run("bench", "carol")

    assert 4 == done.code
    assert "carol" in done.err


def test_a_peer_that_is_silent(pair: Pair) -> None:
    """Nobody serves: exit code 5 after the patience, saying what to look for."""
    done = pair.alice.run("bench", "--patience", "1s", "bob")

    assert 5 == done.code
    assert "bob: no answer for 1 s" in done.err
    assert "chunkq serve" in done.err


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """No broker at the address: exit code 5 and the address, at once."""
    pair = Pair(tmp_path, "amqp://guest:guest@127.0.0.1:1/x")
    try:
        done = pair.alice.run("bench", "bob")
    finally:
        pair.close()

    assert 5 == done.code
    assert "127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    "arguments", [("--seconds", "0"), ("--max", "much"), ("--max", "1 mile"), ()]
)
def test_what_makes_no_sense(served: Pair, arguments: tuple[str, ...]) -> None:
    """Usage errors, exit code 2."""
    peer = ("bob",) if arguments else ()
    assert 2 == served.alice.run("bench", *arguments, *peer).code


def test_a_probe_asks_for_no_more_than_chunks_may() -> None:
    """Size and number are bounded as those of chunks, before anything is sent for them."""
    probe = {"instance": "a", "size": 4 * MIB, "count": 4}

    assert MAX_BYTES_PER_REQUEST == 4 * cbor.decode(Probe, cbor.encode(Probe(**probe))).size
    for wrong in ({"count": 5}, {"count": 0}, {"size": 0}, {"size": 4 * MIB + 1, "count": 1}):
        with pytest.raises(ValueError, match=r"count|size|bytes in one request"):
            Probe(**{**probe, **wrong})
