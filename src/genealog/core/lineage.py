"""The closure of an artifact: everything that it came from, or everything that came of it.

Lineage lives only in events: an artifact that came out of an execution descends from what went into it. A closure is
never cut short: it says whether it is complete, and if not, where the gaps are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from genealog.core.records import Direction
from genealog.core.states import State

Way = Literal["up", "down"]
NEEDS_LINEAGE = ("model", "adapter", "checkpoint")  # data, code and environments may begin a chain


@dataclass(frozen=True, slots=True)
class Link:
    """One event: `artifact` went into or came out of `execution`."""

    execution: str
    artifact: str
    direction: Direction
    role: str
    state: State


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of an artifact: `kind` is None where no statement registers it."""

    id: str
    kind: str | None
    name: str | None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where lineage ends without saying why."""

    artifact: str
    code: Literal["unregistered", "no-lineage", "outside-origin"]


@dataclass(frozen=True, slots=True)
class Closure:
    """Every artifact and execution reached from `start`, which counts itself."""

    start: str
    way: Way
    artifacts: tuple[Node, ...]
    executions: tuple[str, ...]
    links: tuple[Link, ...]
    gaps: tuple[Gap, ...]

    @property
    def complete(self) -> bool:
        """No gap but origins that lie outside and are declared."""
        return all(gap.code == "outside-origin" for gap in self.gaps)


def closure(
    start: str,
    way: Way,
    links: Callable[[frozenset[str], Way], Iterable[Link]],
    nodes: Callable[[frozenset[str]], Iterable[Node]],
) -> Closure:
    """Follow events from `start` until nothing new appears; cycles end by themselves.

    `links(artifacts, way)` gives every event of the executions that made (`up`) or used (`down`) any of them;
    `nodes(artifacts)` gives what is known of each. Both are asked once for each layer, never once for each node.
    """
    found: dict[Link, None] = {}
    seen, layer = {start}, frozenset((start,))
    entering: Direction = "in" if way == "up" else "out"
    while layer:
        fresh = [link for link in links(layer, way) if link not in found]
        found.update(dict.fromkeys(fresh))
        layer = frozenset(link.artifact for link in fresh if link.direction == entering) - seen
        seen |= layer
    leaving = "out" if way == "up" else "in"
    kept = tuple(link for link in found if link.artifact in seen or link.direction == leaving)
    known = {node.id: node for node in nodes(frozenset(seen))}
    artifacts = tuple(known.get(item, Node(item, None, None)) for item in sorted(seen))
    made = {link.artifact for link in kept if link.direction == "out"}
    executions = tuple(dict.fromkeys(link.execution for link in kept))
    return Closure(start, way, artifacts, executions, kept, _gaps(artifacts, made) if way == "up" else ())


def _gaps(artifacts: Iterable[Node], made: set[str]) -> tuple[Gap, ...]:
    gaps = []
    for node in artifacts:
        if node.kind is None:
            gaps.append(Gap(node.id, "unregistered"))
        elif node.kind in NEEDS_LINEAGE and node.id not in made:
            gaps.append(Gap(node.id, "outside-origin" if node.source else "no-lineage"))
    return tuple(gaps)
