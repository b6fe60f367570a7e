"""From log entries to index rows: one function for each predicate.

A statement that does not parse, whose signer is unknown or whose signature fails still gets its `entry` row, with the
problem's code, and gives no other rows: what nobody vouches for creates no lineage.

Entries come in batches: what a batch needs to know of what is there is read at once, and its rows are written at once,
table by table. Whatever the batches and the database, the rows are the same: keys are counted in the order of the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import singledispatch
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Table, delete, select

from genealog.core import records
from genealog.core.call import CallLeaf
from genealog.core.canonical import Record, decode_typed
from genealog.core.ids import record_id
from genealog.core.lineage import unseen
from genealog.core.merkle import leaf_hash
from genealog.core.standing import COMPROMISED, Since, Word, discounted, time_of
from genealog.core.statement import Read, artifact_of, read_statement
from genealog.errors import GenealogError
from genealog.store import schema
from genealog.store.batch import Batch, rows_in

NONE_BARRED: Mapping[int, str] = MappingProxyType({})


def project(
    connection: Connection, log: str, start: int, entries: Iterable[bytes], barred: Mapping[int, str] = NONE_BARRED
) -> None:
    """Write the rows of the entries of `log` from index `start` on; those that are `barred` count for nothing."""
    if log == "registry":
        project_statements(connection, start, list(entries), barred)
    else:
        project_calls(connection, log, start, entries)


def keys_since(connection: Connection) -> dict[str, Since]:
    """Return the keys that are revoked since a time."""
    query = select(schema.key).where(schema.key.c.since.is_not(None))
    return {row.keyid: Since(row.revoked, row.since, row.before or 0) for row in connection.execute(query)}


def newly_barred(connection: Connection, before: Mapping[str, Since]) -> dict[int, str] | None:
    """Return all entries that keys signed which are revoked since a time, and why each counts for nothing.

    None where the rows say so already: they do if the keys are those of `before`, for only entries ahead of such a
    revocation have a say in it. Else all are read, and made again: what an entry stated is in many tables.
    """
    since, entry = keys_since(connection), schema.entry
    if since == before:
        return None
    sound = entry.c.problem.is_(None) | entry.c.problem.in_(COMPROMISED)
    rows = connection.execute(select(entry.c.id, entry.c.keyid, entry.c.at, entry.c.problem).where(sound)).all()
    barred = discounted([Word(row.id, row.keyid, row.at) for row in rows], since)
    return None if barred == {row.id: row.problem for row in rows if row.problem is not None} else barred


def forget_registry(connection: Connection) -> None:
    """Delete every row that entries of the registry log gave."""
    for table in reversed(schema.metadata.sorted_tables):
        if table.name not in schema.OF_CALLS and table is not schema.about:
            connection.execute(delete(table))


def project_statements(
    connection: Connection, start: int, entries: Sequence[bytes], barred: Mapping[int, str] = NONE_BARRED
) -> None:
    """Write the rows of the registry entries from `start` on. The same bytes again, as after a retry, say nothing."""
    batch = Batch(connection)
    leaves = [leaf_hash(data).hex() for data in entries]
    known = {leaf for (leaf,) in rows_in(connection, schema.entry.c.leaf, leaves, schema.entry.c.leaf)}
    stated: list[tuple[int, Read]] = []
    for index, (data, leaf) in enumerate(zip(entries, leaves, strict=True), start):
        row: dict[str, Any] = {"id": index, "leaf": leaf}
        row |= dict.fromkeys(("predicate", "name", "keyid", "signer", "problem", "at"))
        try:
            read = read_statement(data)
            row |= {"predicate": records.TYPES[type(read.body)], "name": read.subjects[0].name, "keyid": read.keyids[0]}
            row["at"] = time_of(read.body)
            row["signer"] = batch.signer(index, read)
        except GenealogError as error:
            row["problem"] = error.code
        else:
            if index in barred:
                row |= {"signer": None, "problem": barred[index]}
            elif leaf not in known:
                stated.append((index, read))
                if isinstance(read.body, records.Key):
                    batch.hear(index, read.body)
        known.add(leaf)
        batch.insert(schema.entry, **row)
    batch.look_up(named for _, read in stated for named in _named(read))
    for index, read in stated:
        _project(read.body, batch, index, read)
    batch.write()


def project_calls(connection: Connection, log: str, start: int, entries: Iterable[bytes]) -> None:
    """Write the rows of the entries of the call log `log` from index `start` on, in one go."""
    batch = Batch(connection)
    for index, data in enumerate(entries, start):
        batch.insert(schema.call, **_call_row(log, index, data))
    batch.write()


def _call_row(log: str, index: int, data: bytes) -> dict[str, Any]:
    leaf = decode_typed(data, CallLeaf)
    names = ("call", "emitter", "boot", "seq", "spec", "assurance", "finish", "called_at", "ended_at")
    row = {name: getattr(leaf, name) for name in names}
    return row | {"log": log, "id": index, "leaf": leaf_hash(data).hex(), "models": ",".join(leaf.models)}


def _named(read: Read) -> Iterator[tuple[Table, str]]:
    """Yield every artifact and execution that gets a row because a statement names it, in the order of its rows."""
    match body := read.body:
        case records.Artifact():
            yield schema.artifact, artifact_of(read)
        case records.Execution():
            yield schema.execution, record_id(body)
        case records.ExecutionEnd() | records.ExecutionEvents():
            yield schema.execution, body.execution
            yield from ((schema.artifact, item.artifact) for item in body.events)
        case records.Finding():
            yield schema.execution, body.execution
            yield schema.artifact, body.artifact
        case records.Signature():
            yield schema.artifact, body.artifact


@singledispatch
def _project(body: Record, batch: Batch, index: int, read: Read) -> None:
    """Write what a body says. A context says nothing that a query needs."""


@_project.register
def _(body: records.Artifact, batch: Batch, index: int, read: Read) -> None:
    batch.fill(
        schema.artifact, artifact_of(read), "entry",
        entry=index, kind=body.kind, name=read.subjects[0].name, weights=body.weights and body.weights.id,
        format=body.format, source=body.source, files=body.files, size=body.size,
        manifest=body.manifest and body.manifest.sha256, registered_at=body.registered_at,
    )  # fmt: skip


@_project.register
def _(body: records.Execution, batch: Batch, index: int, _read: Read) -> None:
    about = {"kind": body.kind, "name": body.name, "started_at": body.started_at}
    batch.fill(schema.execution, record_id(body), "start", start=index, **about)


@_project.register
def _(body: records.ExecutionEnd, batch: Batch, index: int, _read: Read) -> None:
    about = {"exit": body.exit, "ended_at": body.ended_at, "unseen": next(iter(unseen(body.warnings)), None)}
    if batch.fill(schema.execution, body.execution, "end", end=index, **about):
        _events(batch, index, body)  # an execution ends once; a second ending is in the log, and changes nothing


@_project.register
def _(body: records.ExecutionEvents, batch: Batch, index: int, _read: Read) -> None:
    _events(batch, index, body)


def _events(batch: Batch, index: int, body: records.ExecutionEnd | records.ExecutionEvents) -> None:
    execution = batch.execution(body.execution)
    for place, item in enumerate(body.events):
        artifact = batch.artifact(item.artifact)
        src, dst = schema.ends(execution, artifact, item.direction)
        batch.insert(
            schema.event, id=index << schema.EVENT_BITS | place, execution=execution, artifact=artifact,
            direction=item.direction, role=item.role, state=str(item.state), weights=item.weights, path=item.path,
            facts=json.dumps(item.facts, sort_keys=True) if item.facts else None, code=item.code, src=src, dst=dst,
        )  # fmt: skip


@_project.register
def _(body: records.Finding, batch: Batch, index: int, _read: Read) -> None:
    names = ("direction", "role", "method", "code", "detail", "at")
    values = {name: getattr(body, name) for name in names} | {"state": str(body.state)}
    execution, artifact = batch.execution(body.execution), batch.artifact(body.artifact)
    batch.insert(schema.finding, id=index, execution=execution, artifact=artifact, **values)


@_project.register
def _(body: records.Signature, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("format", "method", "signer", "at")}
    artifact = batch.artifact(body.artifact)
    batch.insert(schema.signature, id=index, artifact=artifact, bundle=body.bundle.sha256, **values)


@_project.register
def _(body: records.Approval, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("deployment", "spec", "action", "reason", "at")}
    batch.insert(schema.approval, id=index, **values)


@_project.register
def _(body: records.Incident, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("name", "action", "deployment", "reason", "since", "until", "at")}
    lists = {"specs": "\n".join(body.specs), "artifacts": "\n".join(body.artifacts)}
    batch.insert(schema.incident, id=index, **values, **lists)


@_project.register
def _(body: records.Drift, batch: Batch, index: int, _read: Read) -> None:
    values = {
        name: getattr(body, name) for name in ("deployment", "spec", "target", "version", "previous", "call", "at")
    }
    said = {name: getattr(body.body, name) for name in ("vendor", "model", "fingerprint", "region")}
    batch.insert(schema.drift, id=index, **values, **said)


@_project.register
def _(body: records.Ref, batch: Batch, index: int, _read: Read) -> None:
    values = {
        name: getattr(body, name) for name in ("kind", "name", "to", "action", "previous", "reason", "incident", "at")
    }
    approvals = "\n".join(body.approvals) or None
    batch.insert(schema.ref, id=index, approvals=approvals, **values)


@_project.register
def _(body: records.ServingSpec, batch: Batch, index: int, _read: Read) -> None:
    batch.insert(schema.spec, id=index, digest=record_id(body))


@_project.register
def _(body: records.Load, batch: Batch, index: int, _read: Read) -> None:
    models = ",".join(body.models)
    names = ("engine", "keyid", "loaded_at")
    batch.insert(schema.load, id=index, models=models, **{name: getattr(body, name) for name in names})


@_project.register
def _(body: records.Decision, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("point", "outcome", "code", "subject", "message", "at", "policy")}
    batch.insert(schema.decision, id=index, **values)


@_project.register
def _(body: records.Assessment, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("artifact", "licence", "tier", "reason", "at")}
    lists = {name: json.dumps(getattr(body, name)) for name in ("purposes", "data_classes")}
    batch.insert(schema.assessment, id=index, **values, **lists)


@_project.register
def _(body: records.BreakGlass, batch: Batch, index: int, _read: Read) -> None:
    values = {
        name: getattr(body, name) for name in ("name", "action", "deployment", "until", "request", "reason", "at")
    }
    batch.insert(schema.break_glass, id=index, policies="\n".join(body.policies), **values)


@_project.register
def _(body: records.Review, batch: Batch, index: int, _read: Read) -> None:
    batch.insert(schema.review, id=index, **{name: getattr(body, name) for name in ("call", "verdict", "reason", "at")})


@_project.register
def _(body: records.DecisionLog, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("events", "denied", "source", "first", "last", "at")}
    batch.insert(schema.decision_log, id=index, body=body.body.sha256, revisions="\n".join(body.revisions), **values)


@_project.register
def _(body: records.LogHead, batch: Batch, index: int, _read: Read) -> None:
    names = ("log", "origin", "size", "root", "note", "continues", "closed", "at")
    batch.insert(schema.head, id=index, **{name: getattr(body, name) for name in names})


@_project.register
def _(body: records.Heartbeat, batch: Batch, index: int, _read: Read) -> None:
    same = {"id": index, "log": body.log, "size": body.size, "at": body.at}
    for beat in body.emitters:
        values = {name: getattr(beat, name) for name in ("emitter", "boot", "live", "seq", "leaf")}
        batch.insert(schema.beat, **same, **values)


@_project.register
def _(body: records.GapNote, batch: Batch, index: int, _read: Read) -> None:
    names = ("log", "emitter", "boot", "after", "reason", "at", "frames", "size", "sha256", "call")
    batch.insert(schema.gap, id=index, **{name: getattr(body, name) for name in names})


@_project.register
def _(body: records.Hold, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("name", "action", "reason", "at", "since", "until")}
    lists = {"calls": "\n".join(body.calls), "subjects": "\n".join(body.subjects), "tenants": json.dumps(body.tenants)}
    batch.insert(schema.hold, id=index, **values, **lists)


@_project.register
def _(body: records.Tombstone, batch: Batch, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("scope", "at", "reason", "calls", "digest")}
    batch.insert(schema.tombstone, id=index, **values, what=" ".join(body.what))
