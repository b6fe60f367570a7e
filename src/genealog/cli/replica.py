"""`genealog replica`: be the second node of durability D3, and adopt what a dead node left."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json
from genealog.store.home import Home

app = typer.Typer(help="The second node that durability D3 waits for.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", help="The folder that keeps the copies.")]


@app.command()
def serve(
    folder: Folder,
    secret: Annotated[
        str, typer.Option(help="Where the shared secret comes from: env:VARIABLE or file:/PATH.", metavar="SOURCE")
    ],
    listen: Annotated[
        str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:8091",
    certificate: Annotated[Path | None, typer.Option(help="PEM, to serve HTTPS; needs --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of its private key.")] = None,
) -> None:
    """Take the frames of gateways, and tell them when they are on this disk.

    A gateway whose genealog.toml has \\[replica] with this URL sends every frame here; calls of deployments at D3 wait
    for the answer.

    Example: [bold]genealog replica serve --dir ./replica --secret env:REPLICA_SECRET[/bold]
    """
    require("replica")
    from genealog.gateway.replica import serve as run
    from genealog.store.replica_spool import ReplicaSpool
    from genealog.store.signers.secret import from_terminal, read_secret

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    shared = read_secret(secret, "secret of the replica", from_terminal).encode()
    run(
        ReplicaSpool(folder), shared, listen=listen, announce=lambda url: typer.echo(f"replica at {url}"),
        certificate=str(certificate) if certificate else None, key=str(key) if key else None,
    )  # fmt: skip


@app.command()
def adopt(
    folder: Annotated[Path, typer.Argument(help="The folder of genealog replica serve; stop it first.")],
    final: Annotated[
        bool, typer.Option("--final", help="The node never comes back: close its calls without an end as unknown.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Put the calls that a dead node left here into the call log of the store, each once.

    The store is the one that the node wrote to, shared, or brought back from a backup. Without --final nothing is
    closed, and the node may come back and go on.

    Example: [bold]genealog replica adopt ./replica[/bold]
    """
    from genealog.ledger import Ledger
    from genealog.store.replica_adopt import copies_of, fence, left
    from genealog.store.replica_spool import ReplicaSpool, node_label

    home = Home.find(store)
    copies = copies_of(folder, node_label(home.config.store.origin))
    held = ReplicaSpool(folder)
    try:
        if final:
            fence(copies)
        ledger = Ledger(home)
        done = ledger.adopter(copies, final=final).run_once()
        if done.appended:
            home.call_log().checkpoint()
    finally:
        held.close()
        home.close()
    rest = left(copies)
    if json:
        print_json({
            "adopted": done.appended, "unknown": done.unknown, "gaps": len(done.gaps),
            "left": {each.emitter: list(each.boots) for each in rest},
        })  # fmt: skip
        return
    out.print(f"{_count(done.appended, 'call')} adopted, {done.unknown} closed as unknown")
    for gap in done.gaps:
        out.print(f"gap in {gap.emitter} {gap.boot} after frame {gap.after}: {gap.reason}")
    for each in rest:
        out.print(f"{each.emitter} has frames of {_count(len(each.boots), 'boot')} left: its calls without an end wait")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
