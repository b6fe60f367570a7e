"""The SQL index: what the logs say, ready to be asked. Lose it and you have lost nothing.

`Index.catch_up` reads the entries that it has not seen and turns each into rows (`store.projection`). One writer at a
time, whichever process or machine it is in; readers see whole entries or nothing, and one state of the log as long as
they read. A file of the store, or a schema in PostgreSQL that several machines share, through SQLAlchemy Core. Tables
that other code made are made again (`schema.version`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema
from sqlalchemy.sql import Executable

from genealog.errors import StoreError, not_installed
from genealog.store import config, projection, schema

Entries = Callable[[int, int], Iterable[bytes]]
_BATCH = 2_000
_ANALYZE = 20_000  # entries in one catching up after which PostgreSQL is told how many there are


class Index:
    """The projection: in one SQLite file, or in a schema of a PostgreSQL database.

    `origin` is the store's, and `belongs` tells its first entry, because an origin is a name that two stores may have:
    what another one wrote is never read as this one's. Raises: StoreError `index-unusable`,
    `index-of-another-store`; MissingError `extra-not-installed`.
    """

    def __init__(self, place: Path | str, *, tables: str = "genealog_index", origin: str | None = None) -> None:
        self._shared = isinstance(place, str)
        self.label = place.name if isinstance(place, Path) else f"{tables} in PostgreSQL"
        self._tables, self._origin = tables, origin
        self._first: str | None = None
        self._engine = _sqlite(place) if isinstance(place, Path) else _postgres(place, tables)
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def owner_known(self) -> bool:
        """Whether it is known whose these tables are: a file is its store's, a schema has to be asked (`belongs`)."""
        return not self._shared or self._first is not None

    def belongs(self, first: str) -> None:
        """Take a schema for the store whose registry log begins with the entry of this hex leaf hash.

        Raises: StoreError `index-of-another-store`.
        """
        with self._writing() as connection:
            name = schema.about.c.name
            known = connection.scalar(select(schema.about.c.value).where(name == "first"))
            if known is None:
                connection.execute(insert(schema.about).values(name="first", value=first))
                known = connection.scalar(select(schema.entry.c.leaf).where(schema.entry.c.id == 0)) or first
            if known != first:
                raise self._anothers(known, first)
        self._first = first

    def catch_up(self, log: str, size: int, entries: Entries) -> int:
        """Project the entries of `log` up to `size`; `entries(start, stop)` reads them. Returns how many were new."""
        new = 0
        if self.size(log) >= size:  # nobody is kept waiting for nothing
            return new
        while True:
            with self._writing() as connection:
                self._check_version(connection)
                seen = connection.scalar(select(schema.progress.c.size).where(schema.progress.c.log == log))
                start = seen or 0
                stop = min(size, start + _BATCH)
                if start >= size:
                    break
                revoked = projection.keys_since(connection)
                projection.project(connection, log, start, entries(start, stop))
                if log == "registry" and (barred := projection.newly_barred(connection, revoked)) is not None:
                    projection.forget_registry(connection)
                    for first in range(0, stop, _BATCH):
                        batch = entries(first, min(stop, first + _BATCH))
                        projection.project(connection, log, first, batch, barred)
                if seen is None:
                    connection.execute(insert(schema.progress).values(log=log, size=stop))
                else:
                    connection.execute(update(schema.progress).where(schema.progress.c.log == log).values(size=stop))
                new += stop - start
        if self._shared and new >= _ANALYZE:
            with self._writing() as connection:
                connection.execute(text("ANALYZE"))
        return new

    def size(self, log: str) -> int:
        """Return how many entries of `log` are projected."""
        with self.reading() as connection:
            return connection.scalar(select(schema.progress.c.size).where(schema.progress.c.log == log)) or 0

    def rows(self, query: Executable) -> list[dict[str, Any]]:
        """Run a select and return its rows as dicts."""
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def first(self, query: Executable) -> dict[str, Any] | None:
        """Run a select and return its first row, if any."""
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else dict(row)

    def dump(self, tables: Sequence[str] = ()) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of `tables`, or of all: what `index rebuild` must give again, in either database."""
        with self.reading() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
                for table in schema.metadata.sorted_tables
                if table is not schema.about and (not tables or table.name in tables)
            }

    def clear(self) -> None:
        """Forget every row."""
        with self._writing() as connection:
            self._make(connection)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the log until the context ends, and changes none of it.

        Raises: StoreError `index-unusable`.
        """
        alike: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._errors(), self._engine.connect() as connection:
            yield connection.execution_options(reading=True, **(alike if self._shared else {}))
            # a commit empties the scratch table in PostgreSQL; taking it back would leave dead rows to be read again
            if self._shared:
                connection.commit()
            else:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection that writes alone: for rows that no entry alone gives (`genealog.cost.projection`).

        Raises: StoreError `index-unusable`, `index-of-other-code`.
        """
        with self._writing() as connection:
            self._check_version(connection)
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._errors(), self._engine.begin() as connection:
            if self._shared:  # given back with the commit, or with the connection
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._lock()})
            yield connection

    def _lock(self) -> int:
        digest = hashlib.sha256(f"genealog/index/v1\0{self._tables}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def _prepare(self) -> None:
        """Make the tables. Those of another version of this code are dropped: the logs give the rows again."""
        with self._errors():
            if self._shared:
                with self._engine.begin() as connection:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._lock()})
                    connection.execute(CreateSchema(self._tables, if_not_exists=True))
        with self._writing() as connection:
            known, there = {}, self._names(connection)
            if schema.about.name in there:
                known = {row.name: row.value for row in connection.execute(select(schema.about))}
            elif there and self._shared:  # a log or a vault may be there: what is not ours is never dropped
                raise StoreError(
                    "index-schema-in-use", f"{self.label} has tables that are not an index's", got=min(there),
                    hint="give the index a schema of its own: [index] schema in genealog.toml",
                )  # fmt: skip
            if self._origin is not None and known.get("origin") not in (None, self._origin):
                raise self._anothers(known["origin"], self._origin)
            if known.get("version") != str(schema.version()):
                self._make(connection)

    def _anothers(self, got: str, expected: str) -> StoreError:
        return StoreError(
            "index-of-another-store", f"the index {self.label} is of another store", got=got, expected=expected,
            hint="give each store an [index] schema of its own in genealog.toml",
        )  # fmt: skip

    def _check_version(self, connection: Connection) -> None:
        """Another machine's newer code may have made the tables anew since they were opened here."""
        found = connection.scalar(select(schema.about.c.value).where(schema.about.c.name == "version"))
        if found != str(schema.version()):
            raise StoreError(
                "index-of-other-code", f"the tables of the index {self.label} were made anew by another version",
                hint="run one version of Genealog on all machines that share an index, and start this process again",
            )  # fmt: skip

    def _make(self, connection: Connection) -> None:
        if not self._shared:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        for name in self._names(connection):
            if name in schema.metadata.tables or not self._shared:  # there others may have come since
                table = connection.dialect.identifier_preparer.quote(name)
                connection.execute(text(f"DROP TABLE {table}" + (" CASCADE" if self._shared else "")))
        schema.metadata.create_all(connection)
        said = {"version": str(schema.version()), "origin": self._origin, "first": self._first}
        about = {name: value for name, value in said.items() if value}
        connection.execute(insert(schema.about), [{"name": name, "value": value} for name, value in about.items()])

    def _names(self, connection: Connection) -> list[str]:
        return inspect(connection).get_table_names(schema=self._tables if self._shared else None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            hint = "delete it and run: genealog index rebuild"
            got: object = error.orig
            if self._shared:  # the text of PostgreSQL may quote a connection string, or a row
                hint = "check host, port, database, user and password (PGPASSWORD, .pgpass) and the server's log"
                from genealog.store.scale.postgres import class_of

                got = class_of(error.orig or error)
            raise StoreError(
                "index-unusable", f"the index {self.label} cannot be used", got=got, hint=hint
            ) from None  # fmt: skip


def open_index(store: Path, settings: config.Index, *, origin: str) -> Index:
    """Open the index of the store at `store` as `[index]` in `genealog.toml` says.

    Raises: StoreError `config-malformed`, and as `Index`.
    """
    if settings.database is None:
        return Index(store / "index.sqlite", origin=origin)
    return Index(config.database_url(settings.database, "index"), tables=settings.schema, origin=origin)


def _sqlite(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    """Who writes takes the lock at once, so that what it read first is true when it writes; who reads takes none."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event starts the transaction, not the driver
    cursor = connection.cursor()
    pragmas = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000", "secure_delete=ON")
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    for statement in _scratch("INTEGER"):
        cursor.execute(statement)
    cursor.close()


def _scratch(key: str, more: str = "") -> tuple[str, str]:
    """Return what makes `schema.reached` for a connection, once: making one in each answer would cost more."""
    return (
        f"CREATE TEMPORARY TABLE reached (node {key} PRIMARY KEY, steps BIGINT){more}",
        "CREATE INDEX reached_steps ON reached (steps) WHERE steps IS NOT NULL",
    )


def _postgres(url: str, tables: str) -> Engine:
    try:
        import psycopg
    except ImportError:
        raise not_installed("an index in PostgreSQL", "psycopg", "scale") from None

    def connect() -> Any:
        connection = psycopg.connect(url, connect_timeout=30, application_name="genealog", autocommit=True)
        connection.execute("SELECT set_config('search_path', %s, false)", (f'"{tables}"',))
        connection.execute("SET client_min_messages = warning")
        for statement in _scratch("BIGINT", " ON COMMIT DELETE ROWS"):
            connection.execute(statement)
        connection.autocommit = False
        return connection

    schema.for_postgresql()
    return create_engine("postgresql+psycopg://", creator=connect, pool_pre_ping=True, pool_size=2)
