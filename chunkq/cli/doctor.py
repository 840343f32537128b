"""`chunkq doctor`: what is well, what is not, and how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import typer

from chunkq.cli import checks, console
from chunkq.cli.checks import Finding, failed
from chunkq.cli.key_checks import check_own_keys, check_peer_keys
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.probe import probe
from chunkq.errors import ChunkqError, ExitCode, Unreachable
from chunkq.settings import Link, Registry, Settings
from chunkq.settings.model import PACKET_OVERHEAD_BYTES
from chunkq.settings.quantity import show_size
from chunkq.storage.keys import load_ring
from chunkq.storage.wallclock import wall_ms

EXAMPLES: Final = """\b
Examples:
  chunkq doctor
  chunkq doctor --json | jq 'select(.status != "ok")'
\b
Exit codes: 0 if nothing fails, 5 if only a broker cannot be reached, else 1.
"""
_MARKS: Final = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def doctor(ctx: typer.Context, *, json: JsonOption = False) -> int:
    """Check keys, configuration, links, clock and disk.

    A packet of the largest size is sent through each link to this site itself, and taken back.
    """
    options = Options.of(ctx, json=json)
    failures = []
    for finding in _examine(options):
        if finding.status == "fail":
            failures.append(finding)
        if options.json:
            fields = {"subject": finding.subject, "status": finding.status, "text": finding.text}
            console.emit("finding", {**fields, "mend": finding.mend})
        elif finding.status != "ok" or not options.quiet:
            console.out(
                console.clean(f"{_MARKS[finding.status]}  {finding.subject}: {finding.text}")
            )
            if finding.mend:
                console.out(console.clean(f"      mend: {finding.mend}"))
    if not failures:
        return ExitCode.OK
    only_links = all(finding.unreachable for finding in failures)
    return ExitCode.UNREACHABLE if only_links else ExitCode.ERROR


def _examine(options: Options) -> Iterator[Finding]:
    """The findings, each as soon as it is there."""
    yield from checks.check_runtime()
    try:
        settings = options.load().settings
    except ChunkqError as error:
        yield failed("config", error)
        return
    directories = settings.directories
    yield from checks.check_directories(directories)
    yield from checks.check_config_file(settings)
    now_ms = wall_ms()
    try:
        ring = load_ring(directories.keys_file)
        yield from checks.check_identity(settings, ring.keys)
        yield from check_own_keys(ring, now_ms)
    except ChunkqError as error:
        yield failed("keys", error)
    yield from checks.check_clock(now_ms / 1000, directories.config_file)
    yield from checks.check_space(directories.state)
    yield from checks.check_trust(settings)
    yield from check_peer_keys(Registry(directories), now_ms)
    for link in settings.links.values():
        yield from _check_link(settings, link)


def _check_link(settings: Settings, link: Link) -> Iterator[Finding]:
    """Each node that it leads to. One of a cluster that is away is no failure."""
    urls = link.node_urls
    nodes = [link.model_copy(update={"url": url}) for url in urls]
    found = [_check_node(settings, node) for node in nodes]
    for node, finding in zip(nodes, found, strict=True):
        if len(nodes) == 1:
            yield finding
        elif finding.unreachable and any(each.status == "ok" for each in found):
            yield replace(finding, subject=_subject(node), status="warn", unreachable=False)
        else:
            yield replace(finding, subject=_subject(node))


def _subject(node: Link) -> str:
    return f"link {node.name} at {urlsplit(node.url).netloc.rpartition('@')[2]}"


def _check_node(settings: Settings, link: Link) -> Finding:
    """Send the largest packet that the link must carry to this site itself."""
    from chunkq.compose import SystemClock, make_own_spool, make_transport

    subject = f"link {link.name}"
    size = link.largest_chunk_bytes + PACKET_OVERHEAD_BYTES
    try:
        site = settings.site_name
        make_own_spool(settings)
        asyncio.run(probe(make_transport(link, site, SystemClock()), site, size))
    except Unreachable as error:
        return failed(subject, error, unreachable=True)
    except ChunkqError as error:
        return failed(subject, error)
    return Finding(
        subject=subject, status="ok", text=f"{link.safe_url} carries packets of {show_size(size)}"
    )
