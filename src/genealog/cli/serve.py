"""Serve: which model answers under which name, and back to the one before."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from genealog.cli.options import As, Json, Reason, Store
from genealog.cli.output import out, print_json, short
from genealog.deploy import Deployments
from genealog.store.home import Home


def deploy(
    name: Annotated[str, typer.Argument(help="The name that apps send as `model`.")],
    model: Annotated[str, typer.Option(help="A registered model, by name or ID.")],
    upstream: Annotated[str, typer.Option(help="Base URL of the engine, without /v1.")],
    adapter: Annotated[
        list[str] | None, typer.Option(help="A registered adapter of that model; may be given again.")
    ] = None,
    min_assurance: Annotated[
        str, typer.Option(help="Refuse to serve below this level, A0 to A4. This version reaches A0, A1 and A3.")
    ] = "A0",
    durability: Annotated[
        str, typer.Option(help="What the record of a call survives. D1: a crash of the gateway; D2: a power cut too.")
    ] = "D1",
    bodies: Annotated[
        str, typer.Option(help="What to keep of prompts and answers: encrypted (bodies), hashes (no bodies) or none.")
    ] = "encrypted",
    reason: Reason = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Point a name at a model behind an engine. Gateways follow within a second.

    Example: [bold]genealog deploy support-bot --model smol --adapter facts-lora --upstream http://127.0.0.1:8001[/bold]
    """
    deployments = Deployments(Home.find(store))
    live = deployments.deploy(
        name, model=model, upstream=upstream, adapters=adapter or (), minimum_assurance=min_assurance,
        durability=durability, body_capture=bodies, reason=reason, signer=deployments.registry.signer(as_),
    )  # fmt: skip
    if json:
        print_json({"deployment": name, "spec": live.spec, "models": live.body.models})
    else:
        out.print(f"[bold]{name}[/bold] → {short(live.spec)}: {', '.join(map(short, live.body.models))} at {upstream}")


def rollback(
    name: Annotated[str, typer.Argument(help="A deployment.")],
    to: Annotated[
        str | None, typer.Option(help="The start of the spec ID to go back to. Default: the one before.")
    ] = None,
    reason: Reason = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Point a deployment back at what it served before.

    Example: [bold]genealog rollback support-bot --reason "wrong answers since noon"[/bold]
    """
    began = time.perf_counter()
    deployments = Deployments(Home.find(store))
    live, position = deployments.rollback(name, to=to, reason=reason, signer=deployments.registry.signer(as_))
    took = round((time.perf_counter() - began) * 1000)
    if json:
        print_json({"deployment": name, "spec": live.spec, "entry": str(position), "took_ms": took})
    else:
        models = ", ".join(map(short, live.body.models))
        out.print(f"[bold]{name}[/bold] is back at {short(live.spec)}: {models} ({took} ms, entry {position})")
