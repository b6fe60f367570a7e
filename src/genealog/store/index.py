"""The SQL index: what the logs say, ready to be asked. Lose it and you have lost nothing.

`Index.catch_up` reads the entries that it has not seen and turns each into rows (`store.projection`). One writer at a
time; readers see whole entries or nothing. SQLite here, through SQLAlchemy Core. A file that other code made is made
again (`schema.version`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, create_engine, event, insert, select, update
from sqlalchemy.exc import DatabaseError
from sqlalchemy.sql import Executable

from genealog.errors import StoreError
from genealog.store import projection, schema

Entries = Callable[[int, int], Iterable[bytes]]
_BATCH = 2_000


class Index:
    """The projection in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self._prepare()

    def catch_up(self, log: str, size: int, entries: Entries) -> int:
        """Project the entries of `log` up to `size`; `entries(start, stop)` reads them. Returns how many were new."""
        new = 0
        while True:
            with self._transaction() as connection:
                seen = connection.scalar(select(schema.progress.c.size).where(schema.progress.c.log == log))
                start = seen or 0
                stop = min(size, start + _BATCH)
                if start >= size:
                    return new
                projection.project(connection, log, start, entries(start, stop))
                if seen is None:
                    connection.execute(insert(schema.progress).values(log=log, size=stop))
                else:
                    connection.execute(update(schema.progress).where(schema.progress.c.log == log).values(size=stop))
                new += stop - start

    def size(self, log: str) -> int:
        """Return how many entries of `log` are projected."""
        with self._transaction() as connection:
            return connection.scalar(select(schema.progress.c.size).where(schema.progress.c.log == log)) or 0

    def rows(self, query: Executable) -> list[dict[str, Any]]:
        """Run a select and return its rows as dicts."""
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def first(self, query: Executable) -> dict[str, Any] | None:
        """Run a select and return its first row, if any."""
        rows = self.rows(query)
        return rows[0] if rows else None

    def dump(self, tables: Sequence[str] = ()) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of `tables`, or of all: what `index rebuild` must give again."""
        with self._transaction() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
                for table in schema.metadata.sorted_tables
                if not tables or table.name in tables
            }

    def clear(self) -> None:
        """Forget every row."""
        with self._transaction() as connection:
            schema.metadata.drop_all(connection)
            schema.metadata.create_all(connection)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def _prepare(self) -> None:
        """Make the tables. Those of another version of this code are dropped: the logs give the rows again."""
        wanted = schema.version()
        with self._transaction() as connection:
            if connection.exec_driver_sql("PRAGMA user_version").scalar() == wanted:
                return
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            old = MetaData()
            old.reflect(connection)
            old.drop_all(connection)
            schema.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={wanted}")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise StoreError(
                "index-unusable",
                f"the index {self.path.name} cannot be used",
                got=str(error.orig),
                hint="delete it and run: genealog index rebuild",
            ) from None


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event starts the transaction, not the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
