"""The closure of an artifact in SQL: one recursive query over `event.src` → `event.dst`, in either direction.

`UNION` keeps every node once, so that what a walk costs grows with the answer: no paths, no depth that the database
would stop at, no Python recursion. What was reached lies in a temporary table while an answer is read from it, all in
one read transaction: an answer belongs to one state of the log, whoever writes meanwhile.

`reach` counts; `closure` returns everything; `walk` is for what is too big to hold, and for questions beside lineage
that join their own tables to what was reached (`Walk.artifacts`, `Walk.executions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    true,
)

from genealog.core.lineage import NEEDS_LINEAGE, Act, Closure, Gap, Link, Node, Reach, Way, edge_state
from genealog.core.states import State
from genealog.errors import UsageError
from genealog.store import schema
from genealog.store.index import Index

_MANY = 500  # bound values in one query
# PostgreSQL knows nothing of a table that was filled this moment: it would read all events, and compile to do it fast.
_PLANS = "SELECT " + ", ".join(
    f"set_config('{name}', 'off', true)" for name in ("enable_hashjoin", "enable_mergejoin", "jit")
)
_PAGE = 2_000  # rows in memory at once while an answer streams
_reached = schema.reached


def reach(index: Index, start: str, way: Way, *, depth: int | None = None, at: int | None = None) -> Reach:
    """Count what was reached from the artifact `start`, which counts itself.

    `depth` is the number of executions to go through at most, None for all. `at` asks as of registry entry `at`: what
    was stated later does not count. Raises: UsageError `bad-depth`; StoreError as the index.
    """
    with walk(index, start, way, depth=depth, at=at) as found:
        return found.reach


def closure(index: Index, start: str, way: Way, *, depth: int | None = None, at: int | None = None) -> Closure:
    """Return everything that was reached, events as `Walk.links` orders them. Arguments and errors as `reach`."""
    with walk(index, start, way, depth=depth, at=at) as found:
        return Closure(
            found.reach, tuple(found.nodes()), tuple(found.acts()), tuple(found.links()), tuple(found.gaps())
        )


@contextmanager
def walk(index: Index, start: str, way: Way, *, depth: int | None = None, at: int | None = None) -> Iterator[Walk]:
    """Reach everything, and give what reads it piece by piece while the context lasts. As `reach`."""
    if depth is not None and depth < 1:
        raise UsageError("bad-depth", "a walk goes through one execution at least", got=depth, expected="≥ 1")
    with index.reading() as connection:
        yield Walk(connection, start, way, depth, at)


class Walk:
    """What was reached, in one read transaction."""

    def __init__(self, connection: Connection, start: str, way: Way, depth: int | None, at: int | None) -> None:
        self.connection = connection
        self._start, self._way, self._depth, self._at = start, way, depth, at
        if connection.dialect.name == "postgresql":
            connection.execute(text(_PLANS))
        self.root: int | None = connection.scalar(select(schema.artifact.c.id).where(schema.artifact.c.digest == start))
        cut = False
        if self.root is not None:
            if depth is None:
                walked = recursion(self.root, way, at)
                connection.execute(insert(_reached).from_select(["node"], select(walked.c.node)))
            else:
                cut = self._in_steps(self.root, depth)
        self.reach = self._count(cut)

    @property
    def artifacts(self) -> Select[tuple[int]]:
        """Select the keys (`artifact.id`) of every artifact that was reached, for `in_` or as a subquery."""
        return select(_reached.c.node.label("id")).where(_reached.c.node > 0)

    @property
    def executions(self) -> Select[tuple[int]]:
        """Select the keys (`execution.id`) of every execution that was reached."""
        return select((-_reached.c.node).label("id")).where(_reached.c.node < 0)

    def event_entries(self) -> Select[tuple[int]]:
        """Select the registry entry (`entry.id`) of each event of an execution that was reached.

        Of all its events, also those that lead elsewhere: each statement of an execution names the one before.
        """
        entry = schema.event.c.id // (1 << schema.EVENT_BITS)
        return select(entry).where(schema.event.c.execution.in_(self.executions), _as_of(self._at))

    def rows(self, query: Select[Any]) -> Iterator[dict[str, Any]]:
        """Run a select on the same state of the log; rows come as dicts, a page at a time."""
        names = [column.name for column in query.selected_columns]
        for row in self._stream(query):
            yield dict(zip(names, row, strict=True))

    def nodes(self, *, limit: int | None = None, kind: str | None = None) -> Iterator[Node]:
        """Yield every artifact (of a kind), as it was first named in the log; the start may be unknown there."""
        if self.root is None:
            yield Node(self._start, None, None)
            return
        table = schema.artifact
        query = select(table.c.digest, table.c.entry, table.c.kind, table.c.name, table.c.source)
        query = query.where(table.c.id.in_(self.artifacts), _of_kind(kind)).order_by(table.c.id).limit(limit)
        for digest, entry, what, name, source in self._stream(query):
            yield Node(digest, what, name, source) if self._said(entry) else Node(digest, None, None)

    def nodes_of(self, digests: Sequence[str]) -> Iterator[Node]:
        """Yield what is known of some of the artifacts: as many as a screen holds."""
        table = schema.artifact
        query = select(table.c.digest, table.c.entry, table.c.kind, table.c.name, table.c.source)
        known = set()
        for start in range(0, len(digests), _MANY):
            for digest, entry, what, name, source in self._stream(
                query.where(table.c.digest.in_(digests[start : start + _MANY]))
            ):
                known.add(digest)
                yield Node(digest, what, name, source) if self._said(entry) else Node(digest, None, None)
        yield from (Node(digest, None, None) for digest in dict.fromkeys(digests) if digest not in known)

    def acts(self, *, limit: int | None = None) -> Iterator[Act]:
        """Yield every execution, as it was first named in the log."""
        table = schema.execution
        query = select(table.c.digest, table.c.start, table.c.end, table.c.kind, table.c.name, table.c.exit)
        query = query.where(table.c.id.in_(self.executions)).order_by(table.c.id).limit(limit)
        for digest, start, end, kind, name, outcome in self._stream(query):
            ended = outcome if self._said(end) else None
            yield Act(digest, kind, name, ended) if self._said(start) else Act(digest, None, None, ended)

    def count(self, kind: str) -> tuple[int, int]:
        """Return how many artifacts of a kind were reached, and how many events name one."""
        table, between = schema.artifact, self._between()
        nodes = select(func.count()).select_from(table).where(table.c.id.in_(self.artifacts), _of_kind(kind))
        links = select(func.count()).select_from(schema.event.join(table)).where(between, _of_kind(kind))
        return self.connection.scalar(nodes) or 0, self.connection.scalar(links) or 0

    def links(self, *, limit: int | None = None, kind: str | None = None) -> Iterator[Link]:
        """Yield every event between what was reached: newest entries first on the way up, oldest on the way down.

        `kind` leaves those out that name an artifact of another kind.
        """
        event = schema.event
        entry = event.c.id // (1 << schema.EVENT_BITS)
        query = (
            select(
                event.c.id, schema.execution.c.digest, schema.artifact.c.digest, event.c.direction, event.c.role,
                event.c.state, event.c.code,
            )
            .join(schema.execution, schema.execution.c.id == event.c.execution)
            .join(schema.artifact, schema.artifact.c.id == event.c.artifact)
            .where(self._between(), _of_kind(kind))
            .order_by(entry.desc() if self._way == "up" else entry, event.c.id)
            .limit(limit)
        )  # fmt: skip
        alone = {state.value: edge_state(state, None) for state in State}
        for key, execution, artifact, direction, role, state, code in self._stream(query):
            beside = self._findings.get(key)
            if beside is None:
                yield Link(execution, artifact, direction, role, alone[state], code)
            else:
                worst, method, why = max(beside, key=lambda item: item[0].rank)
                yield Link(execution, artifact, direction, role, edge_state(State(state), worst), why or code, method)

    def gaps(self, *, limit: int | None = None) -> Iterator[Gap]:
        """Yield every place where lineage ends without saying why, declared origins outside too."""
        if self.root is None:
            yield Gap(self._start, "unregistered")
            return
        if self._way == "down":  # what came of it came of something
            return
        code = self._gap_code()
        query = (
            select(schema.artifact.c.digest, code.label("code"))
            .where(schema.artifact.c.id.in_(self.artifacts), code.is_not(None))
            .order_by(schema.artifact.c.id)
            .limit(limit)
        )
        shown = 0
        for digest, what in self._stream(query):
            shown += 1
            yield Gap(digest, what)
        left = None if limit is None else limit - shown
        if left != 0:
            for digest, what in self._stream(self._unseen().order_by(schema.execution.c.id).limit(left)):
                yield Gap(digest, what)

    def _unseen(self) -> Select[Any]:
        """Select the runs that were reached and, as their end says, not seen whole."""
        table = schema.execution
        query = select(table.c.digest, table.c.unseen).where(
            table.c.id.in_(self.executions), table.c.unseen.is_not(None)
        )
        return query if self._at is None else query.where(table.c.end <= self._at)

    def _stream(self, query: Select[Any]) -> Iterator[Any]:
        with self.connection.execution_options(yield_per=_PAGE).execute(query) as result:
            yield from result

    def _in_steps(self, root: int, depth: int) -> bool:
        """Reach `depth` executions far, one layer at a time, and say whether there is more behind."""
        self.connection.execute(insert(_reached).values(node=root, steps=0))
        here, there = _ends(self._way)
        for step in range(2 * depth + 1):
            further = (
                select(there)
                .distinct()
                .where(here.in_(select(_reached.c.node).where(_reached.c.steps == step)), _as_of(self._at))
                .where(there.not_in(select(_reached.c.node)))
            )
            if step == 2 * depth:
                return self.connection.execute(further.limit(1)).first() is not None
            layer = further.subquery()
            made = self.connection.execute(
                insert(_reached).from_select(["node", "steps"], select(layer.c[0], literal(step + 1)))
            )
            if not made.rowcount:
                break
        return False

    def _count(self, cut: bool) -> Reach:
        size = self.connection.scalar(select(schema.progress.c.size).where(schema.progress.c.log == "registry")) or 0
        size = size if self._at is None else min(size, self._at + 1)
        if self.root is None:
            return Reach(self._start, self._way, 1, 0, 0, 1, 0, 0, cut, size)
        artifacts, nodes = self.connection.execute(
            select(func.sum(case((_reached.c.node > 0, 1), else_=0)), func.count()).select_from(_reached)
        ).one()
        events = self.connection.scalar(select(func.count()).select_from(schema.event).where(self._between())) or 0
        contradicted = sum(
            any(state is State.CONTRADICTED for state, _, _ in beside) for beside in self._findings.values()
        )
        gaps = self._count_gaps() if self._way == "up" else {}
        origins = gaps.pop("outside-origin", 0)
        return Reach(
            self._start, self._way, int(artifacts), int(nodes - artifacts), int(events), sum(gaps.values()), origins,
            contradicted, cut, size,
        )  # fmt: skip

    def _count_gaps(self) -> dict[str, int]:
        code = self._gap_code()
        query = (
            select(code.label("code"), func.count().label("n"))
            .select_from(schema.artifact)
            .where(schema.artifact.c.id.in_(self.artifacts), code.is_not(None))
            .group_by(text("1"))
        )
        found = {row.code: int(row.n) for row in self.connection.execute(query)}
        runs = self._unseen().subquery()
        for what, count in self.connection.execute(select(runs.c.unseen, func.count()).group_by(runs.c.unseen)):
            found[what] = int(count)
        return found

    def _between(self) -> ColumnElement[bool]:
        """What is true of every event between two nodes that were reached."""
        here, there = _ends(self._way)
        nodes = select(_reached.c.node)
        # without a depth, what lies behind is reached too
        further = true() if self._depth is None else there.in_(nodes)
        return and_(here.in_(nodes), further, _as_of(self._at))

    @cached_property
    def _findings(self) -> dict[int, list[tuple[State, str, str | None]]]:
        """Return (state, method, code) of every finding beside an event that was reached, by the event's key."""
        finding, event = schema.finding, schema.event
        same = and_(*(finding.c[name] == event.c[name] for name in ("execution", "artifact", "direction", "role")))
        query = select(event.c.id, finding.c.state, finding.c.method, finding.c.code)
        query = query.join(event, same).order_by(finding.c.id)
        query = query.where(finding.c.execution.in_(self.executions), finding.c.artifact.in_(self.artifacts))
        if self._at is not None:
            query = query.where(finding.c.id <= self._at)
        found: dict[int, list[tuple[State, str, str | None]]] = {}
        for key, state, method, code in self.connection.execute(query):
            found.setdefault(key, []).append((State(state), method, code))
        return found

    def _said(self, entry: int | None) -> bool:
        """Whether an entry is there, and was at the time that is asked for."""
        return entry is not None and (self._at is None or entry <= self._at)

    def _gap_code(self) -> ColumnElement[str | None]:
        """What is wrong with an artifact that was reached on the way up, NULL where nothing is."""
        table, made = schema.artifact, schema.event.alias("made")
        unknown: ColumnElement[bool] = table.c.entry.is_(None)
        if self._at is not None:
            unknown = or_(unknown, table.c.entry > self._at)
        told = exists().where(made.c.dst == table.c.id, _as_of(self._at, made.c.id))
        return case(
            (unknown, "unregistered"),
            (or_(table.c.kind.not_in(NEEDS_LINEAGE), told), None),
            (table.c.source.is_not(None), "outside-origin"),
            else_="no-lineage",
        )


def recursion(root: int, way: Way, at: int | None = None) -> CTE:
    """Return the recursive query itself: the nodes reached from the artifact with the key `root`, that one too."""
    here, there = _ends(way)
    walked = select(literal(root, schema.Integer).label("node")).cte("walked", recursive=True)
    return walked.union(select(there).join(walked, here == walked.c.node).where(_as_of(at)))


def _ends(way: Way) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """Return the end of an event that a walk comes to, and the one that it goes on from."""
    event = schema.event
    return (event.c.dst, event.c.src) if way == "up" else (event.c.src, event.c.dst)


def _of_kind(kind: str | None) -> ColumnElement[bool]:
    return true() if kind is None else schema.artifact.c.kind == kind


def _as_of(at: int | None, key: ColumnElement[int] = schema.event.c.id) -> ColumnElement[bool]:
    return true() if at is None else key < (at + 1) << schema.EVENT_BITS
