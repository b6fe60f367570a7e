"""Which artifacts came out of something that is contradicted: by an event, or by what somebody found.

A finding about an input is about everything that came out of that execution; one about an output, about that one.
"""

from __future__ import annotations

from sqlalchemy import select, union_all

from genealog.store import schema
from genealog.store.index import Index


def contradicted(index: Index) -> dict[str, str]:
    """Return artifact ID → code, the first on record, of everything whose making is contradicted."""
    event, finding, artifact = schema.event, schema.finding, schema.artifact
    false = union_all(
        *(
            select(table.c.execution, table.c.artifact, table.c.direction, table.c.code, table.c.id).where(
                table.c.state == "contradicted"
            )
            for table in (event, finding)
        )
    ).subquery()
    made = select(event.c.execution, event.c.artifact).where(event.c.direction == "out").subquery()
    query = (
        select(artifact.c.digest, false.c.code)
        .join(made, made.c.execution == false.c.execution)
        .join(artifact, artifact.c.id == made.c.artifact)
        .where((false.c.direction == "in") | (false.c.artifact == made.c.artifact))
        .order_by(false.c.id)
    )
    found: dict[str, str] = {}
    for row in index.rows(query):
        found.setdefault(row["digest"], row["code"] or "contradicted")
    return found
