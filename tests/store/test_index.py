"""The index is made again when other code made it, and the logs give the same rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, select

from call_node import Writer
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import Home
from genealog.store.index import Index


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Registry.init(tmp_path / "store").home
    writer = Writer(home.spool_dir)
    for _ in range(3):
        writer.call()
    writer.close()
    Ledger(home).drain()
    yield home
    home.close()


OLD = """
DROP TABLE call;
CREATE TABLE call (id INTEGER NOT NULL PRIMARY KEY, call TEXT NOT NULL, leaf TEXT NOT NULL);
CREATE TABLE gone (id INTEGER PRIMARY KEY, other INTEGER REFERENCES call (id));
INSERT INTO call VALUES (0, 'x', 'y');
INSERT INTO gone VALUES (0, 0);
UPDATE about SET value = '0' WHERE name = 'version';
"""


def test_an_index_of_other_code_is_made_again(home: Home) -> None:
    rows = Ledger(home).index().dump()
    home.close()
    database = sqlite3.connect(home.path / "index.sqlite")
    database.executescript(OLD)
    database.close()
    again = Home.open(home.path)
    assert Ledger(again).index().dump() == rows
    assert len(rows["call"]) == 3
    again.close()
    database = sqlite3.connect(home.path / "index.sqlite")
    assert database.execute("SELECT name FROM sqlite_master WHERE name = 'gone'").fetchall() == []
    database.close()


def test_an_index_of_this_code_is_kept(home: Home) -> None:
    Ledger(home).index()
    home.close()
    index = Index(home.path / "index.sqlite")
    assert (index.size("calls"), index.size("registry"), index.size("calls-a")) == (3, 2, 0)
    index.close()


def test_its_version_changes_with_a_table_and_with_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    version = schema.version()
    assert 0 < version < 2**31
    monkeypatch.setattr(schema, "PROJECTION", schema.PROJECTION + 1)
    assert schema.version() != version
    monkeypatch.undo()
    assert schema.version() == version
    schema.call.append_column(Column("other", Integer))
    try:
        assert schema.version() != version
    finally:
        schema.call._columns.remove(schema.call.c.other)  # type: ignore[attr-defined]
    assert schema.version() == version


def test_calls_of_two_logs_may_have_one_index(home: Home) -> None:
    path = home.path / "genealog.toml"
    path.write_text(path.read_text() + '\n[calls]\nsplit = "month"\n')
    home.reload()
    writer = Writer(home.spool_dir)
    call = writer.call()
    writer.close()
    ledger = Ledger(home)
    position = ledger.call(call.id)
    assert (str(position), ledger.entry(position)) == (f"{position.log}:0", home.log(position.log).entry(0))
    assert position.log != "calls"
    assert ledger.index().rows(select(schema.call.c.log).where(schema.call.c.id == 0).order_by(schema.call.c.log)) == [
        {"log": "calls"},
        {"log": position.log},
    ]


def test_an_index_that_is_no_database_says_what_to_do(home: Home) -> None:
    home.close()
    (home.path / "index.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(StoreError) as caught:
        Ledger(Home.open(home.path)).index()
    assert caught.value.code == "index-unusable"
