"""`genealog gateway`: run the gateway in the foreground."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.options import Store
from genealog.core.frames import MAX_BODY
from genealog.store.home import Home


def gateway(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8080,
    drain: Annotated[
        float, typer.Option("--drain", help="Seconds that running calls get to finish on SIGTERM.", min=0)
    ] = 30.0,
    max_body: Annotated[
        int, typer.Option("--max-body", help="Largest request body in bytes.", min=1, max=MAX_BODY)
    ] = MAX_BODY,
    store: Store = None,
) -> None:
    """Put every call on record: an OpenAI-compatible proxy in front of your engines.

    Point clients at http://HOST:PORT/v1 and ask for a deployment by its name as `model`. Bytes pass verbatim, and the
    last one waits until the call is on record.

    Example: [bold]genealog gateway --port 8080[/bold]
    """
    require("gateway")
    from genealog.gateway.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.find(store)
    try:
        serve(home, host=host, port=port, drain=drain, max_body=max_body, announce=_announce)
    finally:
        home.close()


def _announce(url: str) -> None:
    typer.echo(f"gateway at {url} (base URL for clients: {url}/v1)")
