"""`genealog gateway`: run the gateway in the foreground, or look whether it would work."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec.structs import replace
from rich.markup import escape

from genealog.cli.extras import require
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json
from genealog.core.frames import MAX_BODY
from genealog.store.home import Home

app = typer.Typer(invoke_without_command=True)
_MARKS = {"ok": "[green]✔ ok[/green]", "note": "[cyan]• note[/cyan]", "warning": "[yellow]! warning[/yellow]",
          "error": "[bold red]✘ error[/bold red]"}  # fmt: skip


@app.callback()
def gateway(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that serve; about one for each core.", min=1, max=256)
    ] = None,
    admin: Annotated[
        str | None, typer.Option("--admin", help="HOST:PORT of health, readiness and metrics.", metavar="ADDRESS")
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
    if context.invoked_subcommand is not None:
        return
    require("gateway")
    from genealog.gateway.logs import set_up
    from genealog.gateway.serve import serve

    home = Home.find(store)
    try:
        given = {"host": host, "port": port, "workers": workers, "drain": drain, "admin": admin}
        settings = replace(home.config.gateway, **{name: value for name, value in given.items() if value is not None})
        set_up(settings.log)
        serve(home, settings, max_body=max_body, announce=_announce)
    finally:
        home.close()


@app.command()
def check(store: Store = None, json: Json = False) -> None:
    """Look at everything that a gateway needs, before it is started: files, secrets, ports, every upstream and its key.

    Nothing is changed and no secret is shown. Exit status 1 if something would keep it from starting or serving.

    Example: [bold]genealog gateway check[/bold]
    """
    require("gateway")
    import asyncio

    from genealog.gateway.checking import check as look

    home = Home.find(store)
    try:
        found = asyncio.run(look(home))
    finally:
        home.close()
    if json:
        print_json([{"grade": c.grade, "what": c.what, "found": c.found, "hint": c.hint} for c in found])
    else:
        for each in found:
            out.print(f"{_MARKS[each.grade]}  [bold]{escape(each.what)}[/bold]  {escape(each.found)}")
            if each.hint is not None and each.grade != "ok":
                out.print(f"           {escape(each.hint)}")
        wrong = sum(each.grade == "error" for each in found)
        out.print(f"{wrong} errors" if wrong != 1 else "1 error", style="bold red" if wrong else "green")
    if any(each.grade == "error" for each in found):
        raise typer.Exit(1)


def _announce(url: str) -> None:
    typer.echo(f"gateway at {url} (base URL for clients: {url}/v1)")
