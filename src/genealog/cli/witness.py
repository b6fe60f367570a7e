"""Witness: be one for other logs, and collect the cosignatures of others for one's own."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.options import Json, Store, seconds
from genealog.cli.output import ago, out, print_json, print_table
from genealog.cli.prove import read
from genealog.core.canonical import parse_timestamp
from genealog.core.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44
from genealog.cosigning import Asked, Collector, outcomes
from genealog.remote import Remote
from genealog.store.heads import newest_cosigned
from genealog.store.home import Home
from genealog.store.trust_file import add_witness
from genealog.store.witness_state import WitnessState

app = typer.Typer(
    no_args_is_help=True, help="Witnesses: be one for other logs, and collect the cosignatures of others for your own."
)
KINDS = {COSIGNATURE_ED25519: "Ed25519", COSIGNATURE_MLDSA44: "ML-DSA-44"}
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
    listen: Annotated[
        str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:8090",
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


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What your trust policy shall call the witness.")],
    vkey: Annotated[str, typer.Argument(help="Its verifier key, as its operator publishes it.")],
    url: Annotated[str, typer.Option(help="Where it takes checkpoints.")],
    store: Store = None,
) -> None:
    """Put a witness into the store's trust policy, to be asked by `witness collect`.

    The quorum stays as it is: say in trust.policy how many witnesses a receipt needs.

    Example: [bold]genealog witness add w1 witness.example/w1+20324abe+BCms… --url https://witness.example[/bold]
    """
    home = Home.find(store)
    Remote(url)
    add_witness(home.path, name, vkey, url)
    quorum = home.trust.quorum or "none: no receipt needs a witness yet"
    out.print(f"{name} is in {home.path / 'trust.policy'} (quorum {quorum})")


@app.command("ls")
def list_(store: Store = None, json: Json = False) -> None:
    """List the witnesses of the trust policy, and what each has cosigned last."""
    home = Home.find(store)
    heads, trust = home.heads, home.trust
    heard, newest = heads.heard(), newest_cosigned(heads, trust, home.log_names())
    cosigned = {
        name: {log: size for (log, witness), (size, _) in sorted(newest.items()) if witness == name}
        for name in trust.witnesses
    }
    rows = [
        (name, KINDS[key.type], trust.urls.get(name), heard.get(name, {}).get("asked"), heard.get(name, {}).get("code"))
        for name, key in trust.witnesses.items()
    ]
    if json:
        fields = ("witness", "key", "url", "asked", "problem")
        told = [dict(zip(fields, row, strict=True)) | {"cosigned": cosigned[row[0]]} for row in rows]
        print_json({"quorum": trust.quorum, "witnesses": told, "forks": [str(path) for path in heads.forks()]})
        return
    table = [
        (name, key, url, ", ".join(f"{log} {size}" for log, size in cosigned[name].items()), _since(asked), problem)
        for name, key, url, asked, problem in rows
    ]
    columns = ("witness", "key", "url", "cosigned", "asked", "problem")
    print_table(columns, table, empty="no witnesses: genealog witness add NAME VKEY --url URL")
    if rows:
        out.print(f"quorum {trust.quorum or 'none: no receipt needs a witness yet'}", markup=False)
    for path in heads.forks():
        out.print(f"[bold red]fork evidence[/bold red] {path}: genealog verify it")


def _since(moment: str | None) -> str:
    return ago(None if moment is None else int((datetime.now(UTC) - parse_timestamp(moment)).total_seconds()))


@app.command()
def collect(
    every: Annotated[
        str | None, typer.Option(help='Go on, with a round every so often, such as "60s" or "10m". Default: one round.')
    ] = None,
    log: Annotated[list[str] | None, typer.Option(help="Only this log; may be given again. Default: all.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Ask also witnesses that are to be left alone for a while.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show each log's newest checkpoint to each witness, and keep the cosignatures.

    Logging never waits for this. A witness that fails is asked again later, and later still.
    Exit: 0 every witness has cosigned, 1 a log forked or a witness signed what is wrong, 3 some could not be asked.

    Example: [bold]genealog witness collect --every 60s[/bold]
    """
    home = Home.find(store)
    collector = Collector(home, names=log)
    if every is None:
        asked = collector.collect(again=now)
        _show(asked, json=json)
        said = {each.said for each in asked}
        raise typer.Exit(1 if said & {"forked", "wrong"} else 3 if said & {"failed", "waiting"} else 0)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    seen: dict[tuple[str, str], Asked] = {}

    def told(asked: Asked) -> None:
        key = asked.witness, asked.log
        before = seen.get(key)
        seen[key] = asked
        if asked.said != "current" and (before is None or (before.said, before.code) != (asked.said, asked.code)):
            _show((asked,), json=json)

    collector.run(stop, told, every=seconds(every))


def _show(asked: Iterable[Asked], *, json: bool) -> None:
    if json:
        fields = ("log", "witness", "said", "size", "code", "message")
        print_json([{name: getattr(each, name) for name in fields} for each in asked])
        return
    print_table(("log", "witness", "said", "size", "why"), list(outcomes(asked)), empty="no log has an entry yet")


@app.command()
def timestamp(
    tsa: Annotated[str, typer.Option(help="The URL of an RFC 3161 timestamp authority.")],
    log: Annotated[list[str] | None, typer.Option(help="Only this log; may be given again. Default: all.")] = None,
    tsa_roots: Annotated[
        Path | None, typer.Option(help="Its root certificates (PEM), to check the reply by before it is kept.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Have an outside authority state when the newest checkpoints existed, and keep its word for receipts.

    Stamped is the SHA-256 of the checkpoint's text, without signatures: nothing else leaves this machine.

    Example: [bold]genealog witness timestamp --tsa https://tsa.example.org --log registry[/bold]
    """
    require("witness")
    from genealog.timestamping import stamp_log

    home = Home.find(store)
    roots = read(tsa_roots) if tsa_roots is not None else None
    names = [name for name in home.log_names() if home.log(name).size] if log is None else log
    done = [stamp_log(home, name, tsa, roots=roots) for name in names]
    if json:
        rows = [(each.log, each.size, each.stamp.at, each.stamp.authority, each.checked) for each in done]
        print_json([dict(zip(("log", "size", "at", "authority", "checked"), row, strict=True)) for row in rows])
        return
    for each in done:
        doubt = "" if each.checked else " (its certificate is unchecked: --tsa-roots)"
        out.print(f"{each.log} {each.size}: {each.stamp.at} by {each.stamp.authority}{doubt}")
