"""`genealog gateway`: run the gateway in the foreground."""

from __future__ import annotations

import logging
from typing import Annotated

import typer
from msgspec.structs import replace

from genealog.cli.extras import require
from genealog.cli.options import Store
from genealog.core.frames import MAX_BODY
from genealog.store.home import Home


def gateway(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that serve; about one for each core.", min=1, max=256)
    ] = None,
    drain: Annotated[
        int | None, typer.Option("--drain", help="Seconds that running calls get to finish on SIGTERM.", min=0)
    ] = None,
    max_body: Annotated[
        int | None, typer.Option("--max-body", help="Largest request body in bytes that is held.", min=1, max=MAX_BODY)
    ] = None,
    store: Store = None,
) -> None:
    """Put every call on record: a proxy in front of your engines and vendors that speaks their clients' languages.

    Point clients at http://HOST:PORT/v1 and ask for a deployment by its name as `model`. Bytes pass verbatim, and the
    last one waits until the call is on record. Options stand above the section gateway of genealog.toml, which is read
    again when it changes, and on SIGHUP.

    Example: [bold]genealog gateway --port 8080[/bold]
    """
    require("gateway")
    from genealog.gateway.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.find(store)
    try:
        given = {"host": host, "port": port, "workers": workers, "drain": drain}
        settings = replace(home.config.gateway, **{name: value for name, value in given.items() if value is not None})
        serve(home, settings, max_body=max_body, announce=_announce)
    finally:
        home.close()


def _announce(url: str) -> None:
    typer.echo(f"gateway at {url} (base URL for clients: {url}/v1)")
