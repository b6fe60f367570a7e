"""Blast: everything that a bad model, adapter, dataset, spec or key touched."""

from __future__ import annotations

import json as plain
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.blast import Blast, Hit, Radius
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_table, short
from genealog.store.home import Home


def blast(
    ref: Annotated[
        str, typer.Argument(help="A model, adapter, dataset or code, by name or ID; a serving spec or a key, by ID.")
    ],
    calls: Annotated[bool, typer.Option("--calls", help="List every call too.")] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Do not look for missing calls, and open no sealed group: not complete then.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show everything that one thing touched: what was made of it, what served that and when, and every call.

    Complete, or it says what is missing. With --json and --calls: one line of JSON for the answer, then one for each
    call. Exit: 0 complete, 3 something is missing.

    Example: [bold]genealog blast facts-lora --calls --json > touched.jsonl[/bold]
    """
    service = Blast(Home.find(store))
    radius = service.of(ref, gaps=not fast)
    if json and calls:
        _line(_json(radius))
        for hit in service.calls(radius):
            _line(_hit(hit))
    elif json:
        print_json(_json(radius))
    else:
        _print(radius)
        if calls:
            rows = [(hit.call, f"{hit.log}:{hit.index}", hit.called_at, hit.deployment, short(hit.spec), hit.finish)
                    for hit in service.calls(radius)]  # fmt: skip
            print_table(("call", "entry", "called_at", "deployment", "spec", "finish"), rows, empty="no calls")
    raise typer.Exit(0 if radius.complete else 3)


def _print(radius: Radius) -> None:
    out.print(f"[bold]{escape(radius.name)}[/bold]  {radius.kind} {radius.id}")
    rows = [(node.name or "?", node.kind or "not registered", node.id) for node in radius.artifacts]
    print_table(("name", "kind", "artifact"), [(a, b, short(c)) for a, b, c in rows], empty="no artifact")
    times = [
        (each.deployment, short(each.spec), f"{each.begun.at} ({each.begun.position})",
         f"{each.ended.at} ({each.ended.position})" if each.ended else "still", each.calls)
        for each in radius.served
    ]  # fmt: skip
    print_table(("deployment", "spec", "from", "until", "calls"), times, empty="no deployment ever served any of it")
    for spec, count in radius.outside.items():
        out.print(f"{count} more under {short(spec)}, at times when no deployment had it by its mover's clock")
    for spec, count in radius.unattributed.items():
        out.print(f"{count} more under {short(spec)}, which several deployments had")
    counts = ", ".join((
        _count(len(radius.artifacts), "artifact"), _count(len(radius.specs), "spec"),
        f"{_count(radius.calls, 'call')} answered"
    ))  # fmt: skip
    refused = f", {radius.refused} refused" if radius.refused else ""
    read = ", ".join(f"{log} {size}" for log, size in radius.positions.items())
    for lack in radius.lacks:
        out.print(f"[yellow]{lack.code}[/yellow] {lack.count}: {escape(lack.message)}")
    out.print(f"{counts}{refused}, {'complete' if radius.complete else 'not complete'}, at {read}", style="dim")


def _json(radius: Radius) -> dict[str, Any]:
    return {
        "kind": radius.kind, "id": radius.id, "name": radius.name, "complete": radius.complete,
        "missing": [{"code": each.code, "message": each.message, "count": each.count} for each in radius.lacks],
        "positions": radius.positions,
        "artifacts": [{"id": node.id, "kind": node.kind, "name": node.name} for node in radius.artifacts],
        "specs": radius.specs,
        "deployments": [
            {"deployment": each.deployment, "spec": each.spec, "from": each.begun.at, "from_entry": each.begun.position,
             "until": each.ended and each.ended.at, "until_entry": each.ended and each.ended.position,
             "calls": each.calls}
            for each in radius.served
        ],
        "calls": radius.calls, "refused": radius.refused, "finishes": radius.finishes, "outside": radius.outside,
        "unattributed": radius.unattributed,
    }  # fmt: skip


def _hit(hit: Hit) -> dict[str, Any]:
    return {"call": hit.call, "entry": f"{hit.log}:{hit.index}", "spec": hit.spec, "called_at": hit.called_at,
            "finish": hit.finish, "deployment": hit.deployment}  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(value: dict[str, Any]) -> None:
    sys.stdout.write(plain.dumps(value, ensure_ascii=False) + "\n")
