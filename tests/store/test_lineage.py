"""A closure is whole, in SQLite and in PostgreSQL: what a walk over every event finds, at one state of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text
from sqlalchemy.dialects import sqlite

from genealog.core.lineage import Way, edge_state
from genealog.core.states import State
from genealog.errors import UsageError
from genealog.store import lineage, schema
from genealog.store.index import Index
from lineage_samples import Fact, artifact, chain, execution, expected, put
from postgres import PASSWORD, PostgresServer, postgres

__all__ = ["postgres"]


@pytest.fixture
def monkeypatch_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


@pytest.fixture(params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    if request.param == "sqlite":
        made = Index(tmp_path / "index.sqlite")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        made = Index(server.url, tables="lineage")
        empty(made)
    yield made
    made.close()


def empty(index: Index) -> None:
    with index._writing() as connection:
        for table in (schema.event, schema.execution, schema.artifact, schema.progress, schema.entry):
            connection.execute(table.delete())


KINDS = st.dictionaries(st.integers(1, 8), st.sampled_from([None, "dataset", "model"]))
FACTS = st.lists(
    st.builds(
        Fact, st.integers(1, 6), st.integers(1, 8), st.sampled_from(["in", "out"]), st.sampled_from(["a", "b"]),
        st.integers(0, 5),
    ),
    max_size=30, unique_by=lambda fact: (fact.execution, fact.artifact, fact.direction, fact.role),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(facts=FACTS, kinds=KINDS, way=st.sampled_from(["up", "down"]), at=st.none() | st.integers(0, 5))
def test_it_is_what_a_walk_over_every_event_finds(
    lineage_index: Index, facts: list[Fact], kinds: dict[int, str | None], way: Way, at: int | None
) -> None:
    empty(lineage_index)
    kinds = dict.fromkeys(range(1, 9), "dataset") | kinds
    put(lineage_index, facts, kinds, size=6)
    found = lineage.closure(lineage_index, artifact(1), way, at=at)
    artifacts, runs, events, gaps = expected(facts, kinds, 1, way, at)
    assert {node.id for node in found.artifacts} == artifacts
    assert {act.id for act in found.executions} == runs
    assert {(link.execution, link.artifact, link.direction, link.role) for link in found.links} == events
    assert {(gap.artifact, gap.code) for gap in found.gaps} == gaps
    reach = lineage.reach(lineage_index, artifact(1), way, at=at)
    assert found.reach == reach
    assert (reach.artifacts, reach.executions, reach.events) == (len(artifacts), len(runs), len(found.links))
    assert reach.size == (6 if at is None else at + 1)
    assert reach.complete is (not gaps)


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def lineage_index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    if request.param == "sqlite":
        made = Index(tmp_path_factory.mktemp("lineage") / "index.sqlite")
    else:
        made = Index(request.getfixturevalue("postgres").url, tables="lineage_random")
    yield made
    made.close()
