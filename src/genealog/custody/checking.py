"""Checks the edges of the executions that made an artifact against the bytes at hand.

    for each execution that the artifact came out of
        its events            held to its kind's rules and to what is registered        (core.custody)
        every file at hand    hashed again: is it what the event names?                 equal-bytes
        how it was made       by the kind's method, if everything that it takes is here  shapes, recomputed, re-run, …

The best that a training edge can be is `stated`: bytes do not tell on what they were trained. Only what is computed
again is proven, and only now. A file that is another one than the registered one contradicts the place where it lies,
not the lineage: it is shown, and no finding is recorded of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.custody import KINDS, MADE_OF, Fault, check_events
from genealog.core.dsse import Signer
from genealog.core.records import Event
from genealog.core.states import State, weakest
from genealog.custody import lora
from genealog.custody.held import Held, hold
from genealog.custody.merging import merge_of
from genealog.custody.outcome import Outcome, cannot_tell, few_names
from genealog.custody.rerun import converted
from genealog.custody.updates import updated
from genealog.errors import GenealogError, MissingError, VerificationError
from genealog.ledger import Position
from genealog.registry import Progress, Registry, Version
from genealog.store import schema
from genealog.store.home import REGISTRY

_OF_A_PLACE = frozenset({"bytes-differ", "bytes-not-at-hand"})  # says nothing about an edge


@dataclass(frozen=True, slots=True)
class Checked:
    """One edge: `artifact` (called `name`) went into or came out of `execution`, and how strongly that is known now.

    `execution_name` and `kind` are the execution's. An edge that is absent has no `artifact` of its own: it names what
    came out.
    """

    execution: str
    kind: str
    artifact: str
    direction: records.Direction
    role: str
    name: str
    state: State
    method: str
    code: str | None = None
    detail: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def worth_recording(self) -> bool:
        """Whether a finding of it says something about the edge: nothing was merely missing or lying elsewhere."""
        checked = self.method not in ("none", "equal-bytes") or self.state is State.CONTRADICTED
        return checked and self.code not in _OF_A_PLACE and self.state not in (State.UNCHECKED, State.MISSING)


@dataclass(frozen=True, slots=True)
class Made:
    """An execution as the index has it, with its events and what is registered under each of their artifacts."""

    id: str
    kind: str
    start: records.Execution | None
    events: tuple[Event, ...]
    versions: Mapping[str, Version]


def strength(edges: tuple[Checked, ...]) -> State:
    """Return the weakest state of all edges."""
    return weakest(edge.state for edge in edges)


class Checker:
    """Checks over one store. `at` says where files lie, by role, name or ID of what is registered."""

    def __init__(
        self, registry: Registry, *, at: Mapping[str, Path] | None = None, progress: Progress | None = None
    ) -> None:
        self.registry = registry
        self.progress = progress
        self._at = dict(at or {})
        self._held: dict[tuple[str, str], Held | GenealogError] = {}

    def check(self, ref: str, *, path: Path | None = None, role: str | None = None) -> tuple[Checked, ...]:
        """Check every edge of the executions that made `ref`, or only those in `role`. `path`: where `ref` lies.

        Raises: MissingError `unknown-artifact`, `no-lineage` (no execution on record made it).
        """
        version = self.registry.resolve(ref)
        if path is not None:
            self._at[version.id] = path
        made = self.made(version.id)
        if not made:
            raise MissingError(
                "no-lineage", f"no execution on record made {version.name}", got=version.id,
                hint="record it: genealog run -- COMMAND, or genealog.run() in your code",
            )  # fmt: skip
        edges = tuple(edge for execution in made for edge in self._execution(execution, version))
        return tuple(edge for edge in edges if role in (None, edge.role))

    def record(self, edges: tuple[Checked, ...], *, signer: Signer | None = None) -> tuple[Position, ...]:
        """Append a finding for each edge that was checked, in one batch. Raises: as `Registry.append_all`."""
        at = timestamp(datetime.now(UTC))
        bodies = [
            (
                records.Finding(
                    execution=e.execution, artifact=e.artifact, direction=e.direction, role=e.role, state=e.state,
                    method=e.method, at=at, code=e.code, detail=e.detail, tools=dict(e.tools),
                ),
                e.name, None,
            )
            for e in edges if e.worth_recording
        ]  # fmt: skip
        return self.registry.append_all(bodies, signer=signer or self.registry.signer()) if bodies else ()

    def made(self, artifact: str) -> list[Made]:
        """Return the executions that an artifact came out of, the earliest first."""
        index = self.registry.ledger.index(REGISTRY)
        event, execution, known = schema.event, schema.execution, schema.artifact
        makers = (
            select(event.c.execution)
            .join(known, known.c.id == event.c.artifact)
            .where(known.c.digest == artifact, event.c.direction == "out")
        )
        runs = index.rows(select(execution).where(execution.c.id.in_(makers)).order_by(execution.c.id))
        return [self._made(row) for row in runs]

    def _made(self, row: Mapping[str, Any]) -> Made:
        index = self.registry.ledger.index(REGISTRY)
        event, known = schema.event, schema.artifact
        columns = [event.c[name] for name in ("direction", "role", "state", "weights", "path", "facts", "code")]
        query = select(known.c.digest, known.c.entry, *columns).join(known, known.c.id == event.c.artifact)
        rows = index.rows(query.where(event.c.execution == row["id"]).order_by(event.c.id))
        events = tuple(
            Event(
                artifact=r["digest"], direction=r["direction"], role=r["role"], state=State(r["state"]),
                weights=r["weights"], path=r["path"], facts=json.loads(r["facts"]) if r["facts"] else {},
                code=r["code"],
            )
            for r in rows
        )  # fmt: skip
        start = None
        if row["start"] is not None:
            body = self.registry.statement(self.registry.leaf(row["start"])).body
            start = body if isinstance(body, records.Execution) else None
        versions = {r["digest"]: self.registry.resolve(r["digest"]) for r in rows if r["entry"] is not None}
        return Made(row["digest"], row["kind"] or "", start, events, versions)

    def _execution(self, made: Made, subject: Version) -> list[Checked]:
        registered = {name: version.weights for name, version in made.versions.items()}
        faults = check_events(made.kind, made.events, registered)
        by_event = {id(fault.event): fault for fault in faults if fault.event is not None}
        edges = [self._edge(made, event, by_event.get(id(event))) for event in made.events]
        adapter = subject.kind == "adapter"
        absent = [f for f in faults if f.event is None and f.code != "kind-unknown"]
        edges += [
            Checked(made.id, made.kind, subject.id, "in", f.role, "none", State.MISSING, "events", f.code, f.message)
            for f in absent
        ]
        outcome = self._making(made, subject, adapter=adapter)
        unknown = any(fault.code == "kind-unknown" for fault in faults)
        if unknown:
            outcome = Outcome(State.STATED, "none", "kind-unknown", "no rule is known for this kind of execution")
        return [self._with(edge, outcome, subject) for edge in edges]

    def _edge(self, made: Made, event: Event, fault: Fault | None) -> Checked:
        version = made.versions.get(event.artifact)
        name = version.name if version else "not registered"
        edge = Checked(
            made.id, made.kind, event.artifact, event.direction, event.role, name, event.state, "none", event.code
        )
        if fault is not None and fault.false:
            return replace(
                edge, state=State.CONTRADICTED, method="equal-weights", code=fault.code, detail=fault.message
            )
        if event.state is State.CONTRADICTED:
            return replace(edge, method="stated", detail="it was recorded as contradicted")
        if version is None:
            return replace(edge, state=State.MISSING, code="artifact-unregistered")
        if fault is not None:
            edge = replace(edge, code=fault.code, detail=fault.message)
        if version.kind == "trace" and self._kept(version):
            return replace(edge, method="equal-bytes")
        held = self._hold(event, version)
        if isinstance(held, Held):
            return replace(edge, method="equal-bytes")
        if isinstance(held, VerificationError):
            return replace(edge, state=State.CONTRADICTED, method="equal-bytes", code=held.code, detail=held.message)
        matters = event.direction == "out" or event.role in MADE_OF
        if not matters or not version.id.startswith("glf1:"):
            return edge  # who used which data, code or environment rests on whoever signed it, bytes or not
        return replace(edge, state=weakest((edge.state, State.UNCHECKED)), code=held.code, detail=held.message)

    def _kept(self, version: Version) -> bool:
        """Say whether the store itself keeps every file of a version; each is hashed as it is read."""
        try:
            for file in self.registry.manifest(version).files:
                self.registry.home.objects.get(file.sha256)
        except GenealogError:
            return False
        return True

    def _hold(self, event: Event, version: Version) -> Held | GenealogError:
        place = next((self._at[key] for key in (event.artifact, version.name, event.role) if key in self._at), None)
        if event.direction == "out" and event.role in self._at and event.artifact not in self._at:
            place = self._at.get(version.name)  # a role names what went in
        key = (version.id, str(place))
        if key not in self._held:
            try:
                self._held[key] = hold(self.registry, version, place, progress=self.progress)
            except GenealogError as error:
                self._held[key] = error
        return self._held[key]

    def _making(self, made: Made, subject: Version, *, adapter: bool) -> Outcome:
        """Check how the subject was made, if everything that it was made of is at hand."""
        rules = KINDS.get(made.kind)
        method = rules.method if rules else "roles"
        if method == "claims":
            said = next((e.facts.get("relation") for e in made.events if e.direction == "in"), None)
            method = {"quantized": "convert", "merge": "merge", "adapter": "shapes"}.get(said or "", "shapes")
        inputs, lacking = [], []
        for event in made.events:
            if event.direction == "in" and event.role in (*MADE_OF, "recipe"):
                version = made.versions.get(event.artifact)
                held = self._hold(event, version) if version else None
                if isinstance(held, Held):
                    inputs.append((event, held))
                else:
                    lacking.append(event.role)
        out_event = next(e for e in made.events if e.direction == "out" and e.artifact == subject.id)
        out = self._hold(out_event, subject)
        if method == "roles" or (not inputs and not lacking):
            return Outcome(State.STATED, "none")
        if lacking or not isinstance(out, Held):
            what = few_names(dict.fromkeys(lacking)) or "what came out"
            return cannot_tell("bytes-not-at-hand", f"how it was made needs the bytes of {what}")
        try:
            outcome = self._by(method, made, out, inputs, adapter=adapter)
        except GenealogError as error:
            if isinstance(error, VerificationError):
                return Outcome(State.CONTRADICTED, method, error.code, error.message + error.facts)
            return cannot_tell(error.code, error.message + error.facts)
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError) as error:
            # a recipe, a configuration or a parameter of somebody that is not what a tool writes
            return cannot_tell("not-computable", f"what it was made by makes no sense here: {type(error).__name__}")
        return self._pinned(made, outcome)

    def _by(
        self, method: str, made: Made, out: Held, inputs: list[tuple[Event, Held]], *, adapter: bool
    ) -> Outcome:  # fmt: skip
        first = inputs[0][1]
        if method == "merge":
            return merge_of(out, inputs, made.start)
        if method == "convert":
            return converted(first, out, made.start)
        if method == "update":
            return updated(out, first, next(e for e in made.events if e.artifact == out.version.id))
        if adapter:
            bases = [held for event, held in inputs if event.role == "base" and event.state is not State.CONTRADICTED]
            return (
                lora.fits(out, bases[0])
                if bases
                else cannot_tell("event-missing", "no base is recorded that could be it")
            )
        return _same_shapes(out, first)

    def _pinned(self, made: Made, outcome: Outcome) -> Outcome:
        """Take back a contradiction by a tool that is not, as far as is recorded, the tool of then."""
        if outcome.state is not State.CONTRADICTED or outcome.method != "re-run":
            return outcome
        recorded = self._recorded(made.start)
        other = [name for name, now in outcome.tools.items() if recorded.get(name) != now]
        if not other:
            return outcome
        said = ", ".join(f"{name} was {recorded.get(name, 'not recorded')}" for name in other)
        return replace(outcome, state=State.UNCHECKED, code="tool-differs", detail=f"{outcome.detail}; {said}")

    def _recorded(self, start: records.Execution | None) -> dict[str, str]:
        """Return the versions that the environment of an execution had, by distribution."""
        try:
            version = self.registry.resolve(start.environment) if start and start.environment else None
            body = self.registry.statement(version.statement).body if version else None
            if not isinstance(body, records.Artifact) or body.body is None:
                return {}
            lock = self.registry.home.objects.get(body.body["distributions"]["sha256"]).decode()
        except (GenealogError, KeyError, TypeError, UnicodeDecodeError):
            return {}
        pairs = (line.split(" ")[0].partition("==") for line in lock.splitlines())
        return {name: version for name, _, version in pairs}

    def _with(self, edge: Checked, outcome: Outcome, subject: Version) -> Checked:
        """Return an edge with what came of the making, where that is about it and says more or worse."""
        mine = edge.artifact == subject.id and edge.direction == "out"
        about = mine or (edge.direction == "in" and edge.role in (outcome.roles or MADE_OF))
        if not about or edge.state in (State.CONTRADICTED, State.MISSING) or edge.code == "event-not-pinned":
            return edge
        better = outcome.state in (State.PROVEN, State.INFERRED)
        if better and edge.method != "equal-bytes":
            return edge
        if outcome.method == "none" and outcome.state is State.STATED:
            return replace(edge, code=edge.code or outcome.code, detail=edge.detail or outcome.detail)
        state = outcome.state if better else weakest((edge.state, outcome.state))
        code = outcome.code or (None if better else edge.code)
        return replace(
            edge, state=state, method=outcome.method if outcome.method != "none" else edge.method,
            code=code, detail=outcome.detail or edge.detail, tools=outcome.tools,
        )  # fmt: skip


def _same_shapes(out: Held, base: Held) -> Outcome:
    """A whole model after fine-tuning: most tensors have their names and shapes; how many changed is worth knowing."""
    shared = out.tensors.keys() & base.tensors.keys()
    fitting = [name for name in shared if out.tensors[name].shape == base.tensors[name].shape]
    roles = ("base", "previous")
    if base.tensors and out.tensors and not fitting:
        return Outcome(
            State.CONTRADICTED, "shapes", "wrong-base", "no tensor has the name and shape of one", roles=roles
        )
    changed = sum(out.tensors[name].sha256 != base.tensors[name].sha256 for name in fitting)
    detail = f"{len(fitting)} of {len(out.tensors)} tensors fit, {changed} of them changed"
    return Outcome(State.STATED, "shapes", None, detail, roles=roles)
