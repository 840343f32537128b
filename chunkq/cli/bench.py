"""`chunkq bench`: a link measured, and what to configure for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.protocol.linkadvice import Advice
    from chunkq.runtime.probing import Limits, RateAt, RoundTrip
    from chunkq.settings import Link, Settings

EXAMPLES: Final = """\b
Examples:
  chunkq bench bob                      about 10 s, at most 1 GiB
  chunkq bench --seconds 60 bob         more exact; for round trips of seconds
  chunkq bench --max 20MiB bob          where each byte is paid for
\b
The peer answers with packets that mean nothing, sealed as all others, if it
has pinned this site. What is measured is the way from it to here. Nothing is
changed: the advice says what to write into which config.toml.
Exit codes: 4 not a peer, 5 no answer or no broker.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def bench(
    ctx: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="SITE", help="A pinned peer that serves.")],
    *,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Take about so long.", metavar="SECONDS")
    ] = 10.0,
    most: Annotated[
        str, typer.Option("--max", help="Ask for at most so much in all.", metavar="SIZE")
    ] = "1GiB",
    patience: Annotated[
        str | None, typer.Option(help="Give up after so long without an answer, e.g. 5m.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Measure the link to a peer (round trip, rate, best chunk size) and say what to configure."""
    from chunkq.cli.logs import configure
    from chunkq.errors import UsageError
    from chunkq.runtime.probing import Limits
    from chunkq.settings import Registry
    from chunkq.settings.quantity import parse_size

    options = Options.of(ctx, json=json)
    loaded = options.load(
        requester__patience=patience, log__level=None if options.verbose else "error"
    )
    try:
        max_bytes = parse_size(most)
    except ValueError as error:
        raise UsageError(f"--max: {error}") from None
    settings = loaded.settings
    link = settings.links[Registry(settings.directories).peer(peer).link]
    configure(settings)
    limits = Limits(seconds=seconds, max_bytes=max_bytes, patience_s=settings.requester.patience_s)
    return asyncio.run(_Bench(settings, options, peer, link).run(limits))


class _Bench:
    """One run: what is shown of it, as it comes."""

    def __init__(self, settings: Settings, options: Options, peer: str, link: Link) -> None:
        self._settings = settings
        self._options = options
        self._peer = peer
        self._link = link

    async def run(self, limits: Limits) -> int:
        from chunkq.api.site import Site

        if not self._options.quiet and not self._options.json:
            console.note(
                f"measuring {self._peer} over link {self._link.name}, {self._link.safe_url}, for"
                f" about {limits.seconds:g} s"
            )
        async with Site.open(self._settings) as site:
            prober = await site.prober(self._peer, limits)
            round_trip = await prober.round_trip()
            self._show_round_trip(round_trip)
            rates = await prober.rates(round_trip)
        self._show_rates(rates)
        self._advise(round_trip, {each.size_bytes: each.bytes_per_s for each in rates})
        return 0

    def _show_round_trip(self, found: RoundTrip) -> None:
        if self._options.json:
            fields = {"fastest_s": found.fastest_s, "median_s": found.median_s}
            console.emit("round_trip", {**fields, "count": found.count})
        else:
            console.out(
                f"round trip  {_duration(found.fastest_s)}, median {_duration(found.median_s)}"
                f" of {found.count}"
            )

    def _show_rates(self, rates: list[RateAt]) -> None:
        from chunkq.protocol.limits import MIB
        from chunkq.protocol.linkadvice import best_size
        from chunkq.settings.quantity import show_size

        measured = {each.size_bytes: each.bytes_per_s for each in rates if not each.refused}
        best = best_size(measured) if measured else None
        if self._options.json:
            for each in rates:
                fields: dict[str, object] = {"chunk_size": each.size_bytes}
                if each.refused:
                    fields["refused"] = each.refused
                else:
                    fields |= {"bytes_per_s": each.bytes_per_s, "bytes": each.received_bytes}
                console.emit("rate", {**fields, "best": each.size_bytes == best})
            return
        rows = [
            (
                show_size(each.size_bytes),
                each.refused or _rate(each.bytes_per_s),
                f"{each.received_bytes / MIB:.1f} MiB",
                "best" if each.size_bytes == best else "",
            )
            for each in rates
        ]
        console.table(("chunk size", "rate", "measured", ""), rows)

    def _advise(self, round_trip: RoundTrip, rates: dict[int, float]) -> None:
        from chunkq.protocol.linkadvice import Configured, advise

        measured = {size: rate for size, rate in rates.items() if rate}
        now = Configured(
            largest_chunk_bytes=self._link.largest_chunk_bytes,
            request_lifetime_s=self._link.request_lifetime_s,
            patience_s=self._settings.requester.patience_s,
            receive_rate_bytes_per_s=self._link.receive_rate_bytes_per_s,
        )
        found = advise(self._link.name, now, round_trip.median_s, measured) if measured else []
        if self._options.json:
            for each in found:
                console.emit("advice", _fields(each))
            return
        if not found:
            console.out("nothing to change: the settings suit this link")
        for each in found:
            console.out(console.clean(self._line(each)))

    def _line(self, advice: Advice) -> str:
        shown = _shown(advice)
        if advice.key == "chunk_size":
            how = f"at {self._peer}: chunkq share add NAME PATH --chunk-size {shown}"
        elif advice.here:
            file = self._settings.directories.config_file
            how = f'here, {file}, [{advice.section}]: {advice.key} = "{shown}"'
        else:
            how = f'at {self._peer}, config.toml, [links.…] to here: {advice.key} = "{shown}"'
        return f"advice  {how}\n        {advice.why}"


def _fields(advice: Advice) -> dict[str, object]:
    return {
        "where": "here" if advice.here else "peer",
        "section": advice.section,
        "key": advice.key,
        "value": _shown(advice),
        "why": advice.why,
    }


def _shown(advice: Advice) -> str:
    """As it is written in config.toml."""
    from chunkq.settings.quantity import show_duration, show_rate, show_size

    if advice.key.endswith("_rate"):
        return show_rate(advice.value)
    if advice.key in ("request_lifetime", "patience"):
        return show_duration(advice.value)
    return show_size(advice.value)


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e6:.2f} MB/s, {bytes_per_s * 8 / 1e6:.1f} Mbit/s"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
