"""A re-run on record: an execution of its own, a report with the numbers, a finding on the run that was done again.

The report is what comes out, and never the model: what was made again is not what the model came from. A re-run in
another environment that gives something else contradicts nothing, and is said to be unchecked; nor does one whose
parameters were changed on purpose, of which there is a report and no finding.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from genealog.core import records
from genealog.core.canonical import Record, decimal, timestamp
from genealog.core.dsse import Signer
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.errors import MissingError
from genealog.registry import Registry, new_nonce
from genealog.reproducing.compare import Comparison, OutputResult

KIND = "reproduce"
_MOST = 40  # tensors with numbers in a report


def keep(registry: Registry, found: Comparison, *, signer: Signer) -> str:
    """Append the re-run to the log in one batch after its report; return the report's ID.

    Raises: as `Registry.append_all`.
    """
    now = timestamp(datetime.now(UTC))
    report = registry.add_record(
        _report(found, now), kind="report", name=f"reproduce:{found.subject[:17]}", signer=signer
    )
    start = records.Execution(
        kind=KIND, started_at=now, nonce=new_nonce(), name=found.verdict,
        environment=_known(registry, found.environment),
        parameters={name: new for name, (_, new) in found.changes.items()},
    )  # fmt: skip
    subjects = [e for e in found.outputs if found.subject in (e.recorded, found.execution)]
    ins = [records.Event(artifact=e.recorded, direction="in", role="subject", state=State.STATED) for e in subjects]
    made = records.Event(artifact=report.id, direction="out", role="report", state=State.STATED)
    end = records.ExecutionEnd(
        execution=record_id(start), ended_at=now, exit="failed" if found.verdict == "failed" else "succeeded",
        events=(*ins, made), measurements={"duration_s": f"{found.seconds:.3f}"},
    )  # fmt: skip
    batch: list[tuple[Record, str, str | None]] = [(start, KIND, None), (end, KIND, None)]
    batch += [(body, KIND, None) for each in subjects if (body := _finding(found, each, now)) is not None]
    registry.append_all(batch, signer=signer)
    return report.id


def _known(registry: Registry, environment: str | None) -> str | None:
    try:
        return registry.resolve(environment).id if environment else None
    except MissingError:
        return None


@dataclass(frozen=True, slots=True)
class _Judged:
    state: State
    code: str | None
    detail: str


def _finding(found: Comparison, each: OutputResult, now: str) -> records.Finding | None:
    if found.changes or found.verdict == "failed":
        return None
    worst, judged = each.worst, _Judged(State.PROVEN, None, each.verdict)
    if each.verdict == "within-tolerance":
        off = f": {worst.name} is off by {worst.max_abs:.3g}" if worst else ""
        judged = _Judged(State.INFERRED, None, f"within tolerance{off}")
    elif each.verdict in ("different", "failed"):
        why = found.first[0] if found.first else "other bytes came out"
        if found.same_environment:
            judged = _Judged(State.CONTRADICTED, "rerun-differs", why)
        else:
            judged = _Judged(State.UNCHECKED, "environment-differs", why)
    return records.Finding(
        execution=found.execution, artifact=each.recorded, direction="out", role=each.role,
        method="re-run", at=now, state=judged.state, code=judged.code, detail=judged.detail[:300],
        tools={"python": platform.python_version()},
    )  # fmt: skip


def _report(found: Comparison, now: str) -> dict[str, Any]:
    return {
        "kind": "reproduction", "at": now, "execution": found.execution, "verdict": found.verdict,
        "first": [line[:300] for line in found.first[:20]],
        "changes": [{"name": name, "from": old, "to": new} for name, (old, new) in sorted(found.changes.items())],
        "environment": {
            "id": found.environment or "unknown", "same": found.same_environment,
            "differences": [line[:200] for line in found.differences[:40]],
        },
        "outputs": [
            {
                "role": each.role, "recorded": each.recorded, "made": each.made or "nothing", "verdict": each.verdict,
                "differing": len(each.tensors), "compared": each.compared,
                "tensors": [_numbers(tensor) for tensor in each.tensors[:_MOST]],
            }
            for each in found.outputs
        ],
    }  # fmt: skip


def _numbers(tensor: Any) -> dict[str, Any]:
    """Return the numbers of a tensor as exact texts: no floats stand in signed bytes."""
    found: dict[str, Any] = {"name": tensor.name, "within": tensor.within}
    for name in ("max_abs", "max_rel"):
        if (value := getattr(tensor, name)) is not None:
            found[name] = decimal(value)
    for name in ("max_ulps", "changed"):
        if (value := getattr(tensor, name)) is not None:
            found[name] = str(value)
    return found | ({"note": tensor.note[:200]} if tensor.note else {})
