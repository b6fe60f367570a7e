"""What the registry knows of one model, as policies ask for it: read from the index once, whoever uses the model.

Every edge is worth what `core.lineage.edge_state` makes of it. What a key stated that is revoked by now (whenever that
was) signs nothing, assesses nothing and evaluates nothing here: policies ask for what still stands. A licence is what
somebody assessed; what a model's files claim of theirs is no fact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, exists, select

from genealog.core import records
from genealog.core.lineage import edge_state
from genealog.core.pickles import classes_told
from genealog.core.statement import artifact_of, read_statement
from genealog.core.states import State
from genealog.errors import MissingError
from genealog.policy.document import Lineage, Pickle, Signed
from genealog.registry import Base, Registry, Version
from genealog.signing.listing import signatures_of
from genealog.store import schema
from genealog.store.home import REGISTRY
from genealog.store.index import Index
from genealog.store.lineage import Walk, walk

EXTERNAL = "external-model"
# Runs that learn nothing from data of their own. One of a kind unknown here counts as training: it has to name data.
NOT_TRAINING = ("convert", "evaluate", "index-build", "infer", "merge", "quantize", "retrieve")
_EVALUATED = ("model", "adapter", "subject")  # roles: what else went in, such as a judge, was not evaluated
_WEAK = (State.CONTRADICTED, State.MISSING, State.UNCHECKED, State.CLAIMED)  # edges by which nothing was evaluated
_UNSIGNED = Signed(own=(), foreign=(), contradicted=0)
_NO_LINEAGE = Lineage(complete=False, to_data=False, contradicted=0)
_NOT_SCANNED = Pickle(scanned=False, unsafe=0)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The newest end of one evaluation of a model."""

    ended_at: str
    succeeded: bool
    measurements: dict[str, str]


@dataclass(frozen=True)
class Known:
    """Facts that do not depend on the time, on what a model is used for, or on what base."""

    id: str
    name: str
    kind: str = ""
    registered: bool = False
    revoked: bool = False
    tainted: bool = False
    signed: Signed = _UNSIGNED
    made_for: Base | None = None
    base_state: str = State.MISSING.value
    lineage: Lineage = _NO_LINEAGE
    licence: str = ""
    tier: str = ""
    pickle: Pickle = _NOT_SCANNED
    vendor: str = ""
    purposes: tuple[str, ...] = ()
    data_classes: tuple[str, ...] = ()
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    makers: frozenset[str] = frozenset()  # identities that registered it, or ran what made it

    @property
    def external(self) -> bool:
        """Whether its vendor serves it, and nobody else has it."""
        return self.kind == EXTERNAL


class Reader:
    """Reads what is known of models. What a registry entry states is read once: entries do not change."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._about: dict[int, str] = {}  # entry of an artifact statement → the artifact

    def known(self, artifact: str, *, refuted: dict[str, str], revoked: dict[str, str]) -> Known:
        """Return what is known of an artifact ID. `refuted` and `revoked` are those of the whole registry."""
        index = self.registry.ledger.index(REGISTRY)
        try:
            version = self.registry.resolve(artifact)
        except MissingError:
            return Known(artifact, artifact, revoked=artifact in revoked)
        body = self.registry.statement(version.statement).body
        if version.id != artifact or not isinstance(body, records.Artifact):
            return Known(artifact, artifact)
        base, state = _base(index, self.registry, artifact)
        with walk(index, artifact, "up") as found:
            lineage, tainted = _lineage(found, refuted), _tainted(found, artifact, revoked)
        licence, tier, purposes, data_classes = _assessed(index, artifact)
        return Known(
            artifact, version.name, version.kind, registered=True, revoked=artifact in revoked, tainted=tainted,
            signed=self._signed(index, version), made_for=base, base_state=state, lineage=lineage, licence=licence,
            tier=tier, pickle=_pickle(body), vendor=_vendor(body), purposes=purposes, data_classes=data_classes,
            evaluations=self._evaluations(index, artifact), makers=_makers(index, artifact),
        )  # fmt: skip

    def _signed(self, index: Index, version: Version) -> Signed:
        entry, key = schema.entry, schema.key
        stating = select(entry.c.id, entry.c.leaf, entry.c.signer, entry.c.problem, key.c.revoked).outerjoin(
            key, key.c.keyid == entry.c.keyid
        )
        here = (entry.c.id == version.index) | (
            (entry.c.predicate == records.TYPES[records.Artifact]) & (entry.c.name == version.name)
        )
        own, doubtful = [], False
        for row in index.rows(stating.where(here).order_by(entry.c.id)):
            if row["problem"] is not None:
                doubtful = True
            elif row["revoked"] is None and self._states(row["id"]) == version.id:
                own.append(row["signer"])
        table = schema.signature
        kept = select(table.c.id).join(schema.artifact).where(schema.artifact.c.digest == version.id)
        if not doubtful and index.first(kept) is None:
            return Signed(own=tuple(dict.fromkeys(own)), foreign=(), contradicted=0)
        judged = signatures_of(self.registry, version)
        foreign = [each.signer for each in judged if each.format != "genealog" and each.state is State.PROVEN]
        false = sum(each.state is State.CONTRADICTED for each in judged)
        return Signed(own=tuple(dict.fromkeys(own)), foreign=tuple(dict.fromkeys(foreign)), contradicted=false)

    def _states(self, entry: int) -> str:
        if entry not in self._about:
            read = read_statement(self.registry.home.registry_log().entry(entry))
            self._about[entry] = artifact_of(read) if isinstance(read.body, records.Artifact) else ""
        return self._about[entry]

    def _evaluations(self, index: Index, artifact: str) -> dict[str, Evaluated]:
        """Return by name the last to end of the evaluations that had the model as an input, and that still stand."""
        run, event, entry, key = schema.execution, schema.event, schema.entry, schema.key
        other = schema.event.alias("other")
        tuned = exists().where(
            other.c.execution == event.c.execution, other.c.direction == "in", other.c.role.in_(_EVALUATED)
        )
        query = (
            select(run.c.name, run.c.exit, run.c.ended_at, entry.c.leaf)
            .join(event, event.c.execution == run.c.id)
            .join(schema.artifact, schema.artifact.c.id == event.c.artifact)
            .join(entry, entry.c.id == run.c.end)
            .join(key, key.c.keyid == entry.c.keyid)
            .where(schema.artifact.c.digest == artifact, event.c.direction == "in", run.c.kind == "evaluate")
            .where(event.c.role.in_(_EVALUATED) | ((event.c.role == "base") & ~tuned))
            .where(event.c.state.not_in([state.value for state in _WEAK]), ~_refuted(), key.c.revoked.is_(None))
            .order_by(run.c.end)
        )
        found = {}
        for row in index.rows(query):
            body = self.registry.statement(row["leaf"]).body
            if isinstance(body, records.ExecutionEnd):
                found[row["name"] or ""] = Evaluated(body.ended_at, body.exit == "succeeded", dict(body.measurements))
        return found


def revocations(index: Index) -> dict[str, str]:
    """Return every revoked artifact, and why."""
    table = schema.ref
    rows = index.rows(select(table.c.name, table.c.reason).where(table.c.kind == "revocation").order_by(table.c.id))
    return {row["name"]: row["reason"] or "revoked" for row in rows}


def _base(index: Index, registry: Registry, artifact: str) -> tuple[Base | None, str]:
    """Return what a model was made from, and the state of that edge."""
    base = registry.base_of(artifact)
    if base is None:
        return None, State.MISSING.value
    made, event, finding, source = schema.event.alias("made"), schema.event, schema.finding, schema.artifact
    target = schema.artifact.alias("target")
    same = and_(*(finding.c[name] == event.c[name] for name in ("execution", "artifact", "direction", "role")))
    query = (
        select(event.c.state, finding.c.state.label("found"))
        .join(made, made.c.execution == event.c.execution)
        .join(source, source.c.id == event.c.artifact)
        .join(target, target.c.id == made.c.artifact)
        .outerjoin(finding, same)
        .where(target.c.digest == artifact, made.c.direction == "out", source.c.digest == base.artifact)
        .where(event.c.direction == "in", event.c.role == "base", event.c.state != "contradicted")
    )
    states = [
        edge_state(State(row["state"]), State(row["found"]) if row["found"] else None) for row in index.rows(query)
    ]
    if State.CONTRADICTED in states:
        return base, State.CONTRADICTED.value
    return base, min(states, key=lambda state: state.rank, default=State.MISSING).value


def _lineage(found: Walk, refuted: dict[str, str]) -> Lineage:
    run, event, table = schema.execution, schema.event, schema.artifact
    data = exists().where(
        event.c.execution == run.c.id, event.c.direction == "in", event.c.artifact == table.c.id,
        (event.c.role == "data") | (table.c.kind == "dataset"), event.c.state != "contradicted",
    )  # fmt: skip
    training = run.c.id.in_(found.executions) & (run.c.kind.is_(None) | run.c.kind.not_in(NOT_TRAINING))
    runs = [row["named"] for row in found.rows(select(run.c.id, data.label("named")).where(training))]
    false = 0
    if refuted:
        reached = found.rows(select(table.c.digest).where(table.c.id.in_(found.artifacts)))
        false = sum(row["digest"] in refuted for row in reached)
    whole = found.reach.complete and not found.reach.origins
    return Lineage(
        complete=found.reach.complete, to_data=whole and bool(runs) and all(runs),
        contradicted=max(false, found.reach.contradicted),
    )  # fmt: skip


def _tainted(found: Walk, artifact: str, revoked: dict[str, str]) -> bool:
    if not revoked:
        return False
    rows = found.rows(select(schema.artifact.c.digest).where(schema.artifact.c.id.in_(found.artifacts)))
    return any(row["digest"] in revoked and row["digest"] != artifact for row in rows)


def _assessed(index: Index, artifact: str) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    row = newest_assessment(index, artifact)
    if row is None:
        return "", "", (), ()
    lists = (tuple(json.loads(row[name])) for name in ("purposes", "data_classes"))
    return row["licence"] or "", row["tier"] or "", *lists  # type: ignore[return-value]


def newest_assessment(index: Index, artifact: str) -> dict[str, Any] | None:
    """Return the last assessment of an artifact by a key that is not revoked, with its `signer`; it holds whole."""
    table, entry, key = schema.assessment, schema.entry, schema.key
    return index.first(
        select(table, entry.c.signer)
        .join(entry, entry.c.id == table.c.id)
        .join(key, key.c.keyid == entry.c.keyid)
        .where(table.c.artifact == artifact, key.c.revoked.is_(None))
        .order_by(table.c.id.desc())
    )


def _makers(index: Index, artifact: str) -> frozenset[str]:
    entry, table, run, event = schema.entry, schema.artifact, schema.execution, schema.event
    registered = select(entry.c.signer).join(table, table.c.entry == entry.c.id).where(table.c.digest == artifact)
    made = (
        select(entry.c.signer)
        .join(run, (run.c.start == entry.c.id) | (run.c.end == entry.c.id))
        .join(event, event.c.execution == run.c.id)
        .join(table, table.c.id == event.c.artifact)
        .where(table.c.digest == artifact, event.c.direction == "out")
    )
    return frozenset(row["signer"] for query in (registered, made) for row in index.rows(query) if row["signer"])


def _pickle(body: records.Artifact) -> Pickle:
    """Say what its registration found. An artifact without files is nothing that could be loaded."""
    if body.manifest is None:
        return Pickle(scanned=True, unsafe=0)
    codes = {line.partition(":")[0] for line in body.warnings}
    unsafe = [line for line in body.warnings if line.startswith("pickle-unsafe:")]
    whole = body.format is not None and not codes & {"pickle-broken", "pickle-trailing", "more-warnings"}
    return Pickle(scanned=whole, unsafe=sum(classes_told(line) is None for line in unsafe))


def _vendor(body: records.Artifact) -> str:
    said = body.body or {}
    vendor = said.get("vendor") if said.get("kind") == EXTERNAL else None
    return vendor if isinstance(vendor, str) else ""


def _refuted() -> Any:
    finding, event = schema.finding, schema.event
    same = (finding.c[name] == event.c[name] for name in ("execution", "artifact", "direction", "role"))
    return exists().where(*same, finding.c.state == "contradicted")
