"""Calls for a vault, and places to keep one: a file, or a schema in a real PostgreSQL."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from genealog.core.call import GROUPS
from genealog.store.vault import Vault, VaultCall
from postgres import postgres

__all__ = ["place", "postgres", "vault"]

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))


def call(number: int = 1, **changes: Any) -> VaultCall:
    """Return a call whose every value can be told from those of another."""
    fields: dict[str, Any] = {
        "call": f"01JGM3Z8ZZ{number:016d}",
        "source": f"gateway-0/00000001-00000000/{number}",
        "tenant": "acme",
        "groups": {name: (bytes([at + 65]) * 32, b'{"in":"%s"}' % name.encode()) for at, name in enumerate(GROUPS)},
        "bodies": {"request": b"the request", "response": b"the response", "report": b"{}"},
        "texts": (("response", b"Hello,  world\n"), ("request", b"Say hello")),
        "ended_at": f"2026-01-{number % 28 + 1:02d}T00:00:00.000Z",
    }
    return VaultCall(**(fields | changes))


@dataclass
class Place:
    """Where a vault is: opened as often as one likes, and looked into past the vault."""

    where: Path | str
    schema: str = ""
    opened: list[Vault] = field(default_factory=list)

    def open(self, key: bytes | Callable[[], tuple[bytes, ...]] = KEY, **options: Any) -> Vault:
        if self.schema:
            options["schema"] = self.schema
        self.opened.append(Vault(self.where, key, **options))
        return self.opened[-1]

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run a statement in the vault's database."""
        if isinstance(self.where, Path):
            database = sqlite3.connect(self.where)
            try:
                rows = database.execute(statement, values).fetchall()
                database.commit()
            finally:
                database.close()
            return rows
        with psycopg.connect(self.where, autocommit=True) as connection:
            connection.execute(f'SET search_path = "{self.schema}"')
            cursor = connection.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    def everything(self) -> bytes:
        """Return every byte that the database shows: of a file, all of its files; of a server, every row."""
        if isinstance(self.where, Path):
            return b"".join(file.read_bytes() for file in sorted(self.where.parent.rglob("*")) if file.is_file())
        found = b""
        for table in ("meta", "tenant", "subject", "call", "text", "erasure", "erased"):
            for row in self.sql(f"SELECT * FROM {table}"):
                found += b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place of either kind."""
    if request.param == "sqlite":
        found = Place(tmp_path / "vault" / "vault.sqlite")
    else:
        found = Place(request.getfixturevalue("postgres").url, f"v_{secrets.token_hex(6)}")
    yield found
    for vault in found.opened:
        vault.close()


@pytest.fixture
def vault(place: Place) -> Vault:
    """An empty vault in `place`."""
    return place.open()
