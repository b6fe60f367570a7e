"""The closure of an artifact: everything that it came from, or everything that came of it.

Lineage lives only in events: an artifact that came out of an execution descends from what went into it. A closure is
never cut short silently: it says whether it is complete, and if not, where the gaps are. These are the words of an
answer; `store.lineage` finds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from genealog.core.records import Direction
from genealog.core.states import State, weakest

Way = Literal["up", "down"]
NEEDS_LINEAGE = ("model", "adapter", "checkpoint")  # data, code and environments may begin a chain
UNSEEN = ("read-outside", "capture-incomplete")  # warnings of a run that may have had more inputs than it names


def unseen(warnings: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of `warnings` (lines `code: what`) by which a run may have read what is not on record."""
    codes = dict.fromkeys(line.partition(":")[0] for line in warnings)
    return tuple(code for code in codes if code in UNSEEN)


@dataclass(frozen=True, slots=True)
class Link:
    """One event: `artifact` went into or came out of `execution`. `state` is a reader's, as `edge_state` gives it."""

    execution: str
    artifact: str
    direction: Direction
    role: str
    state: State
    code: str | None = None  # why the state is not better: of the event, or of a finding that contradicts it
    method: str | None = None  # how somebody checked it against bytes, where a finding says so


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of an artifact: `kind` is None where no statement registers it."""

    id: str
    kind: str | None
    name: str | None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """What is known of an execution: `kind` is None where no statement started it, `exit` while it has not ended."""

    id: str
    kind: str | None
    name: str | None
    exit: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where lineage ends without saying why; of a run that was not seen whole, `artifact` is the run's ID."""

    artifact: str
    code: Literal["unregistered", "no-lineage", "outside-origin", "read-outside", "capture-incomplete"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How much was reached from `start`, which counts itself, at a registry log of `size` entries.

    `gaps` are those that leave the answer incomplete; declared origins outside are `origins`. `cut` says that `depth`
    executions were the most that was asked for, and there are more.
    """

    start: str
    way: Way
    artifacts: int
    executions: int
    events: int
    gaps: int
    origins: int
    contradicted: int
    cut: bool
    size: int

    @property
    def nodes(self) -> int:
        """Artifacts and executions."""
        return self.artifacts + self.executions

    @property
    def complete(self) -> bool:
        """No gap but origins that lie outside and are declared, and nothing cut off."""
        return not self.gaps and not self.cut


@dataclass(frozen=True, slots=True)
class Closure:
    """Every artifact and execution reached from `reach.start`, and every event between them."""

    reach: Reach
    artifacts: tuple[Node, ...]
    executions: tuple[Act, ...]
    links: tuple[Link, ...]
    gaps: tuple[Gap, ...]

    @property
    def complete(self) -> bool:
        """As `Reach.complete`."""
        return self.reach.complete


def edge_state(said: State, finding: State | None) -> State:
    """Return what an edge is to a reader: never better than stated, `contradicted` once any finding says so.

    `said` is the event's own state; `finding` the weakest of those beside it. Whoever checked an edge that was only
    claimed signed what came of it: then it is stated.
    """
    if finding is State.CONTRADICTED:
        return finding
    if finding in (State.PROVEN, State.STATED) and said is not State.CONTRADICTED:
        return State.STATED
    return weakest((said, State.STATED))
