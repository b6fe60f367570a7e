"""A DAG straight into the tables of an index, past log and signatures: for measuring questions, not the way there.

Every row is as `store.projection` would write it, but for the entries: one stands for all, and times are left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks._dag import Dag, Event, digest
from genealog.store import schema
from genealog.store.index import Index

_BATCH = 100_000
_COLUMNS = {
    "artifact": ("id", "digest", "entry", "kind", "name", "source"),
    "execution": ("id", "digest", "start", "end", "kind", "name", "exit"),
    "event": ("id", "execution", "artifact", "direction", "role", "state", "src", "dst"),
}


class Loader:
    """Puts more and more of a DAG into one index."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.events = 0
        self._artifacts = self._executions = 0

    def sqlite(self, path: Path, upto: int) -> None:
        """Go on until there are `upto` events in the file, with all its indexes."""
        if not path.exists():
            Index(path).close()
        database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-600000"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        while self.events < upto:
            database.execute("BEGIN")
            for table, rows in self._batch(min(_BATCH, upto - self.events)):
                columns = _COLUMNS[table]
                names = ", ".join(f'"{name}"' for name in columns)
                marks = ", ".join("?" * len(columns))
                database.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', rows)
            database.execute("COMMIT")
        database.execute("INSERT OR IGNORE INTO entry (id, leaf) VALUES (0, '')")
        database.execute("INSERT OR REPLACE INTO progress (log, size) VALUES ('registry', 1)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        database.close()

    def postgresql(self, url: str, tables: str, upto: int) -> None:
        """Go on until there are `upto` events in the schema `tables`; then analyse, as catching up does."""
        import psycopg

        Index(url, tables=tables).close()
        with psycopg.connect(url, autocommit=True, options=f"-c search_path={tables}") as database:
            database.execute("INSERT INTO entry (id, leaf) VALUES (0, '') ON CONFLICT DO NOTHING")
            database.execute("INSERT INTO progress VALUES ('registry', 1) ON CONFLICT DO NOTHING")
            while self.events < upto:
                for table, rows in self._batch(min(_BATCH, upto - self.events)):
                    names = ", ".join(f'"{name}"' for name in _COLUMNS[table])
                    with database.cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy:
                        for row in rows:
                            copy.write_row(row)
            database.execute("ANALYZE")

    def _batch(self, count: int) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """Yield the rows of three tables, those that others refer to first; unique texts in order, which is quicker."""
        events: list[Event] = list(self.dag.take(count))
        artifacts = sorted(
            (digest("artifact", number), number) for number in range(self._artifacts + 1, len(self.dag.kinds) + 1)
        )
        executions = sorted(
            (digest("execution", number), number) for number in range(self._executions + 1, self.dag.executions + 1)
        )
        self._artifacts, self._executions = len(self.dag.kinds), self.dag.executions
        kinds = self.dag.kinds
        yield (
            "artifact",
            [
                (number, name, 0, kinds[number - 1], f"{kinds[number - 1]}-{number}", self._source(number))
                for name, number in artifacts
            ],
        )
        yield (
            "execution",
            [(number, name, 0, 0, "finetune", f"run-{number}", "succeeded") for name, number in executions],
        )
        yield (
            "event",
            [
                (number << schema.EVENT_BITS, *event, "stated", *schema.ends(*event[:3]))
                for number, event in enumerate(events, self.events)
            ],
        )
        self.events += len(events)

    def _source(self, artifact: int) -> str | None:
        """Foundation models come from outside, and say so: then their lineage may begin with them."""
        return "https://models.example" if artifact <= self.dag.foundations or artifact == self.dag.first else None


def size_mib(path: Path) -> float:
    """Return the size of an index file and what lies beside it."""
    return sum(file.stat().st_size for file in chain([path], path.parent.glob(path.name + "-*"))) / 2**20
