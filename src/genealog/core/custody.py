"""What happened to an artifact: the kinds of executions, and the roles that each needs, as data.

`KINDS` is the table of the design (section 8): what goes in, in which role, how many times, and what has to be pinned
bit for bit. `check_events` holds the events of one execution to it and to what is registered now. A kind that is not in
the table is allowed and said to be unknown: the vocabulary is open, and silence about it would be a lie.

Nothing here reads files: whether bytes fit what was said is asked by `genealog.custody`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from genealog.core.records import Event
from genealog.core.states import State

MADE_OF = ("base", "parent", "source", "previous", "adapter", "teacher", "student-init", "model")
"""Roles of what goes in and has weights: the custody of a model runs through them."""


@dataclass(frozen=True, slots=True)
class Need:
    """So many inputs in any of these roles. `pinned` asks for a weights ID in each;"""

    roles: tuple[str, ...]
    least: int = 1
    most: int | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What an execution of one kind takes, and how its result can be checked from bytes.

    `adapter` replaces `needs` where an adapter comes out. `method` is what `genealog check` does: `shapes`, `merge`,
    `convert`, `update`, or `roles` (nothing but the statement: who trained on what cannot be seen in bytes).
    """

    needs: tuple[Need, ...] = ()
    adapter: tuple[Need, ...] = ()
    method: str = "roles"


_BASE = Need(("base",), pinned=True, most=1)
_SOURCE = Need(("source", "base"), most=1)

KINDS: Mapping[str, Kind] = {
    "pretrain": Kind(),
    "finetune": Kind((Need(("base", "previous"), least=0),), (_BASE,), method="shapes"),
    "adapter-train": Kind((_BASE,), (_BASE,), method="shapes"),
    "online-update": Kind((Need(("previous",), most=1),), (Need(("previous",), most=1),), method="update"),
    "merge": Kind((Need(("parent", "base", "adapter"), least=2),), (Need(("parent", "adapter"), least=2),), "merge"),
    "quantize": Kind((_SOURCE,), (_SOURCE,), method="convert"),
    "convert": Kind((_SOURCE,), (_SOURCE,), method="convert"),
    "distill": Kind((Need(("teacher",)), Need(("student-init",), least=0, most=1))),
    "evaluate": Kind((Need(("model", "base", "adapter", "subject")),)),
    "index-build": Kind((Need(("corpus", "data")), Need(("embedder",), least=0, most=1))),
    "prompt-publish": Kind((Need(("previous",), least=0, most=1),)),
    "policy-publish": Kind((Need(("previous",), least=0, most=1),)),
    "reproduce": Kind((Need(("subject",)),)),
    "import": Kind(method="claims"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the events of an execution. `event` is None where one is absent.

    `false` is True for what was checked and does not hold, False for what is only not there or not known.
    """

    code: str
    message: str
    role: str
    event: Event | None = None
    false: bool = False


def check_events(kind: str, events: Iterable[Event], registered: Mapping[str, str | None] | None = None) -> list[Fault]:
    """Return what is wrong with the events of an execution that has ended; of none, an empty list.

    `registered` maps artifact IDs to the weights ID that stands in the registry (None: no tensors), as far as known.
    Codes: `kind-unknown`, `event-missing`, `event-too-many`, `event-not-pinned` (a base without weights ID),
    `made-of-itself`; and false: `weights-mismatch` (the event names other weights than those registered),
    `weights-changed` (what came out says `equal-weights` among its facts and its weights are not the source's).
    """
    events = tuple(events)
    faults = [*_weights(events, registered or {}), *_equal(events), *_circles(events)]
    rules = KINDS.get(kind)
    if rules is None:
        return [*faults, Fault("kind-unknown", f"no rule is known for executions of the kind {kind!r}", "")]
    adapter = any(event.direction == "out" and event.role == "adapter" for event in events)
    ins = [event for event in events if event.direction == "in" and event.state is not State.CONTRADICTED]
    for need in rules.adapter if adapter and rules.adapter else rules.needs:
        faults += _needs(kind, need, [event for event in ins if event.role in need.roles])
    return faults


def judge_events(kind: str, events: Sequence[Event], registered: Mapping[str, str | None]) -> tuple[Event, ...]:
    """Return the events with every one that is false as `contradicted`, with its code: kept, never silently."""
    false = {id(fault.event): fault.code for fault in check_events(kind, events, registered) if fault.false}
    return tuple(
        Event(
            artifact=e.artifact, direction=e.direction, role=e.role, state=State.CONTRADICTED, weights=e.weights,
            path=e.path, facts=e.facts, code=false[id(e)],
        )
        if id(e) in false
        else e
        for e in events
    )  # fmt: skip


def _needs(kind: str, need: Need, found: Sequence[Event]) -> list[Fault]:
    role, wanted = need.roles[0], " or ".join(need.roles)
    if len(found) < need.least:
        text = (
            f"an execution of the kind {kind} has {need.least} or more inputs in the role {wanted}, this {len(found)}"
        )
        return [Fault("event-missing", text, role)]
    if need.most is not None and len(found) > need.most:
        text = f"an execution of the kind {kind} has at most {need.most} input in the role {wanted}, this {len(found)}"
        return [Fault("event-too-many", text, role, found[need.most])]
    return [
        Fault("event-not-pinned", f"the {event.role} is not pinned by a weights ID", event.role, event)
        for event in found
        if need.pinned and event.weights is None
    ]


def _weights(events: Iterable[Event], registered: Mapping[str, str | None]) -> Iterable[Fault]:
    for event in events:
        known = registered.get(event.artifact)
        if event.weights is not None and event.artifact in registered and known != event.weights:
            text = f"the {event.role} is recorded with weights that are not those registered"
            yield Fault("weights-mismatch", text, event.role, event, false=True)


def _equal(events: tuple[Event, ...]) -> Iterable[Fault]:
    """An output may say that its weights are those of what went in: `equal-weights` = `true` among its facts."""
    known = {e.weights for e in events if e.direction == "in" and e.role in MADE_OF}
    for event in events:
        said = event.direction == "out" and event.facts.get("equal-weights") == "true"
        if said and (event.weights is None or event.weights not in known):
            text = f"the {event.role} is said to have the weights of what went in, and has others"
            yield Fault("weights-changed", text, event.role, event, false=True)


def _circles(events: Iterable[Event]) -> Iterable[Fault]:
    events = tuple(events)
    made = {event.artifact for event in events if event.direction == "out"}
    for event in events:
        if event.direction == "in" and event.artifact in made and event.role in MADE_OF:
            yield Fault("made-of-itself", f"the {event.role} is what came out", event.role, event)
