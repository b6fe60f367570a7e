"""Blast radius: everything that one thing touched. What was made of it, what served that, when, and every call.

From an artifact down through lineage; from there to every serving spec that names what was reached, to the times in
which a deployment served one, and to the calls that say they were answered under it. An answer is complete, or it says
what is missing: calls or logs that are not here, runs without an end, models of which nobody knows where they came
from, statements that nobody vouches for.

A call names its spec in clear, its deployment under a seal. Where one deployment alone ever had a spec the spec tells;
else the vault is asked, call by call. Nothing here writes, but for calls that wait in the spools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Select, func, select

from genealog.completeness import find_holes
from genealog.core.call_groups import RequestGroup
from genealog.core.canonical import decode, parse_timestamp, timestamp
from genealog.core.lineage import NEEDS_LINEAGE, Node
from genealog.deploy import Deployments, Move
from genealog.deploy.moves import live_times
from genealog.errors import GenealogError, MissingError
from genealog.incidents import SKEW
from genealog.ledger import Ledger
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.index import Index
from genealog.store.lineage import walk

_MANY = 500  # values in one query
_PAGE = 2_000  # rows in memory at once
Kind = Literal["artifact", "spec", "key"]


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that keeps an answer from being complete. `count` says of how many, where they can be counted."""

    code: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Served:
    """One time in which a deployment served an affected spec, and the calls answered in it, by the gateways' clocks."""

    deployment: str
    spec: str
    begun: Move
    ended: Move | None
    calls: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One call that was answered by something affected. `deployment` is None where only the vault could tell."""

    call: str
    log: str
    index: int
    spec: str
    called_at: str
    finish: str
    deployment: str | None


@dataclass(frozen=True, slots=True)
class Radius:
    """The answer. `calls` were answered, `refused` only asked; by spec, `outside` fell in none of its times,
    `unattributed` may be any deployment's. `positions` say how much of each log was read.
    """

    kind: Kind
    id: str
    name: str
    artifacts: tuple[Node, ...]
    specs: tuple[str, ...]
    served: tuple[Served, ...]
    calls: int
    refused: int
    finishes: dict[str, int]
    outside: dict[str, int]
    unattributed: dict[str, int]
    lacks: tuple[Lack, ...]
    positions: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, as far as anything shows."""
        return not self.lacks


@dataclass(slots=True)
class _Found:
    """What an answer is made of while it is found."""

    artifacts: dict[str, Node] = field(default_factory=dict)
    lacks: list[Lack] = field(default_factory=list)
    specs: set[str] = field(default_factory=set)


class Blast:
    """Questions to one store. `clock` tells which heartbeats are late."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.ledger = Ledger(home)
        self.deployments = Deployments(home)
        self.clock = clock

    def of(self, ref: str, *, gaps: bool = True) -> Radius:
        """Return everything that `ref` touched: an artifact by name or ID, a serving spec or a key by its ID.

        Without `gaps` nobody looks for calls that are missing, which reads every call log whole; the answer then says
        so, and opens no sealed group. Raises: MissingError `unknown-ref`.
        """
        found = _Found()
        index, positions = self._indexed(found)
        kind, identifier, name, roots = self._roots(ref, index, found)
        self._reach(index, roots, found)
        self._doubts(index, found)
        self._specs(index, found)
        specs = tuple(sorted(found.specs))
        counts = self._counts(index, specs)
        times = [
            (deployment, begun, ended)
            for deployment, moves in self.deployments.all_moves().items()
            for begun, ended in live_times(moves, specs)
        ]
        served, outside, unattributed = self._attributed(index, counts, times, look=gaps, found=found)
        if gaps and (times or counts):
            self._holes(index, times, found)
        elif times or counts:
            found.lacks.append(Lack("gaps-unchecked", "nobody looked for calls that are missing: leave out --fast"))
        finishes = Counter[str]()
        for (_, finish), count in counts.items():
            finishes[finish] += count
        return Radius(
            kind, identifier, name, tuple(found.artifacts.values()), specs, served,
            sum(finishes.values()) - finishes["refused"], finishes["refused"], dict(sorted(finishes.items())), outside,
            unattributed, tuple(found.lacks), positions,
        )  # fmt: skip

    def calls(self, radius: Radius) -> Iterator[Hit]:
        """Yield every call that was answered under an affected spec, by log and index, a page at a time."""
        names: dict[str, set[str]] = {}
        for each in radius.served:
            names.setdefault(each.spec, set()).add(each.deployment)
        table = schema.call
        for batch in _batches(radius.specs):
            query = select(table).where(table.c.spec.in_(batch), table.c.finish != "refused")
            for row in _stream(self.home.index, query.order_by(table.c.log, table.c.id)):
                known = names.get(row["spec"], set())
                (only,) = known if len(known) == 1 else (None,)
                yield Hit(row["call"], row["log"], row["id"], row["spec"], row["called_at"], row["finish"], only)

    # What is asked first

    def _indexed(self, found: _Found) -> tuple[Index, dict[str, int]]:
        """Bring the index up to date with every log that can be read."""
        try:
            self.ledger.drain()
        except GenealogError as error:
            found.lacks.append(Lack("spools-not-read", f"calls may wait outside of the logs: {error.code}"))
        index = self.ledger.index(REGISTRY)
        positions = {REGISTRY: index.size(REGISTRY)}
        for name in self.home.calls.names():
            try:
                self.ledger.index(name)
            except GenealogError as error:
                found.lacks.append(Lack("log-not-read", f"the call log {name} cannot be read: {error.code}"))
            positions[name] = index.size(name)
        return index, positions

    def _roots(self, ref: str, index: Index, found: _Found) -> tuple[Kind, str, str, list[str]]:
        try:
            version = self.deployments.registry.resolve(ref)
        except MissingError:
            pass
        else:
            return "artifact", version.id, version.name, [version.id]
        try:
            spec = self.deployments.find_spec(ref)
        except GenealogError:
            pass
        else:
            found.specs.add(spec)
            return "spec", spec, spec, []
        keys = [key for key in self.deployments.registry.keys().values() if key.keyid.startswith(ref)]
        if len(ref) < 8 or len(keys) != 1:
            raise MissingError(
                "unknown-ref", "no artifact, serving spec or key is known by this", got=ref,
                expected="a name, or the start of an ID: 8 digits or more", hint="genealog ls, or genealog signer ls",
            )  # fmt: skip
        (key,) = keys
        entry, artifact, execution, event = schema.entry, schema.artifact, schema.execution, schema.event
        stated = select(artifact.c.digest).join(entry, entry.c.id == artifact.c.entry).where(entry.c.keyid == key.keyid)
        made = (
            select(artifact.c.digest)
            .join(event, event.c.artifact == artifact.c.id)
            .join(execution, execution.c.id == event.c.execution)
            .join(entry, entry.c.id == execution.c.end)
            .where(event.c.direction == "out", entry.c.keyid == key.keyid)
        )
        spec_of = schema.spec
        said = select(spec_of.c.digest).join(entry, entry.c.id == spec_of.c.id).where(entry.c.keyid == key.keyid)
        found.specs |= {row["digest"] for row in index.rows(said)}
        roots = dict.fromkeys(row["digest"] for query in (stated, made) for row in index.rows(query))
        return "key", key.keyid, key.identity, list(roots)

    def _reach(self, index: Index, roots: Sequence[str], found: _Found) -> None:
        """Go down from every root, and note which runs never said how they ended."""
        running: set[str] = set()
        for root in roots:
            if root in found.artifacts:
                continue  # reached from another, and so is all that came of it
            with walk(index, root, "down") as reached:
                found.artifacts.update((node.id, node) for node in reached.nodes())
                running.update(act.id for act in reached.acts() if act.exit is None)
        if running:
            what = "runs that used it have not said what came of them: they run, or they crashed"
            found.lacks.append(Lack("execution-open", what, len(running)))

    def _doubts(self, index: Index, found: _Found) -> None:
        """Note what the registry does not know well enough to exclude that it descends from here too."""
        entry, artifact, event = schema.entry, schema.artifact, schema.event
        doubtful = index.first(select(func.count().label("n")).where(entry.c.problem.is_not(None)))
        if doubtful and doubtful["n"]:
            what = "statements in the registry log are vouched for by nobody, and tell nothing here: genealog fsck"
            found.lacks.append(Lack("statements-unvouched", what, doubtful["n"]))
        if not found.artifacts:
            return
        made = select(event.c.artifact).where(event.c.direction == "out")
        query = select(artifact.c.digest).where(
            artifact.c.entry.is_not(None), artifact.c.kind.in_(NEEDS_LINEAGE), artifact.c.source.is_(None),
            artifact.c.id.not_in(made),
        )  # fmt: skip
        unknown = sum(row["digest"] not in found.artifacts for row in index.rows(query))
        if unknown:
            what = "registered models say neither which run made them nor where they are from: they may descend from it"
            found.lacks.append(Lack("lineage-unknown", what, unknown))

    def _specs(self, index: Index, found: _Found) -> None:
        """Find the specs that name something reached; those of calls, too, that no statement in the log tells of."""
        registered = {row["digest"] for row in index.rows(select(schema.spec.c.digest).distinct())}
        for spec in registered:
            body = self.deployments.spec(spec)
            if any(each in found.artifacts for each in (*body.models, body.tokenizer, body.template)):
                found.specs.add(spec)
        table = schema.call
        for spec in _distinct_specs(index):
            if spec in registered:
                continue
            rows = index.rows(select(table.c.models).where(table.c.spec == spec).distinct())
            if any(model in found.artifacts for row in rows for model in row["models"].split(",")):
                found.specs.add(spec)
            elif any(not row["models"] for row in rows):
                what = f"calls name the spec {spec}, which is not in the registry log, and no models"
                found.lacks.append(Lack("spec-unknown", what))

    # Calls

    def _counts(self, index: Index, specs: Sequence[str]) -> dict[tuple[str, str], int]:
        table, found = schema.call, dict[tuple[str, str], int]()
        for batch in _batches(specs):
            query = select(table.c.spec, table.c.finish, func.count().label("n")).where(table.c.spec.in_(batch))
            for row in index.rows(query.group_by(table.c.spec, table.c.finish)):
                found[row["spec"], row["finish"]] = row["n"]
        return found

    def _attributed(
        self, index: Index, counts: dict[tuple[str, str], int], times: Sequence[tuple[str, Move, Move | None]], *,
        look: bool, found: _Found,
    ) -> tuple[tuple[Served, ...], dict[str, int], dict[str, int]]:  # fmt: skip
        """Say which calls fell into which time of which deployment; every call is counted once."""
        answered = Counter[str]()
        for (spec, finish), count in counts.items():
            answered[spec] += count * (finish != "refused")
        tally: Counter[int] = Counter()
        outside: Counter[str] = Counter()
        unattributed: Counter[str] = Counter()
        for spec, count in answered.items():
            mine = [(number, *each) for number, each in enumerate(times) if each[1].spec == spec]
            names = {name for _, name, _, _ in mine}
            if len(names) <= 1:
                for number, _, begun, ended in mine:
                    tally[number] = self._between(index, spec, begun.at, ended.at if ended else None)
                left = count - sum(tally[number] for number, *_ in mine)
                if left > 0:
                    outside[spec] += left
                continue
            if not look:
                unattributed[spec] += count
                continue
            for called_at, deployment in self._opened(index, spec):
                if deployment is None:
                    unattributed[spec] += 1
                    continue
                fell = [
                    number
                    for number, name, begun, ended in mine
                    if name == deployment and begun.at <= called_at and (ended is None or called_at < ended.at)
                ]
                if fell:
                    tally[fell[0]] += 1
                else:
                    outside[spec] += 1
        if unattributed and look:
            what = "calls cannot be told apart by deployment: their contents are erased, or on another machine"
            found.lacks.append(Lack("deployment-sealed", what, sum(unattributed.values())))
        served = tuple(
            Served(name, begun.spec, begun, ended, tally[number]) for number, (name, begun, ended) in enumerate(times)
        )
        return served, dict(outside), dict(unattributed)

    def _between(self, index: Index, spec: str, begun: str, ended: str | None) -> int:
        table = schema.call
        query = select(func.count().label("n")).where(
            table.c.spec == spec, table.c.called_at >= begun, table.c.finish != "refused"
        )
        row = index.first(query if ended is None else query.where(table.c.called_at < ended))
        return int(row["n"]) if row else 0

    def _opened(self, index: Index, spec: str) -> Iterator[tuple[str, str | None]]:
        """Yield when each call of a spec was made, and its deployment, which the vault knows."""
        table = schema.call
        query = select(table.c.call, table.c.called_at).where(table.c.spec == spec, table.c.finish != "refused")
        for row in _stream(index, query):
            try:
                group = self.home.vault.get_groups(row["call"])["request"][1]
                yield row["called_at"], decode(group, RequestGroup).deployment
            except (GenealogError, KeyError):
                yield row["called_at"], None

    def _holes(self, index: Index, times: Sequence[tuple[str, Move, Move | None]], found: _Found) -> None:
        """Note what is missing in the call logs while something affected was served."""
        now = self.clock()
        ends = [ended.at if ended is not None else timestamp(now) for _, _, ended in times]
        since = _shifted(min((begun.at for _, begun, _ in times), default=None), -1)
        until = _shifted(max(ends, default=None), 1)
        try:
            missing = find_holes(self.home, index, now=now, since=since, until=until)
        except GenealogError as error:
            what = f"nobody could look for calls that are missing: {error.message} ({error.code})"
            found.lacks.append(Lack("gaps-unchecked", what))
            return
        for hole in missing.holes:
            count = hole.last - hole.first + 1 if hole.first is not None and hole.last is not None else 1
            what = f"{hole.emitter} {hole.boot}: {hole.message}" if hole.emitter else hole.message
            found.lacks.append(Lack("call-running" if hole.state == "open" else hole.kind, what, count))
        for boot in missing.boots:
            if boot.state == "elsewhere":
                what = f"{boot.line.emitter} writes on another machine: calls may wait there"
                found.lacks.append(Lack("emitter-elsewhere", what))


def _distinct_specs(index: Index) -> Iterator[str]:
    """Yield every spec that a call names, by hopping through the index: as many steps as specs, not as calls."""
    table, last = schema.call, ""
    while True:
        row = index.first(select(func.min(table.c.spec).label("spec")).where(table.c.spec > last))
        if row is None or row["spec"] is None:
            return
        last = row["spec"]
        yield last


def _shifted(at: str | None, sign: int) -> str | None:
    """Return a time earlier or later by as much as clocks may differ; None for one that nobody can read."""
    try:
        return None if at is None else timestamp(parse_timestamp(at) + sign * SKEW)
    except GenealogError:
        return None


def _stream(index: Index, query: Select[Any]) -> Iterator[dict[str, Any]]:
    with index.reading() as connection:
        for row in connection.execution_options(yield_per=_PAGE).execute(query).mappings():
            yield dict(row)


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    known = list(items)
    for start in range(0, len(known), _MANY):
        yield known[start : start + _MANY]
