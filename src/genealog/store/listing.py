"""Queries that list much at once: one select each, which looks every row's neighbours up in an index.

What a list costs grows with the rows that it shows, and not with what is registered.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, func, select

from genealog.store import schema


def versions(*, limit: int | None = None) -> Select[Any]:
    """Select registered artifacts, the newest first: their columns, and what a `registry.Version` has beside them.

    `statement` and `made` are leaf hashes: of the artifact's statement, and of the last end of a run that made it (of
    one that goes on, of the first word of it), else NULL. `revoked` is the reason, and `revocation` the entry.
    """
    artifact, event, execution, ref = schema.artifact, schema.event, schema.execution, schema.ref
    end = (
        select(func.max(execution.c.end))
        .select_from(event.join(execution, execution.c.id == event.c.execution))
        .where(event.c.dst == artifact.c.id)
        .scalar_subquery()
    )
    word = select(func.min(event.c.id)).where(event.c.dst == artifact.c.id).scalar_subquery()
    revocation = (
        select(func.max(ref.c.id)).where(ref.c.name == artifact.c.digest, ref.c.kind == "revocation").scalar_subquery()
    )
    rows = (
        select(
            artifact, func.coalesce(end, word // (1 << schema.EVENT_BITS)).label("making"),
            revocation.label("revocation"),
        )
        .where(artifact.c.entry.is_not(None))
        .order_by(artifact.c.entry.desc())
        .limit(limit)
        .subquery()
    )  # fmt: skip
    stated, made, revoked = schema.entry.alias("stated"), schema.entry.alias("made"), ref.alias("revoked")
    return (
        select(rows, stated.c.leaf.label("statement"), made.c.leaf.label("made"), revoked.c.reason.label("revoked"))
        .select_from(
            rows.join(stated, stated.c.id == rows.c.entry)
            .outerjoin(made, made.c.id == rows.c.making)
            .outerjoin(revoked, and_(revoked.c.id == rows.c.revocation, revoked.c.kind == "revocation"))
        )
        .order_by(rows.c.entry.desc())
    )
