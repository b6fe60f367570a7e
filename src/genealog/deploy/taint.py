"""Taint: what descends from a revoked version is flagged, wherever it is shown.

A flag, not a revocation: whether a fine-tune of a bad base is bad is for people to say. What is tainted is deployed
only with a reason; what serves already goes on, and is shown as tainted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select

from genealog.policy.model_facts import revocations
from genealog.store import schema
from genealog.store.index import Index
from genealog.store.lineage import Walk


@dataclass(frozen=True, slots=True)
class Taint:
    """`artifact` descends from `ancestor`, which was revoked."""

    artifact: str
    ancestor: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"descends from {self.name}, which was revoked: {self.reason}"


def taints_of(index: Index, artifact: str, revoked: dict[str, str]) -> tuple[Taint, ...]:
    """Return the revoked ancestors of an artifact, itself not among them, in the order of their revocation."""
    if not revoked:
        return ()
    table = schema.artifact
    found = {
        row["digest"]: row["name"]
        for row in index.rows(select(table.c.digest, table.c.name).where(table.c.id.in_(_closure((artifact,), "in"))))
    }
    return tuple(
        Taint(artifact, ancestor, found[ancestor] or ancestor, reason)
        for ancestor, reason in revoked.items()
        if ancestor in found and ancestor != artifact
    )


def tainted(index: Index) -> dict[str, Taint]:
    """Return everything that descends from a revoked version, with the first of those that it descends from."""
    table, found = schema.artifact, dict[str, Taint]()
    for ancestor, reason in revocations(index).items():
        rows = index.rows(select(table.c.digest, table.c.name).where(table.c.id.in_(_closure((ancestor,), "out"))))
        name = next((row["name"] for row in rows if row["digest"] == ancestor), None) or ancestor
        for row in rows:
            if row["digest"] != ancestor:
                found.setdefault(row["digest"], Taint(row["digest"], ancestor, name, reason))
    return found


def revoked_among(found: Walk, at: int | None = None) -> list[tuple[str, str, str]]:
    """Return (ID, name, reason) of every revoked artifact that a walk reached; of those, as of registry entry `at`."""
    artifact, ref = schema.artifact, schema.ref
    query = (
        select(artifact.c.digest, artifact.c.name, ref.c.reason)
        .join(ref, ref.c.name == artifact.c.digest)
        .where(ref.c.kind == "revocation", artifact.c.id.in_(found.artifacts))
        .order_by(ref.c.id)
    )
    rows = found.rows(query if at is None else query.where(ref.c.id <= at))
    known = {row["digest"]: (row["name"] or row["digest"], row["reason"] or "revoked") for row in rows}
    return [(digest, name, reason) for digest, (name, reason) in known.items()]


def _closure(roots: Iterable[str], further: str) -> Any:
    """Select the keys of `roots` and of all that they came from (`in`) or of all that came of them (`out`)."""
    near, far, table = schema.event.alias("near"), schema.event.alias("far"), schema.artifact
    reached = select(table.c.id).where(table.c.digest.in_(list(roots))).cte("reached", recursive=True)
    step = (
        select(far.c.artifact)
        .select_from(reached)
        .join(near, and_(near.c.artifact == reached.c.id, near.c.direction != further))
        .join(far, and_(far.c.execution == near.c.execution, far.c.direction == further))
    )
    return select(reached.union(step).c.id)
