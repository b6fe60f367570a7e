"""From one output back to the training data: every hop with what we know of it.

    output ← call ← serving spec ← load ← model ← adapter, base ← runs ← data, code, environment

`examine` is the one judge: `genealog why`, `genealog verify` and the standalone verifier say what it says. It reads a
bundle and a trust policy, and nothing else. A hop is never better than the exhibits it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from genealog.core import records
from genealog.core.bundle import Evidence
from genealog.core.call import (
    CallLeaf,
    EngineGroup,
    RequestGroup,
    ResponseGroup,
    RetrievalGroup,
    UsageGroup,
    WhoGroup,
)
from genealog.core.canonical import Record, decode
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.exhibits import Exhibit, Exhibits, examine_receipts
from genealog.core.ids import record_id, seal, sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, EngineSignature
from genealog.core.statement import artifact_of
from genealog.core.states import State, weakest
from genealog.core.trust import Trust
from genealog.errors import GenealogError

_GROUPS: dict[str, type[Record]] = {
    "engine": EngineGroup, "request": RequestGroup, "response": ResponseGroup,
    "retrieval": RetrievalGroup, "usage": UsageGroup, "who": WhoGroup,
}  # fmt: skip

NEEDS_LINEAGE = ("model", "adapter", "checkpoint")  # data, code and environments may begin a chain


@dataclass(frozen=True, slots=True)
class Hop:
    """One step back. `depth` draws the tree; `code` says why the state is not better."""

    depth: int
    role: str
    title: str
    state: State
    id: str | None = None
    signer: str | None = None
    position: str | None = None
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Every hop, in the order in which a reader walks them."""

    hops: tuple[Hop, ...]

    @property
    def state(self) -> State:
        """The weakest state of all hops."""
        return weakest(hop.state for hop in self.hops)

    @property
    def weakest(self) -> Hop:
        """The first of the weakest hops."""
        return next(hop for hop in self.hops if hop.state is self.state)


def examine(evidence: Evidence, trust: Trust | None, *, output: bytes | None = None) -> Report:
    """Walk the chain of a bundle. `output` is what somebody holds: a whole body, or the text of one part.

    Without `trust` no hop is better than `unchecked`.
    """
    walk = _Walk(evidence, examine_receipts(evidence.receipts, trust), checked=trust is not None)
    walk.from_output(output)
    return Report(tuple(walk.hops))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The groups that the chain reads, where the bundle shows them."""

    engine: EngineGroup | None
    request: RequestGroup | None
    response: ResponseGroup | None


@dataclass(slots=True)
class _Walk:
    evidence: Evidence
    exhibits: Exhibits
    checked: bool
    hops: list[Hop] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    base_of: dict[str, str] = field(default_factory=dict)  # each adapter that served, and the model it was put on

    def add(
        self, depth: int, role: str, title: str, state: State, exhibit: Exhibit | None = None, *,
        id: str | None = None, code: str | None = None, detail: str | None = None,  # noqa: A002
    ) -> None:  # fmt: skip
        """Add a hop, no stronger than its exhibit, and no stronger than `unchecked` without trust."""
        signer = position = None
        if exhibit is not None:
            exhibit.used = True
            signer, position = exhibit.signer, exhibit.position
            if exhibit.state.rank > state.rank:
                state, code, detail = exhibit.state, exhibit.code, exhibit.message or detail
        if not self.checked:
            state = weakest((state, State.UNCHECKED))
            code = code or "no-trust-policy"
        self.hops.append(Hop(depth, role, title, state, id, signer, position, code, detail))

    def from_output(self, output: bytes | None) -> None:
        """Start at the output. Exhibits that failed and that no hop used are named at the end."""
        call = self.exhibits.by_leaf(self.evidence.call)
        if call is None or call.call is None:
            self.add(0, "call", "call", State.MISSING, id=self.evidence.call, code="call-not-in-bundle")
        else:
            groups, problem = self._open(call.call)
            self._output(call.call, groups.response, output)
            when = call.call.ended_at or f"(began {call.call.called_at})"
            detail = f"{call.call.finish} at {when}, assurance {call.call.assurance}, by {call.call.emitter}"
            state = State.CONTRADICTED if problem else State.PROVEN
            self.add(1, "call", call.call.call, state, call, id=call.leaf, code=problem, detail=detail)
            self._spec(call.call, groups)
        for item in self.exhibits.all:
            if item.state is State.CONTRADICTED and not item.used:
                self.add(0, "receipt", item.position, State.CONTRADICTED, item)

    def _open(self, call: CallLeaf) -> tuple[_Opened, str | None]:
        """Open the groups that the bundle shows, checking each against its seal in the call."""
        opened: dict[str, Record] = {}
        problem = None
        for name, group in sorted(self.evidence.groups.items()):
            try:
                body = unb64(group.body)
                if name not in _GROUPS:
                    problem = "unknown-group"
                elif seal(bytes.fromhex(group.salt), body) != getattr(call.seals, name):
                    problem = "seal-mismatch"
                else:
                    opened[name] = decode(body, _GROUPS[name])
            except (GenealogError, ValueError):
                problem = "group-malformed"
        return _Opened(opened.get("engine"), opened.get("request"), opened.get("response")), problem  # type: ignore[arg-type]

    def _output(self, call: CallLeaf, response: ResponseGroup | None, output: bytes | None) -> None:
        body = unb64(self.evidence.response) if self.evidence.response is not None else None
        title = "the answer" if call.finish == "complete" else f"an answer that is not whole ({call.finish})"
        if call.spec is None:
            self.add(0, "output", "no answer: the call was refused", State.PROVEN)
        elif response is None:
            self.add(0, "output", title, State.UNCHECKED, code="response-sealed", detail="its digests are sealed here")
        elif output is not None and sha256_hex(output) not in _digests(response):
            self.add(
                0, "output", title, State.CONTRADICTED, code="output-mismatch", detail="not what this call answered"
            )
        elif body is not None and sha256_hex(body) not in _digests(response)[:2]:
            self.add(0, "output", title, State.CONTRADICTED, code="output-mismatch", detail="the body was altered")
        elif output is None and body is None:
            self.add(0, "output", title, State.UNCHECKED, code="output-not-included", detail="give it with --output")
        else:
            self.add(0, "output", title, State.PROVEN, id=response.wire, detail="its digest stands in the call")

    def _spec(self, call: CallLeaf, groups: _Opened) -> None:
        if call.spec is None:
            return
        found = [i for i in self.exhibits.of(records.ServingSpec) if i.read and record_id(i.read.body) == call.spec]
        if not found or found[0].read is None or not isinstance(found[0].read.body, records.ServingSpec):
            self.add(2, "serving spec", "serving spec", State.MISSING, id=call.spec, code="spec-not-in-bundle")
            return
        spec, read = found[0].read.body, found[0].read
        same = spec.models == call.models
        self.add(
            2, "serving spec", read.subjects[0].name, State.STATED if same else State.CONTRADICTED, found[0],
            id=call.spec, code=None if same else "models-not-spec", detail=f"minimum assurance {spec.minimum_assurance}",
        )  # fmt: skip
        self.base_of = {adapter.artifact: spec.model.artifact for adapter in spec.adapters}
        self._load(call, groups)
        for number, pinned in enumerate(reversed((spec.model, *spec.adapters))):
            role = "model" if number == len(spec.adapters) else "adapter"
            self._artifact(4, role, pinned.artifact, weights=pinned.weights, lineage=pinned.lineage)

    def _load(self, call: CallLeaf, groups: _Opened) -> None:
        engine = groups.engine
        if call.assurance < "A3":
            detail = "nobody measured the weights that answered"
            self.add(3, "load", f"assurance {call.assurance}", State.CLAIMED, code="not-measured", detail=detail)
            return
        if engine is None:
            self.add(
                3, "load", "engine", State.UNCHECKED, code="engine-sealed", detail="the engine group is sealed here"
            )
            return
        item = self.exhibits.by_leaf(str(engine.load))
        if item is None or item.read is None or not isinstance(item.read.body, records.Load):
            self.add(3, "load", "engine", State.MISSING, id=str(engine.load), code="load-not-in-bundle")
            return
        load = item.read.body
        code = self._engine_problem(call, groups, load, item)
        state = State.CONTRADICTED if code else State.STATED
        if code in ("request-sealed", "response-sealed"):
            state = State.UNCHECKED
        detail = f"hashed what it loaded at {load.loaded_at}, and signed this answer"
        self.add(3, "load", load.engine, state, item, id=item.leaf, code=code, detail=None if code else detail)

    def _engine_problem(self, call: CallLeaf, groups: _Opened, load: records.Load, item: Exhibit) -> str | None:
        """Check the engine's signature over this very exchange. Returns what is wrong."""
        if groups.engine is None or groups.request is None or groups.response is None:
            return "response-sealed" if groups.request else "request-sealed"
        keys = [i.read.body for i in self.exhibits.of(records.Key) if i.read]
        public = next(
            (k.public for k in keys if isinstance(k, records.Key) and k.keyid == load.keyid and k.public), None
        )
        if public is None:
            return "signer-key-missing"
        try:
            envelope = unb64(str(groups.engine.envelope))
            payload, _ = verify_envelope(envelope, {load.keyid: unb64(public)}, ENGINE_SIGNATURE)
            signed = decode(payload, EngineSignature)
        except GenealogError as error:
            return "engine-signature-invalid" if error.code == "signature-invalid" else error.code
        wanted = (call.call, item.leaf, groups.request.wire, groups.response.wire)
        if (signed.call, signed.load, signed.request, signed.response) != wanted:
            return "engine-signature-mismatch"
        return None if load.models == call.models else "load-not-spec"

    def _artifact(
        self, depth: int, role: str, identifier: str, *, weights: str | None = None, lineage: str | None = None,
        state: State = State.STATED,
    ) -> None:  # fmt: skip
        if identifier in self.seen:
            return
        self.seen.add(identifier)
        found = [i for i in self.exhibits.of(records.Artifact) if i.read and artifact_of(i.read) == identifier]
        if not found or found[0].read is None or not isinstance(found[0].read.body, records.Artifact):
            self.add(depth, role, "not in the bundle", State.MISSING, id=identifier, code="artifact-not-in-bundle")
            return
        item, read, body = found[0], found[0].read, found[0].read.body
        code = None
        if weights is not None and (body.weights is None or body.weights.id != weights):
            state, code = State.CONTRADICTED, "weights-mismatch"
        elif body.body is not None and record_id(body.body) != identifier:
            state, code = State.CONTRADICTED, "record-mismatch"
        elif lineage is not None and not self._tells(lineage, identifier):
            state, code = State.MISSING, "lineage-not-in-bundle"
        files = f"{body.files} files, {body.size} bytes" if body.files else None
        self.add(
            depth, role, f"{read.subjects[0].name} ({body.kind})", state, item, id=identifier, code=code, detail=files
        )
        self._origin(depth + 1, identifier, body)

    def _tells(self, lineage: str, identifier: str) -> bool:
        """Is the statement `lineage` here, and is it about this artifact?"""
        item = self.exhibits.by_leaf(lineage)
        body = item.read.body if item and item.read else None
        if isinstance(body, records.ExecutionEnd):
            return any(e.artifact == identifier and e.direction == "out" for e in body.events)
        return (
            isinstance(body, records.Artifact)
            and item is not None
            and item.read is not None
            and (artifact_of(item.read) == identifier)
        )

    def _origin(self, depth: int, identifier: str, body: records.Artifact) -> None:
        """Go on from an artifact to the execution that made it, to what its owner claims, or to a gap."""
        made = False
        for item in self.exhibits.of(records.ExecutionEnd):
            end = item.read.body if item.read else None
            if isinstance(end, records.ExecutionEnd) and any(
                e.artifact == identifier and e.direction == "out" for e in end.events
            ):
                made = True
                self._run(depth, item, end, identifier)
        if made or body.kind not in NEEDS_LINEAGE:
            return
        if body.source:
            self.add(depth, "source", body.source, State.CLAIMED, code="outside-origin", detail="its owner says so")
        else:
            self.add(depth, "source", "no lineage recorded", State.MISSING, code="no-lineage")

    def _run(self, depth: int, ended: Exhibit, end: records.ExecutionEnd, output: str) -> None:
        if end.execution in self.seen:
            return
        self.seen.add(end.execution)
        ended.used = True
        starts = [i for i in self.exhibits.of(records.Execution) if i.read and record_id(i.read.body) == end.execution]
        if not starts or starts[0].read is None or not isinstance(starts[0].read.body, records.Execution):
            self.add(depth, "run", "not in the bundle", State.MISSING, id=end.execution, code="execution-not-in-bundle")
            return
        start = starts[0].read.body
        outputs = [e for e in end.events if e.direction == "out" and e.artifact == output]
        state = weakest((State.STATED, ended.state, *(e.state for e in outputs)))
        code = ended.code
        if end.exit == "failed":
            state, code = weakest((state, State.CLAIMED)), code or "run-failed"
        bases = {e.artifact for e in end.events if e.direction == "in" and e.role == "base"}
        if output in self.base_of and bases and self.base_of[output] not in bases:
            state, code = State.CONTRADICTED, "wrong-base"
        title = f"{start.kind} {start.name or ''}".strip()
        detail = ended.message or f"{start.started_at} to {end.ended_at}, {end.exit}"
        self.add(depth, "run", title, state, starts[0], id=end.execution, code=code, detail=detail)
        for event in end.events:
            if event.direction == "in":
                strength = weakest((State.STATED, event.state))
                self._artifact(depth + 1, event.role, event.artifact, weights=event.weights, state=strength)
        for role, artifact in (("code", start.code), ("environment", start.environment)):
            if artifact is not None:
                self._artifact(depth + 1, role, artifact)


def _digests(response: ResponseGroup) -> tuple[str | None, ...]:
    """Return every digest under which somebody may hold this answer: the bodies first, then its texts."""
    delivered = response.delivered.sha256 if response.delivered else None
    return (response.wire, delivered, *response.text)
