"""One run on record: what its statements say, what went in and came out, and what was found about that.

States are a reader's: never better than stated, contradicted where any finding says so. It reads, and judges nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select

from genealog.core import records
from genealog.core.lineage import edge_state
from genealog.core.states import State, weakest
from genealog.errors import MalformedError, MissingError
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY

_ID = re.compile(r"(glr1:)?[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Edge:
    """An artifact that went in or came out. `name` and `kind` are None where nothing registers it."""

    direction: str
    role: str
    artifact: str
    name: str | None
    kind: str | None
    state: State
    code: str | None
    path: str | None
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunOnRecord:
    """A run. `end` is None while it goes on, and for ever if it crashed; entries are places in the registry log."""

    id: str
    start: records.Execution
    end: records.ExecutionEnd | None
    signer: str | None
    started: int
    ended: int | None
    edges: tuple[Edge, ...]
    findings: tuple[records.Finding, ...]


def find_run(registry: Registry, ref: str) -> RunOnRecord:
    """Return the run whose ID is `ref` or begins with it (8 hex digits or more).

    Raises: MissingError `unknown-execution`; MalformedError `ambiguous-ref`.
    """
    index, table = registry.ledger.index(REGISTRY), schema.execution
    rows = []
    if _ID.fullmatch(ref):
        wanted = f"glr1:{ref.rpartition(':')[2]}"
        rows = index.rows(select(table).where(table.c.start.is_not(None), table.c.digest.like(f"{wanted}%")).limit(2))
    if not rows:
        raise MissingError("unknown-execution", "no run has this ID", got=ref, hint="genealog ls runs")
    if len(rows) > 1:
        raise MalformedError("ambiguous-ref", "more than one ID starts so", got=ref, hint="give more digits")
    (row,) = rows
    start, signer = _body(registry, row["start"])
    end = _body(registry, row["end"])[0] if row["end"] is not None else None
    if not isinstance(start, records.Execution):
        raise MissingError("unknown-execution", "the log holds no start of it", got=row["digest"])
    return RunOnRecord(
        row["digest"], start, end if isinstance(end, records.ExecutionEnd) else None, signer, row["start"], row["end"],
        _edges(registry, row["id"]), _findings(registry, row["id"]),
    )  # fmt: skip


def _body(registry: Registry, entry: int) -> tuple[object, str | None]:
    index, table = registry.ledger.index(REGISTRY), schema.entry
    (row,) = index.rows(select(table.c.leaf, table.c.signer).where(table.c.id == entry))
    return registry.statement(row["leaf"]).body, row["signer"]


def _edges(registry: Registry, execution: int) -> tuple[Edge, ...]:
    event, artifact, finding = schema.event, schema.artifact, schema.finding
    index = registry.ledger.index(REGISTRY)
    same = and_(*(finding.c[name] == event.c[name] for name in ("execution", "artifact", "direction", "role")))
    found: dict[int, list[tuple[State, str | None]]] = {}
    query = select(event.c.id, finding.c.state, finding.c.code).join(event, same)
    for row in index.rows(query.where(event.c.execution == execution)):
        found.setdefault(row["id"], []).append((State(row["state"]), row["code"]))
    query = select(event, artifact.c.digest, artifact.c.name, artifact.c.kind)
    query = query.join(artifact, artifact.c.id == event.c.artifact).where(event.c.execution == execution)
    edges = []
    for row in index.rows(query.order_by(event.c.direction, event.c.id)):
        beside = found.get(row["id"], [])
        worst = weakest([state for state, _ in beside]) if beside else None
        code = next((why for state, why in beside if state is worst and why), None)
        edges.append(_edge(row, edge_state(State(row["state"]), worst), code or row["code"]))
    return tuple(edges)


def _edge(row: dict[str, Any], state: State, code: str | None) -> Edge:
    facts = json.loads(row["facts"]) if row["facts"] else {}
    return Edge(row["direction"], row["role"], row["digest"], row["name"], row["kind"], state, code, row["path"], facts)


def _findings(registry: Registry, execution: int) -> tuple[records.Finding, ...]:
    table, entry = schema.finding, schema.entry
    query = select(entry.c.leaf).join(table, table.c.id == entry.c.id).where(table.c.execution == execution)
    rows = registry.ledger.index(REGISTRY).rows(query.order_by(table.c.id))
    bodies = [registry.statement(row["leaf"]).body for row in rows]
    return tuple(body for body in bodies if isinstance(body, records.Finding))
