"""Witness: be one for other logs, and collect the cosignatures of others for one's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.options import Json
from genealog.cli.output import out, print_json
from genealog.store.witness_state import WitnessState

app = typer.Typer(
    no_args_is_help=True, help="Witnesses: be one for other logs, and collect the cosignatures of others for your own."
)
Folder = Annotated[Path, typer.Argument(help="The witness's folder: its keys and what it has cosigned.", metavar="DIR")]


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What others shall call it: a name without spaces, best a host you own.")],
    ml_dsa: Annotated[
        bool, typer.Option("--ml-dsa", help="Add an ML-DSA-44 key, whose cosignatures quantum computers do not forge.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a witness: its keys, and the list of logs that it serves, for you to fill.

    Prints the trust lines to hand out to whoever shall believe it.

    Example: [bold]genealog witness init ./witness --name witness.example/w1[/bold]
    """
    state = WitnessState.create(folder, name=name, ml_dsa=ml_dsa)
    lines = state.trust_lines
    state.close()
    if json:
        print_json({"name": name, "vkeys": [line.split()[2] for line in lines], "trust": list(lines)})
        return
    out.print(f"made {folder}: put the logs that it shall serve into {folder / 'logs'}")
    for line in lines:
        print(line)


@app.command()
def serve(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:8090",
    logs: Annotated[
        Path | None, typer.Option(help="Which logs to serve: a logs/v0 list or a trust policy. Default: DIR/logs.")
    ] = None,
    per_day: Annotated[
        int, typer.Option(help="Updates a day of a log whose list says no qpd.", min=1, max=100_000_000)
    ] = 86_400,
) -> None:
    """Cosign checkpoints of known logs over HTTP (C2SP tlog-witness), each only if it continues the one before.

    Prints the URL and the trust lines. The list of logs is read again when it changes.

    Example: [bold]genealog witness serve ./witness --listen 127.0.0.1:8090[/bold]
    """
    require("witness")
    from genealog.witness.serve import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    state = WitnessState.open(folder)

    def announce(url: str) -> None:
        typer.echo(f"witness {state.name} at {url}")
        for line in state.trust_lines:
            typer.echo(f"{line} {url}")

    run(state, listen=listen, announce=announce, logs=logs, per_day=per_day)
