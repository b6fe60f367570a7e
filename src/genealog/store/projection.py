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

from sqlalchemy import Connection, Insert, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from genealog.core import records
from genealog.core.call import CallLeaf
from genealog.core.canonical import Record, decode
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.ids import record_id
from genealog.core.merkle import leaf_hash
from genealog.core.standing import COMPROMISED, Since, Word, discounted, since_of, time_of
from genealog.core.statement import Read, artifact_of, check_role, read_statement
from genealog.errors import GenealogError
from genealog.store import schema

NONE_BARRED: Mapping[int, str] = MappingProxyType({})
_MANY = 500  # SQLite takes so many bound values without asking
_MAY_REPEAT = (schema.event, schema.key, schema.beat)  # the first to say it counts


def project(
    connection: Connection, log: str, start: int, entries: Iterable[bytes], barred: Mapping[int, str] = NONE_BARRED
) -> None:
    """Write the rows of the entries of `log` from index `start` on; those that are `barred` count for nothing."""
    if log == "registry":
        project_statements(connection, start, list(entries), barred)
    else:
        project_calls(connection, log, start, entries)


def newly_barred(connection: Connection) -> dict[int, str] | None:
    """Return all entries that keys signed which are revoked since a time, and why each counts for nothing.

    None where the rows say so already. Else they have to be made again: what such an entry stated is in many tables.
    """
    table, entry = schema.key, schema.entry
    since = {
        row.keyid: Since(row.revoked, row.since, row.before or 0)
        for row in connection.execute(select(table).where(table.c.since.is_not(None)))
    }
    if not since:
        return None
    sound = entry.c.problem.is_(None) | entry.c.problem.in_(COMPROMISED)
    rows = connection.execute(select(entry.c.id, entry.c.keyid, entry.c.at, entry.c.problem).where(sound)).all()
    barred = discounted([Word(row.id, row.keyid, row.at) for row in rows], since)
    return None if barred == {row.id: row.problem for row in rows if row.problem is not None} else barred


def forget_registry(connection: Connection) -> None:
    """Delete every row that entries of the registry log gave."""
    for table in reversed(schema.metadata.sorted_tables):
        if table not in (schema.call, schema.progress, schema.about):
            connection.execute(delete(table))


def project_statements(
    connection: Connection, start: int, entries: Sequence[bytes], barred: Mapping[int, str] = NONE_BARRED
) -> None:
    """Write the rows of the registry entries from `start` on. The same bytes again, as after a retry, say nothing."""
    batch = Batch(connection)
    leaves = [leaf_hash(data).hex() for data in entries]
    known = {leaf for (leaf,) in _in(connection, schema.entry.c.leaf, leaves, schema.entry.c.leaf)}
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
    batch.look_up(read for _, read in stated)
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
    leaf = decode(data, CallLeaf)
    names = ("call", "emitter", "boot", "seq", "spec", "assurance", "finish", "called_at", "ended_at")
    row = {name: getattr(leaf, name) for name in names}
    return row | {"log": log, "id": index, "leaf": leaf_hash(data).hex(), "models": ",".join(leaf.models)}


class Batch:
    """The rows that some entries give, until they are written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: dict[Table, list[dict[str, Any]]] = {}
        self._nodes: dict[Table, dict[str, dict[str, Any]]] = {}  # digest → row, as it is and as it will be
        self._keys = {row.keyid: dict(row._mapping) for row in connection.execute(select(schema.key))}

    def insert(self, table: Table, **values: Any) -> None:
        """Add a row. Every call for one table names the same columns."""
        self._rows.setdefault(table, []).append({name: _plain(value) for name, value in values.items()})

    def artifact(self, digest: str) -> int:
        """Return the key of an artifact; nobody needs to have registered it."""
        return int(self._nodes[schema.artifact][digest]["id"])

    def execution(self, digest: str) -> int:
        """Return the key of an execution; nobody needs to have started it."""
        return int(self._nodes[schema.execution][digest]["id"])

    def fill(self, table: Table, digest: str, once: str, **values: Any) -> bool:
        """Fill in what a bare artifact or execution lacks, unless its column `once` says that somebody did before."""
        row = self._nodes[table][digest]
        if row[once] is not None:
            return False
        row |= {name: _plain(value) for name, value in values.items()} | {"changed": True}
        return True

    def look_up(self, stated: Iterable[Read]) -> None:
        """Find the keys of every artifact and execution that some statements name, and count on for new ones."""
        named: dict[Table, dict[str, None]] = {schema.artifact: {}, schema.execution: {}}
        for read in stated:
            for table, digest in _named(read):
                named[table][digest] = None
        for table, digests in named.items():
            rows = self._nodes[table] = {
                row.digest: {**row._mapping, "new": False, "changed": False}
                for row in _in(self._connection, table.c.digest, list(digests), table)
            }
            last = self._connection.scalar(select(func.max(table.c.id))) or 0
            for digest in digests:
                if digest not in rows:
                    last += 1
                    empty = dict.fromkeys(column.name for column in table.columns)
                    rows[digest] = empty | {"id": last, "digest": digest, "new": True, "changed": False}

    def signer(self, index: int, read: Read) -> str:
        """Return the identity whose registered, unrevoked key signed what it may; the first entry vouches for itself.

        Raises: VerificationError `signer-unknown`, `signature-invalid`, `role-not-allowed`.
        """
        known, body = {}, read.body
        for keyid in read.keyids:
            row = self._keys.get(keyid)
            if row is not None and row["revoked"] is None:
                known[keyid] = (unb64(row["public"]), str(row["identity"]), str(row["role"]))
        if index == 0 and isinstance(body, records.Key) and body.public and body.role == "owner":
            known[body.keyid] = (unb64(body.public), body.identity, body.role)
        _, keyid = verify_envelope(read.envelope, {keyid: public for keyid, (public, _, _) in known.items()})
        _, identity, role = known[keyid]
        check_role(body, role=role, keyid=keyid)
        return identity

    def hear(self, index: int, body: records.Key) -> None:
        """Take note of a key that came or went: it counts for the entries behind this one."""
        row = self._keys.get(body.keyid)
        if body.action == "revoke":
            if row is not None:
                first = index if row["revoked"] is None else row["revoked"]
                row |= {"revoked": first, "reason": _plain(body.reason), "changed": True}
                row |= _earlier(row, first, index, body)
        elif body.public is not None and row is None:
            self._keys[body.keyid] = {
                "id": index, "keyid": body.keyid, "identity": _plain(body.identity), "role": body.role,
                "public": body.public, "added": index, "revoked": None, "reason": None, "since": None,
                "before": None, "new": True,
            }  # fmt: skip

    def write(self) -> None:
        """Write everything, tables that others refer to first."""
        nodes = {table: list(rows.values()) for table, rows in self._nodes.items()}
        nodes[schema.key] = list(self._keys.values())
        for table in schema.metadata.sorted_tables:
            known = nodes.get(table, ())
            self._write_rows(table, [_row(table, row) for row in known if row.get("new")])
            self._write_rows(table, self._rows.get(table, []))
            changed = [row for row in known if row.get("changed") and not row.get("new")]
            if changed:
                names = [column.name for column in table.columns if column.name != "id"]
                query = update(table).where(table.c.id == bindparam("_id"))
                query = query.values({name: bindparam(f"_{name}") for name in names})
                self._connection.execute(query, [{f"_{name}": row[name] for name in ("id", *names)} for row in changed])

    def _write_rows(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._connection.execute(_insert(self._connection, table), rows)


def _earlier(row: Mapping[str, Any], first: int, index: int, body: records.Key) -> dict[str, Any]:
    """Return since when a key is revoked, after one more revocation."""
    said = [(index, body)]
    if row["since"] is not None:
        told = records.Key(
            action="revoke", keyid=body.keyid, identity="", role=body.role, at="", since=row["since"],
            before=row["before"],
        )  # fmt: skip
        said.insert(0, (first, told))
    since = since_of(said).get(body.keyid)
    return {} if since is None else {"since": since.at, "before": since.before}


def _insert(connection: Connection, table: Table) -> Insert:
    if table not in _MAY_REPEAT:
        return insert(table)
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _in(connection: Connection, column: Any, values: Sequence[str], *wanted: Any) -> Iterator[Any]:
    """Yield the rows whose `column` is one of `values`."""
    for start in range(0, len(values), _MANY):
        yield from connection.execute(select(*wanted).where(column.in_(values[start : start + _MANY])))


def _row(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return {column.name: row[column.name] for column in table.columns}


def _plain(value: Any) -> Any:
    """Return what both databases keep alike: truth as a number, and text without NUL, which PostgreSQL refuses."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and "\0" in value:
        return value.replace("\0", "\N{SYMBOL FOR NULL}")
    return value


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
    about = {"exit": body.exit, "ended_at": body.ended_at}
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
    values = {name: getattr(body, name) for name in ("point", "outcome", "code", "subject", "message", "at")}
    batch.insert(schema.decision, id=index, **values)


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
