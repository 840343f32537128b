"""`chunkq dashboard`: the page on which an operator sees and steers the transfers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, MetricsOption, Options

if TYPE_CHECKING:
    from chunkq.dashboard.listening import Listening
    from chunkq.settings import Settings
    from chunkq.telemetry.notify import Notifier

EXAMPLES: Final = """\b
Examples:
  chunkq dashboard            serve it, and print an address that logs in
  chunkq dashboard --open     and open that in a browser
  chunkq dashboard --login    print another address for one that runs
\b
For others than this machine it needs passwords and TLS:
  chunkq dashboard --listen 0.0.0.0:8137 --host ops.example.org:8137 \\
    --password-file users --tls-cert ops.crt --tls-key ops.key
"""
DEFAULT_LISTEN: Final = "127.0.0.1:8137"

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def dashboard(
    ctx: typer.Context,
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to serve; port 0: any that is free.")
    ] = DEFAULT_LISTEN,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name that browsers call it by. Repeatable."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front of it does TLS.")
    ] = False,
    password_file: Annotated[
        Path | None, typer.Option(help="Lines user:password; only its owner may read it.")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open it in a browser of this machine.")
    ] = False,
    login: Annotated[
        bool, typer.Option("--login", help="Only print an address to log in by, good once.")
    ] = False,
    metrics: MetricsOption = None,
    json: JsonOption = False,
) -> int:
    """Serve the page that shows transfers, what is stuck and why, and lets it be mended."""
    options = Options.of(ctx, json=json)
    _need_extra()
    from chunkq.dashboard.listening import Listening, check, parse_listen
    from chunkq.dashboard.passwords import load_passwords

    address, port = parse_listen(listen)
    listening = Listening(
        host=address,
        port=port,
        names=tuple(name.lower() for name in host or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        passwords=load_passwords(password_file) if password_file else {},
    )
    check(listening)
    settings = options.load(metrics__listen=metrics).settings
    if login:
        from chunkq.dashboard.running import login_address

        _say(login_address(settings, listening, port), options)
        return 0
    return _run(settings, listening, options, open_browser=open_browser)


def _need_extra() -> None:
    """Raises `UsageError` where the packages of the extra are missing."""
    from importlib.util import find_spec

    from chunkq.errors import UsageError

    missing = [
        name
        for name in ("starlette", "uvicorn", "jinja2", "sse_starlette")
        if find_spec(name) is None
    ]
    if missing:
        raise UsageError(
            f"the dashboard needs packages that are not installed: {', '.join(missing)}",
            hint="pip install 'chunkq[dashboard]'",
        )


def _run(settings: Settings, listening: Listening, options: Options, *, open_browser: bool) -> int:
    from chunkq.api.metrics import telling_of_host
    from chunkq.cli.logs import configure
    from chunkq.cli.supervised import supervised
    from chunkq.dashboard.listening import bound_socket
    from chunkq.dashboard.running import login_address, run

    configure(settings)
    bound = bound_socket(listening)
    port = bound.getsockname()[1]

    async def work(notifier: Notifier) -> None:
        def ready() -> None:
            notifier.ready()
            address = login_address(settings, listening, port)
            _say(address, options)
            if open_browser:
                import webbrowser

                webbrowser.open(address)

        async with telling_of_host(settings):
            await run(settings, listening, bound, on_ready=ready)

    return asyncio.run(supervised(work))


def _say(address: str, options: Options) -> None:
    if options.json:
        console.emit("dashboard", {"url": address})
    else:
        console.out(address)
        if not options.quiet:
            console.hint("open it within an hour; it logs in once")
