"""`genealog ls`: what there is, newest last."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from sqlalchemy import select

from genealog.cli.options import Json, Store
from genealog.cli.output import print_json, print_table, short
from genealog.core.call_groups import RequestGroup, WhoGroup
from genealog.core.canonical import decode
from genealog.custody.contradictions import contradicted
from genealog.deploy import Deployments, Live
from genealog.deploy.taint import tainted
from genealog.drift import seen
from genealog.errors import GenealogError
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

_ONLY_JSON = ("deployment", "principal")  # the last columns of calls: a table is wide enough without them
Rows = tuple[tuple[str, ...], list[tuple[object, ...]]]


class Listing(StrEnum):
    """What `ls` can list."""

    artifacts = "artifacts"
    calls = "calls"
    deployments = "deployments"
    decisions = "decisions"
    drifts = "drifts"
    runs = "runs"


def ls(
    what: Annotated[Listing, typer.Argument(help="What to list.")] = Listing.artifacts,
    limit: Annotated[int, typer.Option(help="At most so many rows, the newest.", min=1)] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """List artifacts, runs, deployments, calls, decisions, or what vendors' models turned into (drifts).

    Example: [bold]genealog ls calls --limit 5[/bold]
    """
    home = Home.find(store)
    columns, rows = _LISTINGS[what](home, limit)
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        columns = tuple(name for name in columns if name not in _ONLY_JSON)
        shown = [[short(str(c)) if c else c for c in row[: len(columns)]] for row in rows]
        spare = ("at",) if what is Listing.decisions else ("weights",)
        print_table(columns, shown, empty=f"no {what.value} yet", spare=spare)


def _artifacts(home: Home, limit: int) -> Rows:
    versions = Registry(home).versions(limit=limit)
    false = {digest: f"contradicted: {code}" for digest, code in contradicted(home.index).items()}
    flags = dict.fromkeys(tainted(home.index), "tainted") | false | {v.id: "revoked" for v in versions if v.revoked}
    rows = [(v.name, v.kind, v.id, v.weights, f"registry:{v.index}", flags.get(v.id)) for v in versions]
    return ("name", "kind", "id", "weights", "entry", "note"), list(rows)


def _deployments(home: Home, limit: int) -> Rows:
    live = list(Deployments(home).snapshot().live.values())[:limit]
    rows = [(d.name, d.spec, ", ".join(map(short, d.body.models)), d.body.upstream, _flag(d)) for d in live]
    return ("name", "spec", "models", "upstream", "note"), list(rows)


def _drifts(home: Home, limit: int) -> Rows:
    rows: list[tuple[object, ...]] = [
        (each.deployment, each.target, f"{each.body.vendor}/{each.body.model}", each.body.fingerprint, each.version,
         each.previous, each.call, each.at, f"registry:{each.entry}")
        for each in seen(Registry(home).ledger)[-limit:]
    ]  # fmt: skip
    return ("deployment", "target", "says it is", "fingerprint", "version", "before", "call", "at", "entry"), rows


def _flag(live: Live) -> str | None:
    return f"revoked: {live.revoked}" if live.revoked else f"tainted: {live.tainted}" if live.tainted else None


def _calls(home: Home, limit: int) -> Rows:
    registry = Registry(home)
    registry.ledger.drain()
    columns = ("call", "called_at", "finish", "assurance", "spec", "entry", "deployment", "principal")
    table, index = schema.call, registry.ledger.index()
    rows: list[dict[str, Any]] = []
    for log in reversed(home.calls.names()):  # the newest first, until there are enough
        if len(rows) < limit:
            newest = select(table).where(table.c.log == log).order_by(table.c.id.desc())
            rows += index.rows(newest.limit(limit - len(rows)))
    return columns, [
        (*(r[name] for name in columns[:5]), f"{r['log']}:{r['id']}", *_sealed(home, r["call"])) for r in reversed(rows)
    ]


def _sealed(home: Home, call: str) -> tuple[str | None, str | None]:
    """Return deployment and principal of a call, None where they are erased or were never kept here."""
    try:
        groups = home.vault.get_groups(call)
        return decode(groups["request"][1], RequestGroup).deployment, decode(groups["who"][1], WhoGroup).principal
    except (GenealogError, KeyError):
        return None, None


def _decisions(home: Home, limit: int) -> Rows:
    table = schema.decision
    rows = Registry(home).ledger.index().rows(select(table).order_by(table.c.id.desc()).limit(limit))
    columns = ("at", "point", "outcome", "code", "subject", "message")
    return ("entry", *columns), [
        (f"{REGISTRY}:{row['id']}", *(row[name] for name in columns)) for row in reversed(rows)
    ]


def _runs(home: Home, limit: int) -> Rows:
    table = schema.execution
    rows = Registry(home).ledger.index().rows(select(table).order_by(table.c.id.desc()).limit(limit))
    columns = ("digest", "kind", "name", "started_at", "exit")
    return ("id", "kind", "name", "started_at", "exit"), [
        tuple(row[name] if name != "exit" else row[name] or "open" for name in columns) for row in reversed(rows)
    ]


_LISTINGS = {
    Listing.artifacts: _artifacts,
    Listing.calls: _calls,
    Listing.deployments: _deployments,
    Listing.decisions: _decisions,
    Listing.drifts: _drifts,
    Listing.runs: _runs,
}
