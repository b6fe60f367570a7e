"""What is false when it is said: refused, or kept as contradicted because somebody asked for that.

A run that has ended is never lost over it: `genealog.training` keeps its events, each false one with its code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from genealog.core import records
from genealog.core.custody import Fault, check_events
from genealog.core.lora import misfits, read_lora
from genealog.core.records import Event
from genealog.core.states import State
from genealog.core.weights import TensorEntry, decode_tensors
from genealog.custody.outcome import few_names
from genealog.errors import GenealogError, MissingError, VerificationError
from genealog.registry import Registry, Version


def accept(
    registry: Registry, kind: str, events: Sequence[Event], *, allow_contradicted: bool = False
) -> tuple[Event, ...]:
    """Return the events of an execution as they may be stated. No file is hashed here.

    Raises: VerificationError with the code of the first false one (`weights-mismatch`, `weights-changed`,
    `wrong-base`), unless `allow_contradicted`: then each comes back as `contradicted`, with its code.
    """
    versions = {event.artifact: _known(registry, event.artifact) for event in events}
    registered = {name: version.weights for name, version in versions.items() if version is not None}
    false = [fault for fault in check_events(kind, events, registered) if fault.false]
    false += _wrong_bases(registry, events, versions)
    if false and not allow_contradicted:
        first = false[0]
        raise VerificationError(
            first.code, first.message, got=first.event and first.event.weights,
            expected=first.event and registered.get(first.event.artifact),
            hint="say what is true, or keep the record as contradicted: --allow-contradicted",
        )  # fmt: skip
    codes = {id(fault.event): fault.code for fault in false}
    return tuple(_contradicted(event, codes[id(event)]) if id(event) in codes else event for event in events)


def _contradicted(event: Event, code: str) -> Event:
    return Event(
        artifact=event.artifact, direction=event.direction, role=event.role, state=State.CONTRADICTED,
        weights=event.weights, path=event.path, facts=event.facts, code=code,
    )  # fmt: skip


def _known(registry: Registry, identifier: str) -> Version | None:
    try:
        return registry.resolve(identifier)
    except MissingError:
        return None


def _wrong_bases(registry: Registry, events: Sequence[Event], versions: dict[str, Version | None]) -> list[Fault]:
    """Return the bases that an adapter, which came out, does not fit by the names and shapes on record."""
    faults = []
    bases = [event for event in events if event.direction == "in" and event.role == "base"]
    for event in events:
        version = versions[event.artifact]
        if event.direction != "out" or version is None or version.kind != "adapter":
            continue
        try:
            faults += [fault for base in bases if (fault := _misfit(registry, version, base, versions[base.artifact]))]
        except (GenealogError, OSError, ValueError):  # not an adapter that is known here: nothing is false
            continue
    return faults


def _misfit(registry: Registry, adapter: Version, base: Event, known: Version | None) -> Fault | None:
    place = registry.home.location(adapter.id)
    tensors = tensors_of(registry, known) if known else ()
    if place is None or not tensors:
        return None
    lora = read_lora(json.loads((place / "adapter_config.json").read_bytes()), tensors_of(registry, adapter))
    wrong = misfits(lora, {entry.name: entry for entry in tensors})
    return Fault("wrong-base", f"the adapter does not fit: {few_names(wrong)}", "base", base, True) if wrong else None


def tensors_of(registry: Registry, version: Version) -> tuple[TensorEntry, ...]:
    """Return the tensor list on record of a version; of one without tensors, an empty one."""
    body = registry.statement(version.statement).body
    if not isinstance(body, records.Artifact) or body.weights is None:
        return ()
    return decode_tensors(registry.home.objects.get(body.weights.list.sha256))
