"""From log entries to index rows: one function for each predicate.

A statement that does not parse, whose signer is unknown or whose signature fails still gets its `entry` row, with the
problem's code, and gives no other rows: what nobody vouches for creates no lineage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import singledispatch
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from genealog.core import records
from genealog.core.call import CallLeaf
from genealog.core.canonical import Record, decode
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.ids import record_id
from genealog.core.merkle import leaf_hash
from genealog.core.statement import Read, artifact_of, check_role, read_statement
from genealog.errors import GenealogError
from genealog.store import schema


def project_statement(connection: Connection, index: int, data: bytes) -> None:
    """Write the rows of registry entry `index`. The same bytes again, as after a retry, state nothing new."""
    row: dict[str, Any] = {"id": index, "leaf": leaf_hash(data).hex()}
    repeated = connection.scalar(select(schema.entry.c.id).where(schema.entry.c.leaf == row["leaf"])) is not None
    try:
        read = read_statement(data)
        row |= {"predicate": records.TYPES[type(read.body)], "name": read.subjects[0].name, "keyid": read.keyids[0]}
        row["signer"] = _signer(connection, index, read)
    except GenealogError as error:
        connection.execute(insert(schema.entry).values(**row, problem=error.code))
        return
    connection.execute(insert(schema.entry).values(**row))
    if not repeated:
        _project(read.body, connection, index, read)


def project_calls(connection: Connection, log: str, start: int, entries: Iterable[bytes]) -> None:
    """Write the rows of the entries of the call log `log` from index `start` on, in one go."""
    rows = [_call_row(log, index, data) for index, data in enumerate(entries, start)]
    if rows:
        connection.execute(insert(schema.call), rows)


def project(connection: Connection, log: str, start: int, entries: Iterable[bytes]) -> None:
    """Write the rows of the entries of `log` from index `start` on."""
    if log != "registry":
        project_calls(connection, log, start, entries)
        return
    for index, data in enumerate(entries, start):
        project_statement(connection, index, data)


def _call_row(log: str, index: int, data: bytes) -> dict[str, Any]:
    leaf = decode(data, CallLeaf)
    names = ("call", "emitter", "boot", "seq", "spec", "assurance", "finish", "called_at", "ended_at")
    row = {name: getattr(leaf, name) for name in names}
    return row | {"log": log, "id": index, "leaf": leaf_hash(data).hex(), "models": ",".join(leaf.models)}


def _signer(connection: Connection, index: int, read: Read) -> str:
    """Return the identity whose registered, unrevoked key signed what it may; the first entry vouches for itself."""
    table = schema.key
    known = {
        row.keyid: (unb64(row.public), str(row.identity), str(row.role))
        for row in connection.execute(select(table).where(table.c.keyid.in_(read.keyids), table.c.revoked.is_(None)))
    }
    body = read.body
    if index == 0 and isinstance(body, records.Key) and body.public and body.role == "owner":
        known[body.keyid] = (unb64(body.public), body.identity, body.role)
    _, keyid = verify_envelope(read.envelope, {keyid: public for keyid, (public, _, _) in known.items()})
    _, identity, role = known[keyid]
    check_role(body, role=role, keyid=keyid)
    return identity


def _id_of(connection: Connection, table: Table, digest: str) -> int:
    """Return the integer key of a digest, making a bare row when it is new."""
    found = connection.scalar(select(table.c.id).where(table.c.digest == digest))
    if found is None:
        found = connection.scalar(insert(table).values(digest=digest).returning(table.c.id))
    return int(found or 0)


@singledispatch
def _project(body: Record, connection: Connection, index: int, read: Read) -> None:
    """Write what a body says. A context says nothing that a query needs."""


@_project.register
def _(body: records.Artifact, connection: Connection, index: int, read: Read) -> None:
    row = _id_of(connection, schema.artifact, artifact_of(read))
    connection.execute(
        update(schema.artifact)
        .where(schema.artifact.c.id == row, schema.artifact.c.entry.is_(None))
        .values(
            entry=index, kind=body.kind, name=read.subjects[0].name, weights=body.weights and body.weights.id,
            format=body.format, source=body.source, files=body.files, size=body.size,
            manifest=body.manifest and body.manifest.sha256, registered_at=body.registered_at,
        )
    )  # fmt: skip


@_project.register
def _(body: records.Execution, connection: Connection, index: int, _read: Read) -> None:
    row = _id_of(connection, schema.execution, record_id(body))
    connection.execute(
        update(schema.execution)
        .where(schema.execution.c.id == row, schema.execution.c.start.is_(None))
        .values(start=index, kind=body.kind, name=body.name, started_at=body.started_at)
    )


@_project.register
def _(body: records.ExecutionEnd, connection: Connection, index: int, _read: Read) -> None:
    row = _id_of(connection, schema.execution, body.execution)
    first = connection.execute(
        update(schema.execution)
        .where(schema.execution.c.id == row, schema.execution.c.end.is_(None))
        .values(end=index, exit=body.exit, ended_at=body.ended_at)
    )
    if not first.rowcount:  # an execution ends once; a second ending is in the log, and changes nothing
        return
    _events(connection, row, body.events)


@_project.register
def _(body: records.ExecutionEvents, connection: Connection, _index: int, _read: Read) -> None:
    _events(connection, _id_of(connection, schema.execution, body.execution), body.events)


def _events(connection: Connection, execution: int, events: Iterable[records.Event]) -> None:
    for item in events:
        values = {
            "execution": execution, "artifact": _id_of(connection, schema.artifact, item.artifact),
            "direction": item.direction, "role": item.role, "state": str(item.state), "weights": item.weights,
            "path": item.path, "facts": json.dumps(item.facts, sort_keys=True) if item.facts else None,
            "code": item.code,
        }  # fmt: skip
        connection.execute(insert(schema.event).prefix_with("OR IGNORE").values(values))


@_project.register
def _(body: records.Finding, connection: Connection, index: int, _read: Read) -> None:
    names = ("direction", "role", "method", "code", "detail", "at")
    values = {name: getattr(body, name) for name in names} | {"state": str(body.state)}
    execution = _id_of(connection, schema.execution, body.execution)
    artifact = _id_of(connection, schema.artifact, body.artifact)
    connection.execute(insert(schema.finding).values(id=index, execution=execution, artifact=artifact, **values))


@_project.register
def _(body: records.Signature, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("format", "method", "signer", "at")}
    artifact = _id_of(connection, schema.artifact, body.artifact)
    connection.execute(
        insert(schema.signature).values(id=index, artifact=artifact, bundle=body.bundle.sha256, **values)
    )


@_project.register
def _(body: records.Approval, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("deployment", "spec", "action", "reason", "at")}
    connection.execute(insert(schema.approval).values(id=index, **values))


@_project.register
def _(body: records.Incident, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("name", "action", "deployment", "reason", "since", "until", "at")}
    lists = {"specs": "\n".join(body.specs), "artifacts": "\n".join(body.artifacts)}
    connection.execute(insert(schema.incident).values(id=index, **values, **lists))


@_project.register
def _(body: records.Ref, connection: Connection, index: int, _read: Read) -> None:
    values = {
        name: getattr(body, name) for name in ("kind", "name", "to", "action", "previous", "reason", "incident", "at")
    }
    approvals = "\n".join(body.approvals) or None
    connection.execute(insert(schema.ref).values(id=index, approvals=approvals, **values))


@_project.register
def _(body: records.Key, connection: Connection, index: int, _read: Read) -> None:
    if body.action == "revoke":
        connection.execute(
            update(schema.key)
            .where(schema.key.c.keyid == body.keyid)
            .values(revoked=index, reason=body.reason, since=body.since)
        )
    elif body.public is not None:
        values = {"keyid": body.keyid, "identity": body.identity, "role": body.role, "public": body.public}
        connection.execute(insert(schema.key).prefix_with("OR IGNORE").values(**values, added=index))


@_project.register
def _(body: records.ServingSpec, connection: Connection, index: int, _read: Read) -> None:
    connection.execute(insert(schema.spec).values(id=index, digest=record_id(body)))


@_project.register
def _(body: records.Load, connection: Connection, index: int, _read: Read) -> None:
    models = ",".join(body.models)
    connection.execute(
        insert(schema.load).values(
            id=index, engine=body.engine, keyid=body.keyid, models=models, loaded_at=body.loaded_at
        )
    )


@_project.register
def _(body: records.Decision, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("point", "outcome", "code", "subject", "message", "at")}
    connection.execute(insert(schema.decision).values(id=index, **values))


@_project.register
def _(body: records.LogHead, connection: Connection, index: int, _read: Read) -> None:
    names = ("log", "origin", "size", "root", "note", "continues", "closed", "at")
    connection.execute(insert(schema.head).values(id=index, **{name: getattr(body, name) for name in names}))


@_project.register
def _(body: records.Heartbeat, connection: Connection, index: int, _read: Read) -> None:
    same = {"id": index, "log": body.log, "size": body.size, "at": body.at}
    for beat in body.emitters:
        values = {name: getattr(beat, name) for name in ("emitter", "boot", "live", "seq", "leaf")}
        connection.execute(insert(schema.beat).prefix_with("OR IGNORE").values(**same, **values))


@_project.register
def _(body: records.GapNote, connection: Connection, index: int, _read: Read) -> None:
    names = ("log", "emitter", "boot", "after", "reason", "at", "frames", "size", "sha256", "call")
    connection.execute(insert(schema.gap).values(id=index, **{name: getattr(body, name) for name in names}))


@_project.register
def _(body: records.Hold, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("name", "action", "reason", "at", "since", "until")}
    lists = {"calls": "\n".join(body.calls), "subjects": "\n".join(body.subjects), "tenants": json.dumps(body.tenants)}
    connection.execute(insert(schema.hold).values(id=index, **values, **lists))


@_project.register
def _(body: records.Tombstone, connection: Connection, index: int, _read: Read) -> None:
    values = {name: getattr(body, name) for name in ("scope", "at", "reason", "calls", "digest")}
    connection.execute(insert(schema.tombstone).values(id=index, **values, what=" ".join(body.what)))
