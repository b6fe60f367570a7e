"""The vault's database: SQLite in a file, or PostgreSQL, behind a few verbs.

Statements are written once, with `?` for values, in the SQL that both speak; `{blob}` and `{serial}` stand for what
they call differently. The drivers' own `executemany` serves the sequencer, because it is on the path of every call:
SQLAlchemy costs more there than the encryption (docs/adr/0015). One writer at a time in both, so that what a
transaction reads first is still true when it writes.

What a file forgets it must not keep: SQLite overwrites what is deleted and empties its write-ahead log on `scrub`.
PostgreSQL cannot promise as much, its own log and backups least; there the vault key is what makes erasing final.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from genealog.errors import StoreError

Row = tuple[Any, ...]


class Sql(Protocol):
    """One connection. Every method raises StoreError `vault-unusable`."""

    label: str
    words: dict[str, str]

    def run(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows."""

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement once for each row."""

    def transaction(self) -> Any:
        """Return a context in which everything happens or nothing, and nobody else writes."""

    def has(self, table: str) -> bool:
        """Say whether there is such a table."""

    def scrub(self) -> None:
        """Make what was deleted unreadable, as far as this database can. Raises: StoreError `vault-busy`."""

    def close(self) -> None:
        """Let go of the connection."""


class SqliteSql:
    """A file of mode 0600, made with its folder (0700) if need be."""

    def __init__(self, path: Path) -> None:
        self.label = path.name
        self.patience = 30.0  # seconds in which `scrub` waits for others
        self.words = {"blob": "BLOB", "serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "tail": " WITHOUT ROWID"}
        with self._errors():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                    self.connection.execute(f"PRAGMA {pragma}").fetchall()
            except BaseException:
                self.connection.close()
                raise

    def run(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows."""
        with self._errors():
            return self.connection.execute(statement, values).fetchall()

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement once for each row."""
        with self._errors():
            self.connection.executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock, and commit at the end; every other way out takes everything back."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with self._errors():
                self.connection.rollback()
            raise

    def has(self, table: str) -> bool:
        """Say whether there is such a table."""
        return bool(self.run("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))

    def scrub(self) -> None:
        """Copy the write-ahead log into the file, where deleted bytes are zeros by now, and cut it to nothing."""
        deadline = time.monotonic() + self.patience
        while self.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:  # a busy writer is gone in a moment, and comes again
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise StoreError(
                "vault-busy", "another process reads the vault, so the bytes that were deleted are still in its log",
                hint="run the command again when that process is done: it goes on where it was",
            )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError("vault-unusable", f"the vault {self.label} cannot be used", got=error) from None
        except OSError as error:
            raise StoreError("vault-unusable", f"the vault {self.label} cannot be used", got=error.strerror) from None


def open_sql(place: Path | str, schema: str) -> Sql:
    """Open the database at a path, or at a `postgresql://` URL with its tables in `schema`."""
    if isinstance(place, Path):
        return SqliteSql(place)
    from genealog.store.vault.postgres import PostgresSql

    return PostgresSql(place, schema)
