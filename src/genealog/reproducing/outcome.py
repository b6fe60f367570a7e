"""From a re-run to a verdict: its outputs beside the recorded ones, and where the two runs part first.

First are the inputs (what was changed on purpose, code, data, environment), then the steps of the training, then the
tensors: whatever differs early is why the rest does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import select

from genealog.core import records
from genealog.core.weights import TensorEntry, decode_tensors
from genealog.custody.held import Held, hold
from genealog.errors import GenealogError
from genealog.registry import Registry, Version
from genealog.reproducing.compare import (
    Comparison,
    OutputResult,
    TensorNumbers,
    compare_tensors,
    verdict_of,
    weakest_of,
)
from genealog.reproducing.place import Place
from genealog.reproducing.plan import Plan, plan_for
from genealog.reproducing.software import Software
from genealog.reproducing.traces import first_difference, last_differences, read_trace
from genealog.store import schema
from genealog.store.home import REGISTRY

TRACE = "trace"


def compared(
    registry: Registry, plan: Plan, space: Place, scratch: Registry, software: Software, *,
    subject: Version | None, status: int, said: str, seconds: float, rtol: float, atol: float,
) -> Comparison:  # fmt: skip
    """Return what came of a re-run that ended with `status`."""
    again = _again(scratch)
    outputs = list[OutputResult]()
    if status == 0:
        wanted = [event for event in plan.outputs if event.role != TRACE]
        outputs = [
            _output(registry, scratch, event, _match(event, plan, again), space, rtol, atol)
            for event in wanted
            if subject is None or event.artifact == subject.id or event.weights is not None
        ]
    about = [each for each in outputs if subject is None or each.recorded == subject.id]
    verdict = weakest_of(each.verdict for each in about) if status == 0 else "failed"
    first = list(_first(registry, scratch, plan, again, software, about)) if verdict != "bit-identical" else []
    return Comparison(
        execution=plan.execution, subject=subject.id if subject else plan.execution, verdict=verdict,
        outputs=tuple(outputs), first=tuple(first), changes=plan.changes, environment=software.id,
        same_environment=software.same, differences=software.differences, seconds=seconds, status=status,
        said=said if verdict == "failed" else None,
    )  # fmt: skip


def _again(scratch: Registry) -> Plan | None:
    """Return the last run that the re-run put on record and that ended."""
    table = schema.execution
    query = select(table.c.digest).where(table.c.end.is_not(None)).order_by(table.c.end.desc())
    row = scratch.ledger.index(REGISTRY).first(query)
    return plan_for(scratch, row["digest"]) if row else None


def _match(event: records.Event, plan: Plan, again: Plan | None) -> records.Event | None:
    """Return the output of the re-run that stands for a recorded one: of its place, else the only one of its role."""
    made = again.outputs if again is not None else ()
    same = [e for e in made if event.path is not None and e.path == event.path]
    if not same and sum(e.role == event.role for e in plan.outputs) == 1:
        same = [e for e in made if e.role == event.role]
    return same[0] if len(same) == 1 else next((e for e in same if e.role == event.role), None)


def _output(
    registry: Registry, scratch: Registry, event: records.Event, other: records.Event | None, space: Place,
    rtol: float, atol: float,
) -> OutputResult:  # fmt: skip
    version = registry.resolve(event.artifact)
    made = _made(scratch, event, other, space)
    if made is None:
        return OutputResult(event.role, version.name, version.id, None, "failed", note="the re-run did not make it")
    tensors: tuple[TensorNumbers, ...] = ()
    compared_, note = 0, None
    if made.id != version.id and version.weights is not None and made.weights != version.weights:
        old_entries, new_entries = _entries(registry, version), _entries(scratch, made)
        old, note = _hold(registry, version)
        new, _ = _hold(scratch, made)
        compared_ = len(old_entries)
        tensors = compare_tensors(old_entries, new_entries, old, new, rtol=rtol, atol=atol)
    verdict = verdict_of(version.id, made.id, (version.weights, made.weights), tensors)
    files = () if made.id == version.id else _files(registry, scratch, version, made)
    return OutputResult(event.role, version.name, version.id, made.id, verdict, files, tensors, compared_, note)


def _made(scratch: Registry, event: records.Event, other: records.Event | None, space: Place) -> Version | None:
    if other is not None:
        return scratch.resolve(other.artifact)
    if event.path is None or event.path.startswith("/"):
        return None
    path = space.folder / event.path
    if not path.exists():
        return None
    kind = "files"  # the run recorded nothing of itself: what lies where the output lay
    return scratch.resolve(scratch.add(path, kind=kind, name=f"output {event.path}").id)


def _entries(registry: Registry, version: Version) -> dict[str, TensorEntry]:
    body = registry.statement(version.statement).body
    if not isinstance(body, records.Artifact) or body.weights is None:
        return {}
    return {entry.name: entry for entry in decode_tensors(registry.home.objects.get(body.weights.list.sha256))}


def _hold(registry: Registry, version: Version) -> tuple[Held | None, str | None]:
    try:
        return hold(registry, version, None), None
    except GenealogError as error:
        return None, f"{error.message} [{error.code}]"


def _files(registry: Registry, scratch: Registry, version: Version, made: Version) -> tuple[str, ...]:
    old = {entry.path: entry.sha256 for entry in registry.manifest(version).files}
    new = {entry.path: entry.sha256 for entry in scratch.manifest(made).files}
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def _first(
    registry: Registry, scratch: Registry, plan: Plan, again: Plan | None, software: Software,
    outputs: Iterable[OutputResult],
) -> Iterator[str]:  # fmt: skip
    """Yield where the two runs part, the earliest cause first."""
    for name, (old, new) in plan.changes.items():
        yield f"parameters differ: {name} {old} → {new}"
    if again is not None:
        yield from _parameters(plan, again)
    if not software.same:
        shown = "; ".join(software.differences[:3])
        yield f"environments differ: {shown or 'the recorded one has another ID'}"
    if again is not None:
        yield from _steps(registry, scratch, plan, again)
    for output in outputs:
        yield from _tensors(output.tensors, output.compared)
        if not output.tensors and output.files:
            yield f"first differing file: {output.files[0]}"


def _parameters(plan: Plan, again: Plan) -> Iterator[str]:
    def said(run: Plan) -> dict[str, str]:
        return {**run.end.observed, **run.start.parameters}

    old, new = said(plan), said(again)
    named = {name.replace("-", "_") for name in plan.changes}
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name] and name not in named and not _is_place(old[name]):
            what = "the order of data differs" if name.startswith("data-order") else f"settings differ: {name}"
            yield f"{what} {old[name][:60]} → {new[name][:60]}"
    for name in sorted(plan.end.seeds.keys() & again.end.seeds.keys()):
        if plan.end.seeds[name] != again.end.seeds[name]:
            yield f"seeds differ: {name} {plan.end.seeds[name]} → {again.end.seeds[name]}"
    ours = {event.artifact for event in plan.events if event.direction == "in" and event.role != "environment"}
    for event in again.events:
        if event.direction == "in" and event.role not in ("environment", "code") and event.artifact not in ours:
            yield f"inputs differ: {event.role} {event.artifact} was not read then"


def _is_place(text: str) -> bool:
    return "/" in text


def _steps(registry: Registry, scratch: Registry, plan: Plan, again: Plan) -> Iterator[str]:
    traces = [_trace(store, run) for store, run in ((registry, plan), (scratch, again))]
    if traces[0] is not None and traces[1] is not None:
        try:
            found = first_difference(read_trace(traces[0]), read_trace(traces[1]))
        except GenealogError as error:
            yield f"no steps to compare: {error.message}"
        else:
            yield found or "the traces are the same, step by step"
        return
    yield from last_differences(plan.end.measurements, again.end.measurements)


def _trace(registry: Registry, run: Plan) -> bytes | None:
    """Return the trace of a run, from the objects of its store."""
    event = next((event for event in run.outputs if event.role == TRACE), None)
    if event is None:
        return None
    try:
        (entry,) = registry.manifest(registry.resolve(event.artifact)).files
        return registry.home.objects.get(entry.sha256)
    except (GenealogError, ValueError):
        return None


def _tensors(tensors: tuple[TensorNumbers, ...], total: int) -> Iterator[str]:
    if tensors:
        yield f"{len(tensors)} of {total} tensors differ, the first: {tensors[0].name}"
