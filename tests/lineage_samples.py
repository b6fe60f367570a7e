"""Lineage put straight into the tables of an index, and what a closure is, spelled out in Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import insert

from genealog.core.lineage import NEEDS_LINEAGE, Way
from genealog.store import schema
from genealog.store.index import Index


@dataclass(frozen=True)
class Fact:
    """One event, as entry `entry` states it."""

    execution: int
    artifact: int
    direction: str
    role: str = "x"
    entry: int = 0
    state: str = "stated"


def artifact(number: int) -> str:
    return "glf1:" + sha256(b"artifact %d" % number).hexdigest()


def execution(number: int) -> str:
    return "glr1:" + sha256(b"execution %d" % number).hexdigest()


def put(index: Index, facts: Sequence[Fact], kinds: dict[int, str | None] | None = None, size: int = 1) -> None:
    """Write events and the artifacts and executions that they are between. A kind of None: nobody registered it.

    Entry `size - 1` is the last; artifacts and executions are stated in entry 0.
    """
    kinds = dict.fromkeys(sorted({fact.artifact for fact in facts}), "dataset") | (kinds or {})
    runs = sorted({fact.execution for fact in facts})
    with index._writing() as connection:
        rows = [{"id": number, "leaf": f"{number:064x}"} for number in range(size)]
        connection.execute(insert(schema.entry), rows)
        connection.execute(insert(schema.progress), [{"log": "registry", "size": size}])
        if kinds:
            connection.execute(insert(schema.artifact), [
                {"id": n, "digest": artifact(n), "entry": None if kind is None else 0, "kind": kind, "name": f"a{n}"}
                for n, kind in kinds.items()
            ])  # fmt: skip
        if runs:
            connection.execute(insert(schema.execution), [
                {"id": n, "digest": execution(n), "start": 0, "kind": "train", "name": f"e{n}"} for n in runs
            ])  # fmt: skip
        for start in range(0, len(facts), 50_000):
            connection.execute(insert(schema.event), [
                event(fact, place) for place, fact in enumerate(facts[start : start + 50_000], start)
            ])  # fmt: skip


def event(fact: Fact, place: int) -> dict[str, object]:
    """The row of an event."""
    src, dst = schema.ends(fact.execution, fact.artifact, fact.direction)
    return {
        "id": fact.entry << schema.EVENT_BITS | place, "execution": fact.execution, "artifact": fact.artifact,
        "direction": fact.direction, "role": fact.role, "state": fact.state, "src": src, "dst": dst,
    }  # fmt: skip


def chain(length: int) -> list[Fact]:
    """Model 1 updated `length` times: execution n makes model n + 1 of model n."""
    return [
        fact
        for step in range(1, length + 1)
        for fact in (Fact(step, step, "in", "previous"), Fact(step, step + 1, "out", "model"))
    ]


def expected(
    facts: Iterable[Fact], kinds: dict[int, str | None], start: int, way: Way, at: int | None = None
) -> tuple[set[str], set[str], set[tuple[str, str, str, str]], set[tuple[str, str]]]:
    """Return artifacts, executions, events and gaps by looking at every event again and again."""
    facts = [fact for fact in facts if at is None or fact.entry <= at]
    leaving, entering = ("out", "in") if way == "up" else ("in", "out")
    artifacts, runs = {start}, set[int]()
    while True:
        before = len(artifacts), len(runs)
        runs |= {fact.execution for fact in facts if fact.direction == leaving and fact.artifact in artifacts}
        artifacts |= {fact.artifact for fact in facts if fact.direction == entering and fact.execution in runs}
        if before == (len(artifacts), len(runs)):
            break
    events = {
        (execution(fact.execution), artifact(fact.artifact), fact.direction, fact.role)
        for fact in facts
        if fact.execution in runs and fact.artifact in artifacts
    }
    made = {fact.artifact for fact in facts if fact.direction == "out"}
    gaps = set()
    for number in artifacts if way == "up" else ():
        if kinds[number] is None:
            gaps.add((artifact(number), "unregistered"))
        elif kinds[number] in NEEDS_LINEAGE and number not in made:
            gaps.add((artifact(number), "no-lineage"))
    return {artifact(n) for n in artifacts}, {execution(n) for n in runs}, events, gaps
