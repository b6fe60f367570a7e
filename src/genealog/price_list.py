"""The price tables that a store has registered, read from its registry log: which calls they count for, and since when.

A table is an artifact of kind `price-table`. Its body, in the log, says all but the entries, and has a digest of those;
they are kept as an object. So the price entry that a call names can be proven: the statement by its receipt, and the
entries by the digest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import func, select

from genealog.core import records
from genealog.core.canonical import decode
from genealog.core.ids import record_id
from genealog.core.prices import Entry, PriceTable
from genealog.core.pricing import Listed, Prices
from genealog.core.statement import read_statement
from genealog.errors import GenealogError, MalformedError
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.index import Index

KIND = "price-table"


class PriceList:
    """The tables of a store, read again when its registry log has grown. `index` returns an index that is up to it."""

    def __init__(self, home: Home, index: Callable[[], Index]) -> None:
        self._home = home
        self._index = index
        self._size = -1
        self._prices = Prices()
        self._tables: dict[str, PriceTable | None] = {}

    def now(self) -> Prices:
        """Return the tables as they are registered now."""
        index = self._index()
        size = index.size(REGISTRY)
        if size != self._size:
            self._prices = Prices(self._listed(index))
            self._size = size
        return self._prices

    def _listed(self, index: Index) -> list[Listed]:
        artifact, entry, ref = schema.artifact, schema.entry, schema.ref
        revoked = (
            select(func.min(ref.c.at))
            .where(ref.c.kind == "revocation", ref.c.name == artifact.c.digest)
            .scalar_subquery()
        )
        rows = index.rows(
            select(artifact.c.digest, artifact.c.entry, artifact.c.name, artifact.c.registered_at, entry.c.signer)
            .add_columns(revoked.label("revoked_at"))
            .join(entry, entry.c.id == artifact.c.entry)
            .where(artifact.c.kind == KIND)
            .order_by(artifact.c.entry)
        )
        found = []
        for row in rows:
            body = read_statement(self._home.registry_log().entry(row["entry"])).body
            head = body.body if isinstance(body, records.Artifact) else None
            try:
                found.append(self._read(row, head or {}))
            except (KeyError, TypeError, ValueError):
                continue  # of this kind by name alone: no table that a call could name
        return found

    def _read(self, row: dict[str, Any], head: dict[str, Any]) -> Listed:
        kept = head["entries"]
        return Listed(
            id=row["digest"], name=row["name"], seller=str(head["seller"]), currency=str(head["currency"]),
            valid_from=str(head["valid_from"]), until=head.get("until"), registered_at=row["registered_at"],
            revoked_at=row["revoked_at"], source=str(head["source"]), signer=row["signer"],
            count=int(kept["count"]), table=self._table(row["digest"], head, str(kept["sha256"])),
        )  # fmt: skip

    def _table(self, identifier: str, head: dict[str, Any], digest: str) -> PriceTable | None:
        """Return the table, None where its entries are not those that the log has a digest of."""
        if identifier not in self._tables:
            try:
                self._tables[identifier] = whole_table(head, self._home.objects.get(digest))
            except GenealogError:
                return None
        return self._tables[identifier]


def whole_table(head: dict[str, Any], entries: bytes) -> PriceTable:
    """Return the table with this head and these entries. Raises: MalformedError `bad-price-table`, as of `decode`."""
    read = decode(entries, tuple[Entry, ...])
    try:
        table = msgspec.convert({**head, "entries": read}, PriceTable)
    except msgspec.ValidationError as error:
        raise MalformedError("bad-price-table", f"not the head of a price table: {error}") from None
    if table.id != record_id(head):
        raise MalformedError("bad-price-table", "the entries are not those of this table", expected=record_id(head))
    table.check()
    return table
