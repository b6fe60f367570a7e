"""A closure is whole, in SQLite and in PostgreSQL: what a walk over every event finds, at one state of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, select, text

from genealog.core.lineage import Way, edge_state
from genealog.core.states import State
from genealog.errors import UsageError
from genealog.store import lineage, listing, schema
from genealog.store.index import Index
from lineage_samples import Fact, artifact, chain, expected, put
from lineage_samples import event as row_of_event
from postgres import PostgresServer, postgres

__all__ = ["postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
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
        for table in (schema.finding, schema.event, schema.execution, schema.artifact, schema.progress, schema.entry):
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


def test_a_chain_of_two_thousand_steps_is_whole(index: Index) -> None:
    put(index, chain(2_000), {1: "dataset"})
    found = lineage.closure(index, artifact(2_001), "up")
    assert (len(found.artifacts), len(found.executions), len(found.links)) == (2_001, 2_000, 4_000)
    assert found.complete
    down = lineage.reach(index, artifact(1), "down")
    assert (down.artifacts, down.executions, down.events, down.nodes) == (2_001, 2_000, 4_000, 4_001)


def test_a_chain_of_a_hundred_thousand_steps_is_whole(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    put(index, chain(100_000))
    reach = lineage.reach(index, artifact(100_001), "up")
    assert (reach.artifacts, reach.executions, reach.events, reach.complete) == (100_001, 100_000, 200_000, True)
    with lineage.walk(index, artifact(100_001), "up") as found:
        assert sum(1 for _ in found.links()) == 200_000
    index.close()


def test_two_thousand_diamonds_cost_what_they_have_and_not_their_paths(index: Index) -> None:
    facts = []
    for step in range(1, 2_001):  # artifact n, two executions that use it, and artifact n + 1, which both give
        for run in (2 * step - 1, 2 * step):
            facts += [Fact(run, step, "in"), Fact(run, step + 1, "out")]
    put(index, facts)
    reach = lineage.reach(index, artifact(2_001), "up")  # 2^2000 ways
    assert (reach.artifacts, reach.executions, reach.events) == (2_001, 4_000, 8_000)


def test_a_circle_ends(index: Index) -> None:
    put(index, [Fact(1, 1, "in"), Fact(1, 2, "out"), Fact(2, 2, "in"), Fact(2, 1, "out")])
    for way in ("up", "down"):
        reach = lineage.reach(index, artifact(1), way)
        assert (reach.artifacts, reach.executions, reach.events, reach.complete) == (2, 2, 4, True)


def test_what_is_cut_off_at_a_depth_is_said(index: Index) -> None:
    put(index, chain(10))
    for depth in (1, 3, 9):
        found = lineage.closure(index, artifact(1), "down", depth=depth)
        assert (len(found.artifacts), len(found.executions), len(found.links)) == (depth + 1, depth, 2 * depth)
        assert (found.reach.cut, found.complete) == (True, False)
    for depth in (10, 11):
        found = lineage.closure(index, artifact(1), "down", depth=depth)
        assert (len(found.artifacts), found.reach.cut, found.complete) == (11, False, True)
    with pytest.raises(UsageError, match="bad-depth"):
        lineage.reach(index, artifact(1), "down", depth=0)


def test_an_artifact_that_no_entry_names_is_a_gap(index: Index) -> None:
    found = lineage.closure(index, artifact(99), "up")
    assert [(gap.artifact, gap.code) for gap in found.gaps] == [(artifact(99), "unregistered")]
    assert (found.complete, found.reach.nodes, [node.id for node in found.artifacts]) == (False, 1, [artifact(99)])


def test_a_declared_origin_outside_is_no_gap_that_leaves_it_incomplete(index: Index) -> None:
    put(index, [Fact(1, 1, "in"), Fact(1, 2, "out")], {1: "model", 2: "model"})
    assert not lineage.reach(index, artifact(2), "up").complete
    with index._writing() as connection:
        connection.execute(schema.artifact.update().where(schema.artifact.c.id == 1).values(source="https://x.example"))
    found = lineage.closure(index, artifact(2), "up")
    assert (found.complete, found.reach.origins, [gap.code for gap in found.gaps]) == (True, 1, ["outside-origin"])


def finding(index: Index, number: int, state: str, **more: object) -> None:
    row = {
        "id": number, "execution": 1, "artifact": 1, "direction": "in", "role": "x", "state": state,
        "method": "equal-bytes", "at": "2026-01-01T00:00:00.000Z", **more,
    }  # fmt: skip
    with index._writing() as connection:
        connection.execute(insert(schema.finding).values(row))


def test_a_finding_that_contradicts_is_never_outvoted(index: Index) -> None:
    put(index, [Fact(1, 1, "in", state="claimed"), Fact(1, 2, "out")], size=4)
    states = []
    for number, state, code in ((1, "proven", None), (2, "contradicted", "bytes-differ"), (3, "proven", None)):
        finding(index, number, state, code=code)
        link = lineage.closure(index, artifact(2), "up").links[0]
        states.append((link.state, link.code, link.method))
    assert states[0] == (State.STATED, None, "equal-bytes")
    assert states[1] == states[2] == (State.CONTRADICTED, "bytes-differ", "equal-bytes")
    assert lineage.reach(index, artifact(2), "up").contradicted == 1
    before = lineage.closure(index, artifact(2), "up", at=0)
    assert (before.links[0].state, before.reach.contradicted) == (State.CLAIMED, 0)


@pytest.mark.parametrize(
    ("said", "found", "shown"),
    [
        ("proven", None, "stated"),
        ("inferred", None, "inferred"),
        ("contradicted", "proven", "contradicted"),
        ("claimed", "proven", "stated"),
        ("claimed", "unchecked", "claimed"),
        ("proven", "missing", "stated"),
    ],
)
def test_what_is_written_is_never_better_than_stated(said: str, found: str | None, shown: str) -> None:
    assert edge_state(State(said), found and State(found)) == shown


def test_an_answer_belongs_to_one_state_of_the_log(index: Index) -> None:
    put(index, chain(3))
    with lineage.walk(index, artifact(1), "down") as found:
        with index._writing() as connection:
            row = {"id": 9, "digest": artifact(9), "entry": 0, "kind": "dataset"}
            connection.execute(insert(schema.artifact).values(row))
            connection.execute(insert(schema.event).values(row_of_event(Fact(3, 9, "out"), 99)))
        assert len(list(found.links())) == found.reach.events == 6
        assert len(list(found.nodes())) == found.reach.artifacts == 4
    assert lineage.reach(index, artifact(1), "down").artifacts == 5


def test_answers_leave_nothing_behind(index: Index) -> None:
    put(index, chain(3))
    for _ in range(3):
        with lineage.walk(index, artifact(1), "down") as found:
            assert [node.name for node in found.nodes(limit=2)] == ["a1", "a2"]
            rows = found.rows(select(schema.artifact.c.name).where(schema.artifact.c.id.in_(found.artifacts)))
            assert {row["name"] for row in rows} == {"a1", "a2", "a3", "a4"}
    with index.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM reached")) == 0


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("depth", [None, 3])
def test_no_step_of_a_walk_reads_a_whole_table(tmp_path: Path, way: Way, depth: int | None) -> None:
    """What SQLite does: each step looks edges up in an index that holds all it needs."""
    index = Index(tmp_path / "index.sqlite")
    put(index, chain(50))
    finding(index, 0, "proven")
    asked: list[tuple[str, object]] = []
    event.listen(
        index._engine, "before_cursor_execute", lambda _c, _k, query, values, *_: asked.append((query, values))
    )
    with lineage.walk(index, artifact(25), way, depth=depth) as found:
        for part in (found.nodes, found.acts, found.links, found.gaps):
            list(part())
        queries = [(query, values) for query, values in asked if query.startswith(("SELECT", "INSERT", "WITH"))]
        assert len(queries) >= 8
        plans = [
            (query, [row[3] for row in found.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)])
            for query, values in queries
        ]
    for query, plan in plans:
        for step in plan:
            assert re.match(r"SCAN (?!walked|reached|anon_1|CONSTANT)", step) is None, (query, plan)
    assert any(f"COVERING INDEX event_{way} " in step for _, plan in plans for step in plan), plans
    index.close()


def test_a_list_of_the_newest_reads_no_whole_table(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    put(index, chain(50))
    with index.reading() as connection:
        query = str(listing.versions(limit=5).compile(connection, compile_kwargs={"literal_binds": True}))
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
        assert connection.execute(listing.versions(limit=5)).mappings().all()[0]["name"] == "a51"
    assert [step for step in plan if re.match(r"SCAN (?!anon_1)", step)] == []
    index.close()


def test_a_run_that_was_not_seen_whole_leaves_the_answer_incomplete(index: Index) -> None:
    put(index, chain(4))
    whole = lineage.closure(index, artifact(4), "up")
    run = next(act.id for act in whole.executions)
    with index._writing() as connection:
        connection.execute(
            schema.execution.update().where(schema.execution.c.digest == run).values(unseen="read-outside", end=0)
        )
    found = lineage.closure(index, artifact(4), "up")
    assert found.reach.gaps == whole.reach.gaps + 1
    assert not found.complete
    assert [gap.code for gap in found.gaps if gap.artifact == run] == ["read-outside"]
    assert not any(gap.artifact == run for gap in lineage.closure(index, artifact(4), "down").gaps)
