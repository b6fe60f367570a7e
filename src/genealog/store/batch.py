"""The rows that a batch of entries gives: what they need to know read at once, what they say written at once.

Keys of artifacts and executions are counted here, in the order in which the log names them, so that every database has
the same ones. The registered keys stand here as they are after each entry of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Insert, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import sqlite

from genealog.core import records
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.standing import since_of
from genealog.core.statement import Read, check_role
from genealog.store import schema

_MANY = 500  # SQLite takes so many bound values without asking
_MAY_REPEAT = (schema.event, schema.key, schema.beat)  # the first to say it counts


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

    def look_up(self, digests_of: Iterable[tuple[Table, str]]) -> None:
        """Find the keys of the artifacts and executions that are named, and count on, in that order, for new ones."""
        named: dict[Table, dict[str, None]] = {schema.artifact: {}, schema.execution: {}}
        for table, digest in digests_of:
            named[table][digest] = None
        for table, digests in named.items():
            rows = self._nodes[table] = {
                row.digest: {**row._mapping, "new": False, "changed": False}
                for row in rows_in(self._connection, table.c.digest, list(digests), table)
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
        from sqlalchemy.dialects import postgresql  # loads asyncio and more: no command on a local store waits for it

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def rows_in(connection: Connection, column: Any, values: Sequence[str], *wanted: Any) -> Iterator[Any]:
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
