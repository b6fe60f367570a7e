"""From one output back to the training data: every hop with what we know of it.

    output ← call ← serving spec ← load ← model ← adapter, base ← runs ← data, code, environment

`examine` is the one judge: `genealog why`, `genealog verify` and the standalone verifier say what it says. It reads a
bundle and a trust policy, and nothing else. A hop is never better than the exhibits it rests on, and what is pinned (by
the call, the serving spec, the engine) is compared wherever it is met. Statements of another store count for nothing.

A bundle can leave out what nothing in it pins: an execution that made an unpinned input, the revocation of a key.

Long because one walk asks all of this: to part it would be to hand its eight fields from one half to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from msgspec import structs

from genealog.core import records
from genealog.core.bundle import Disclosure, Evidence
from genealog.core.call import CallLeaf
from genealog.core.canonical import Record
from genealog.core.dsse import unb64
from genealog.core.exchange import Groups, Verdict, judge_engine, judge_output, judge_prompt, open_groups
from genealog.core.exhibits import Exhibit, Exhibits, examine_receipts, grade_of, place, untold
from genealog.core.fork import Fork, check_fork, verify_fork
from genealog.core.lineage import NEEDS_LINEAGE
from genealog.core.proof import claimed_checkpoint, parse_proof
from genealog.core.receipt import Receipt
from genealog.core.states import State, weakest
from genealog.core.timestamp import verify_timestamp
from genealog.core.trust import Trust
from genealog.errors import GenealogError, VerificationError

_SERVED = ("model", "adapter", "base")  # whatever its owner calls it, what answers needs lineage

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Hop:
    """One step back. `depth` draws the tree; `code` says why the state is not better.

    `grade` tells how its entry is in a log: `logged`, or `witnessed by …`.
    """

    depth: int
    role: str
    title: str
    state: State
    id: str | None = None
    signer: str | None = None
    position: str | None = None
    code: str | None = None
    detail: str | None = None
    grade: str | None = None


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


def examine(
    evidence: Evidence, trust: Trust | None, *, output: bytes | None = None, tsa_roots: bytes | None = None
) -> Report:
    """Walk the chain of a bundle. `output` is what somebody holds: a whole body, or the text of one part.

    Without `trust` no hop is better than `unchecked`. `tsa_roots` (PEM) adds a hop for each timestamp.
    """
    walk = _Walk(evidence, examine_receipts(evidence.receipts, trust), checked=trust is not None)
    walk.from_output(output)
    return Report((*walk.hops, *_stamps(evidence.receipts, tsa_roots)))


def examine_receipt(receipt: Receipt, trust: Trust | None, *, tsa_roots: bytes | None = None) -> Report:
    """Judge one entry on its own. It travels without its signer's key: that it is in the log is what it proves.

    A timestamp that nobody looked at makes the entry no weaker, and is said to be unchecked.
    """
    item = place(receipt, trust)
    code = item.code or ("no-trust-policy" if trust is None else None)
    title = item.call.call if item.call else _name(item) if item.read else "entry"
    stamps = _stamps((receipt,), tsa_roots)
    detail = item.message or ("it has a timestamp, unchecked" if receipt.timestamp and not stamps else None)
    return Report(
        (Hop(0, "entry", title, item.state, item.leaf, None, item.position, code, detail, item.grade), *stamps)
    )


def examine_fork(fork: Fork, trust: Trust | None) -> Report:
    """Judge fork evidence: if it holds, it is the log that is contradicted, by two heads that it signed.

    Raises: MissingError `fork-unproven`, and what else makes it no evidence: as `fork.verify_fork`.
    """
    old, new = check_fork(fork)
    cosigned = ("", "")
    state, code = State.UNCHECKED, "no-trust-policy"
    if trust is not None:
        try:
            proven = verify_fork(fork, trust)
        except VerificationError as error:
            if error.code != "unknown-log":
                raise
            code = error.code
        else:
            state, code = State.CONTRADICTED, "log-forked"
            cosigned = grade_of(proven.first.cosigned_at), grade_of(proven.second.cosigned_at)
    signed = State.PROVEN if state is State.CONTRADICTED else state
    detail = "it signed two heads that do not chain: it shows different histories"
    hops = [Hop(0, "log", old.origin, state, code=code, detail=detail if signed is State.PROVEN else None)]
    for head, seen, grade in zip((old, new), (fork.first, fork.second), cosigned, strict=True):
        title = f"size {head.size}, root {head.root.hex()}"
        hops.append(Hop(1, "head", title, signed, detail=seen.where and f"seen: {seen.where}", grade=grade or None))
    return Report(tuple(hops))


def _stamps(receipts: Iterable[Receipt], roots: bytes | None) -> list[Hop]:
    """Judge every timestamp in some receipts by the root certificates of timestamp authorities."""
    if roots is None:
        return []
    stamped = {(each.timestamp, parse_proof(each.proof.encode()).checkpoint) for each in receipts if each.timestamp}
    hops = []
    for token, note in sorted(stamped):
        try:
            stamp = verify_timestamp(unb64(token), note, roots)
        except GenealogError as error:
            state = (
                State.UNCHECKED
                if error.code in ("timestamp-authority-unknown", "extra-not-installed")
                else State.CONTRADICTED
            )
            hops.append(Hop(1, "timestamp", "not believed", state, code=error.code, detail=error.message + error.facts))
        else:
            checkpoint = claimed_checkpoint(note)
            detail = f"{checkpoint.origin} had {checkpoint.size} entries by then"
            hops.append(Hop(1, "timestamp", f"{stamp.at} by {stamp.authority}", State.PROVEN, detail=detail))
    return hops


def examine_disclosure(disclosure: Disclosure, trust: Trust | None, *, output: bytes | None = None) -> Report:
    """Judge a part of one call: that it is in the log, and that what is opened here is what was sealed in it.

    What answered, and where that came from, is not asked: a disclosure does not say.
    """
    item = place(disclosure.receipt, trust)
    evidence = Evidence(
        call=item.leaf or "0" * 64, receipts=(disclosure.receipt,), groups=disclosure.groups,
        request=disclosure.request, response=disclosure.response,
    )  # fmt: skip
    walk = _Walk(evidence, examine_receipts(evidence.receipts, trust), checked=trust is not None)
    walk.disclosed(output)
    return Report(tuple(walk.hops))


@dataclass(slots=True)
class _Walk:
    """A walk back in time, depth first, on a stack of its own: no chain is so long that it overflows Python's."""

    evidence: Evidence
    exhibits: Exhibits
    checked: bool
    hops: list[Hop] = field(default_factory=list)
    registry: str = ""  # of the store that logged the call
    pins: dict[str, records.Pinned] = field(default_factory=dict)  # what the serving spec pins: the model, its adapters
    seen: set[str] = field(default_factory=set)
    path: set[str] = field(default_factory=set)  # the artifacts between the output and here
    todo: list[Callable[[], None]] = field(default_factory=list)

    def add(
        self, depth: int, role: str, title: str, verdict: Verdict, exhibit: Exhibit | None = None, *,
        id: str | None = None, detail: str | None = None,  # noqa: A002
    ) -> None:  # fmt: skip
        """Add a hop, no stronger than its exhibit, whose fault comes first; and without trust at most `unchecked`."""
        state, code = verdict
        signer = position = grade = None
        if exhibit is not None:
            exhibit.used = True
            signer, position, grade = exhibit.signer, exhibit.position, exhibit.grade
            if exhibit.state.rank > state.rank or (exhibit.state is state and exhibit.code):
                state, code, detail = exhibit.state, exhibit.code, exhibit.message or detail
        if not self.checked:
            state = weakest((state, State.UNCHECKED))
            code = code or "no-trust-policy"
        self.hops.append(Hop(depth, role, title, state, id, signer, position, code, detail, grade))

    def from_output(self, output: bytes | None) -> None:
        """Start at the output. Exhibits with a fault that no hop used are named at the end: none goes unjudged."""
        item = self.exhibits.by_leaf(self.evidence.call)
        if item is None or item.call is None:
            self.add(0, "call", "call", (State.MISSING, "call-not-in-bundle"), id=self.evidence.call)
        else:
            self.registry = item.origin.rpartition("/")[0] + "/registry"
            self._call(item, item.call, output)
        while self.todo:
            self.todo.pop()()
        for item in self.exhibits.all:
            if item.code is not None and not item.used:
                self.add(0, "receipt", item.position, (item.state, item.code), item, detail=item.message)

    def disclosed(self, output: bytes | None) -> None:
        """Judge the call, each group that is opened, and the bodies; a fault of the entry stands at the call."""
        item = self.exhibits.all[0]
        call = item.call
        if call is None:
            self.add(0, "call", item.position, (State.MISSING, "call-not-in-bundle"), item)
            return
        detail = f"{call.finish}, began {call.called_at}, assurance {call.assurance}; what answered is not told here"
        self.add(0, "call", call.call, (State.PROVEN, None), item, id=item.leaf, detail=detail)
        for name, group in sorted(self.evidence.groups.items()):
            problem = open_groups(structs.replace(self.evidence, groups={name: group}), call).problem
            verdict: Verdict = (State.CONTRADICTED, problem) if problem else (State.PROVEN, None)
            self.add(1, "group", name, verdict, detail=None if problem else "as it was sealed in the call")
        groups = open_groups(self.evidence, call)
        if self.evidence.request is not None:
            self.add(1, "prompt", "the request", judge_prompt(groups.request, unb64(self.evidence.request)))
        if self.evidence.response is not None or output is not None:
            body = unb64(self.evidence.response) if self.evidence.response is not None else None
            verdict, detail = judge_output(call, groups.response, body, output)
            self.add(1, "output", "the answer", verdict, detail=detail)

    def _call(self, item: Exhibit, call: CallLeaf, output: bytes | None) -> None:
        groups = open_groups(self.evidence, call)
        body = unb64(self.evidence.response) if self.evidence.response is not None else None
        verdict, detail = judge_output(call, groups.response, body, output)
        title = "the answer" if call.finish == "complete" else f"an answer that is not whole ({call.finish})"
        if call.finish == "refused":
            title = "no answer: the call was refused"
        wire = groups.response.wire if groups.response else None
        self.add(0, "output", title, verdict, id=wire, detail=detail)
        when = call.ended_at or f"(began {call.called_at})"
        detail = f"{call.finish} at {when}, assurance {call.assurance}, by {call.emitter}"
        verdict = (State.CONTRADICTED, groups.problem) if groups.problem else (State.PROVEN, None)
        self.add(1, "call", call.call, verdict, item, id=item.leaf, detail=detail)
        if self.evidence.request is not None:
            self.add(2, "prompt", "the request", judge_prompt(groups.request, unb64(self.evidence.request)))
        if call.finish == "refused":
            return
        if call.spec is None:
            self.add(2, "serving spec", "none", (State.MISSING, "spec-not-recorded"))
        else:
            self._spec(call, call.spec, groups)

    def _spec(self, call: CallLeaf, identifier: str, groups: Groups) -> None:
        item, spec = _first(self._about(records.ServingSpec, identifier), records.ServingSpec)
        if spec is None:
            self.add(2, "serving spec", "serving spec", (State.MISSING, "spec-not-in-bundle"), id=identifier)
            return
        answered = next((target for target in spec.targets if target.models == call.models), None)
        verdict: Verdict = (State.STATED, None) if answered else (State.CONTRADICTED, "models-not-spec")
        target = answered or spec.targets[0]
        self.add(
            2, "serving spec", _name(item), verdict, item, id=identifier, detail=f"at least {spec.minimum_assurance}"
        )
        self._load(call, target, groups)
        self.pins = {pinned.artifact: pinned for pinned in (target.model, *target.adapters)}
        for number, pinned in enumerate(
            (target.model, *target.adapters)
        ):  # the stack turns it round: the model comes last
            self.todo.append(partial(self._artifact, 4, "adapter" if number else "model", pinned.artifact))

    def _load(self, call: CallLeaf, target: records.Target, groups: Groups) -> None:
        engine = groups.engine
        if call.assurance < "A3":
            detail = "nobody measured the weights that answered"
            if engine is not None and engine.model is not None:
                detail += f"; the upstream calls itself {engine.model}, {engine.fingerprint or 'without a fingerprint'}"
            self.add(3, "load", f"assurance {call.assurance}", (State.CLAIMED, "not-measured"), detail=detail)
        elif engine is None:
            self.add(3, "load", "engine", (State.UNCHECKED, "engine-sealed"), detail="the engine group is sealed here")
        elif engine.load is None or engine.envelope is None:
            detail = f"assurance {call.assurance} without an engine's word"
            self.add(3, "load", "engine", (State.CONTRADICTED, "assurance-unfounded"), detail=detail)
        else:
            item, load = _first(filter(None, [self.exhibits.by_leaf(engine.load, self.registry)]), records.Load)
            if item is None or load is None:
                self.add(3, "load", "engine", (State.MISSING, "load-not-in-bundle"), id=engine.load)
                return
            verdict: Verdict = item.state, item.code
            if item.key is not None:
                revoked = self.exhibits.revocations.get((self.registry, item.key.keyid))
                verdict = judge_engine(call, groups, item.leaf, load, target, item.key, revoked)
            detail = f"hashed what it loaded at {load.loaded_at}" + ("" if verdict[1] else ", and signed this answer")
            self.add(3, "load", load.engine, verdict, item, id=item.leaf, detail=detail)

    def _artifact(
        self, depth: int, role: str, identifier: str, weights: str | None = None, said: State = State.STATED,
        why: str | None = None,
    ) -> None:  # fmt: skip
        """Add an artifact, and put what made it on the stack. A circle makes nothing: no lineage begins in itself.

        `said` is the state of the event that names it, `why` the event's own code.
        """
        pin = self.pins.get(identifier)
        story = self.exhibits.by_leaf(pin.lineage, self.registry) if pin else None
        made = self._makers(identifier, story)
        found = self._about(records.Artifact, identifier)
        item, body = _first([story] if story in found else found, records.Artifact)
        if body is None:
            self.add(depth, role, "not in the bundle", (State.MISSING, "artifact-not-in-bundle"), id=identifier)
            return
        verdict = _strength(said)
        wanted = {weights, pin.weights if pin else None} - {None}
        if wanted and wanted != {body.weights.id if body.weights else None}:
            verdict = State.CONTRADICTED, "weights-mismatch"
        elif story is not None and story not in (*made, *found):
            verdict = State.CONTRADICTED, "lineage-mismatch"
        elif pin is not None and story is None:
            verdict = _weaker(verdict, (State.MISSING, "lineage-not-in-bundle"))
        detail = f"{body.files} files, {body.size} bytes" if body.files else None
        known, circle = identifier in self.seen, identifier in self.path
        title = f"{_name(item)} ({body.kind})"
        detail = why or ("as above" if known else detail)
        self.add(depth, role, title, verdict, item, id=identifier, detail=detail)
        if story is not None:
            made = [story] if story in made else []
        if (circle or not (known or made)) and (role in _SERVED or body.kind in NEEDS_LINEAGE):
            self._source(depth + 1, body, "lineage-circular" if circle else "no-lineage")
        if known:
            return
        self.seen.add(identifier)
        self.path.add(identifier)
        self.todo.append(partial(self.path.discard, identifier))
        self.todo += [partial(self._run, depth + 1, end, identifier) for end in reversed(made)]

    def _source(self, depth: int, body: records.Artifact, gap: str) -> None:
        if body.source is not None or body.body is not None:  # what has no files here is known by its owner's word
            detail = "its owner says so"
            self.add(depth, "source", body.source or "outside", (State.CLAIMED, "outside-origin"), detail=detail)
        else:
            self.add(depth, "source", "no lineage recorded", (State.MISSING, gap))

    def _makers(self, identifier: str, story: Exhibit | None) -> list[Exhibit]:
        """Return one statement for each execution that made an artifact: its end, or events of one that goes on."""
        made = list(self._about(records.ExecutionEnd, identifier))
        known = {_execution(item) for item in made}
        for item in self._about(records.ExecutionEvents, identifier):
            if item is story or _execution(item) not in known:
                known.add(_execution(item))
                ends = self.exhibits.within(records.ExecutionEnd, _execution(item), self.registry)
                made.append(ends[0] if ends and item is not story else item)
        return made

    def _run(self, depth: int, item: Exhibit, output: str) -> None:
        """Add the execution that `output` came out of, what was found about it, and put what went in on the stack."""
        execution = _execution(item)
        parts = self._parts(item, execution)
        _, end = _first([part for part in parts if _is_end(part)], records.ExecutionEnd)
        begun, start = _first(self._about(records.Execution, execution), records.Execution)
        events = [event for part in parts for event in _events(part)]
        ins = [event for event in events if event.direction == "in"]
        outs = [event for event in events if event.direction == "out" and event.artifact == output]
        verdict = _strength(weakest(event.state for event in outs))
        ending = f"ended {end.ended_at}, {end.exit}" if end else "no end is here: it goes on, or it crashed"
        title, detail = "not in the bundle", ending
        if begun is None or start is None:
            verdict = _weaker(verdict, (State.MISSING, "execution-not-in-bundle"))
        else:
            begun.used = True
            verdict = _weaker(verdict, (begun.state, begun.code))
            title = f"{start.kind} {start.name or ''}".strip()
            detail = f"{start.started_at} to {end.ended_at}, {end.exit}" if end else f"{start.started_at}, {ending}"
        for part in parts:
            if part is not item:
                part.used = True
                verdict = _weaker(verdict, (part.state, part.code))
        if untold(parts):
            verdict = _weaker(verdict, (State.MISSING, "events-not-in-bundle"))
        if end is None:
            verdict = _weaker(verdict, (State.CLAIMED, "run-open"))
        elif end.exit == "failed":
            verdict = _weaker(verdict, (State.CLAIMED, "run-failed"))
        model, *adapters = self.pins or [""]
        bases = [event.artifact for event in ins if event.role == "base"]
        if output in adapters and model not in bases:
            verdict = _weaker(verdict, (State.CONTRADICTED, "wrong-base") if bases else (State.MISSING, "base-unknown"))
        why = ", ".join(event.code for event in outs if event.code)
        self.add(depth, "run", title, verdict, item, id=execution, detail=f"{detail}; {why}" if why else detail)
        self._findings(depth + 1, execution, output, first=execution not in self.seen)
        self.seen.add(execution)
        if item.leaf in self.seen:
            return
        self.seen.add(item.leaf)
        steps = [partial(self._artifact, depth + 1, e.role, e.artifact, e.weights, e.state, e.code) for e in ins]
        shown = {event.artifact for event in ins}
        for role in ("code", "environment"):
            artifact = getattr(start, role, None)
            if artifact is not None and artifact not in shown:
                steps.append(partial(self._artifact, depth + 1, role, artifact))
        self.todo += reversed(steps)

    def _parts(self, item: Exhibit, execution: str) -> list[Exhibit]:
        """Return the statements that tell the events of an execution, `item` first: its end, and events on the way."""
        ends = self.exhibits.within(records.ExecutionEnd, execution, self.registry)
        others = [] if _is_end(item) else ends[:1]
        others += self.exhibits.within(records.ExecutionEvents, execution, self.registry)
        return [item, *(other for other in others if other is not item)]

    def _findings(self, depth: int, execution: str, output: str, *, first: bool) -> None:
        """Add what somebody found who checked an edge: a contradiction counts, all else is a note by its signer."""
        for item in self.exhibits.within(records.Finding, execution, self.registry):
            body = item.read.body if item.read else None
            if not isinstance(body, records.Finding) or not (
                first if body.direction == "in" else body.artifact == output
            ):
                continue
            false = body.state is State.CONTRADICTED
            verdict: Verdict = (State.CONTRADICTED, "finding-contradicted") if false else (State.STATED, None)
            detail = "; ".join(filter(None, (f"{body.state} at {body.at}", body.code, body.detail)))
            title = f"{body.direction} {body.role}, by {body.method}"
            self.add(depth, "finding", title, verdict, item, id=body.artifact, detail=detail)

    def _about(self, kind: type[Record], identifier: str) -> list[Exhibit]:
        return self.exhibits.about(kind, identifier, self.registry)


def _first(items: Iterable[Exhibit], kind: type[R]) -> tuple[Exhibit | None, R | None]:
    """Return the first exhibit, and its body if that is of this kind."""
    item = next(iter(items), None)
    body = item.read.body if item and item.read else None
    return item, body if isinstance(body, kind) else None


def _is_end(item: Exhibit) -> bool:
    return item.read is not None and isinstance(item.read.body, records.ExecutionEnd)


def _events(item: Exhibit) -> tuple[records.Event, ...]:
    return getattr(item.read.body, "events", ()) if item.read else ()


def _execution(item: Exhibit) -> str:
    """Return the execution that an end, or events on the way, are of."""
    return str(getattr(item.read.body, "execution", "")) if item.read else ""


def _name(item: Exhibit | None) -> str:
    return item.read.subjects[0].name if item and item.read else ""


def _strength(said: State) -> Verdict:
    """Return how strong an event is: a signed statement, or what it says of itself if that is less."""
    return (said, f"edge-{said}") if said.rank > State.STATED.rank else (State.STATED, None)


def _weaker(one: Verdict, other: Verdict) -> Verdict:
    return other if other[0].rank > one[0].rank else one
