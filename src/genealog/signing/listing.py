"""Every signature of a version: statements of our identities, and kept bundles of other formats, each with its state.

A statement in the log is `stated` by its signer; one whose key was revoked in time for it, or does not verify, says
why. A kept bundle is verified again, now, against the manifest and whom `genealog.toml` trusts: no file is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from genealog.core import records
from genealog.core.standing import COMPROMISED
from genealog.core.statement import artifact_of, read_statement
from genealog.core.states import State
from genealog.errors import GenealogError
from genealog.ledger import Position
from genealog.registry import Registry, Version
from genealog.signing.believe import believed_by, registered
from genealog.signing.examine import judge_bundle, judge_manifest
from genealog.store import schema
from genealog.store.home import REGISTRY

_UNSETTLED = frozenset({"key-compromise-unclear"})


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature under a version: how it is made, by whom, and what it is worth now."""

    format: str  # genealog, oms
    method: str
    signer: str
    state: State
    entry: str
    code: str | None = None
    detail: str | None = None


def signatures_of(registry: Registry, version: Version) -> tuple[Signature, ...]:
    """Return every signature of `version` that the registry log holds, in log order."""
    index, entry = registry.ledger.index(REGISTRY), schema.entry
    own = select(entry).where(entry.c.predicate == records.TYPES[records.Artifact], entry.c.name == version.name)
    rows = {row["id"]: row for row in index.rows(own)}
    first = index.first(select(entry).where(entry.c.id == version.index))
    rows |= {first["id"]: first} if first else {}
    foreign = select(schema.signature.c.id).join(
        schema.artifact, schema.artifact.c.id == schema.signature.c.artifact
    ).where(schema.artifact.c.digest == version.id)  # fmt: skip
    kept = {row["id"] for row in index.rows(foreign)}
    found = [(number, _own(registry, row, version)) for number, row in rows.items()]
    found += [(number, _kept(registry, number, version)) for number in kept]
    return tuple(each for _, each in sorted(found, key=lambda pair: pair[0]) if each is not None)


def short(signer: str) -> str:
    """Return whom a signature names, a key by its first digits."""
    return signer[:16] if signer.startswith("key ") else signer


def unvouched(registry: Registry, keyid: str) -> tuple[str, ...]:
    """Return the registry entries that a key signed and that count no longer since it was revoked with a time."""
    entry = schema.entry
    query = select(entry.c.id).where(entry.c.keyid.like(f"{keyid}%"), entry.c.problem.in_(COMPROMISED))
    rows = registry.ledger.index(REGISTRY).rows(query.order_by(entry.c.id))
    return tuple(f"{REGISTRY}:{row['id']}" for row in rows)


def _own(registry: Registry, row: dict[str, object], version: Version) -> Signature | None:
    data = registry.ledger.entry(Position(REGISTRY, int(str(row["id"])), str(row["leaf"])))
    try:
        read = read_statement(data)
    except GenealogError:
        return None
    if not isinstance(read.body, records.Artifact) or artifact_of(read) != version.id:
        return None
    key = registry.keys().get(read.keyids[0])
    problem = None if row["problem"] is None else str(row["problem"])
    who = f"{key.identity} ({key.keyid[:12]})" if key is not None else f"key {read.keyids[0][:12]}"
    state = State.STATED if problem is None else State.UNCHECKED if problem in _UNSETTLED else State.CONTRADICTED
    detail = None
    if problem is None and key is not None and key.revoked is not None:
        detail = f"its key was revoked later: {key.revoked}"
    return Signature("genealog", "key", who, state, f"{REGISTRY}:{row['id']}", problem, detail)


def _kept(registry: Registry, number: int, version: Version) -> Signature | None:
    home = registry.home
    body = read_statement(home.log(REGISTRY).entry(number)).body
    if not isinstance(body, records.Signature):
        return None
    where = f"{REGISTRY}:{number}"
    try:
        data = home.objects.get(body.bundle.sha256)
        believed = (*registered(registry.keys()), *believed_by(home.config, home.path))
        verdict, signed = judge_bundle(data, believed, at=datetime.now(UTC))
        differs = judge_manifest(signed, registry.manifest(version).files) if signed is not None else None
    except GenealogError as error:
        return Signature(body.format, body.method, body.signer, State.UNCHECKED, where, error.code, error.message)
    who = f"{body.signer}: {short(verdict.signer)}" if body.signer not in verdict.signer else verdict.signer
    if verdict.state is State.CONTRADICTED or signed is None:
        return Signature(body.format, body.method, who, verdict.state, where, verdict.code, verdict.detail)
    if differs is not None and (differs.changed or differs.missing or differs.added):
        what = ", ".join((*differs.changed, *differs.missing, *differs.added))[:200]
        return Signature(body.format, body.method, who, State.CONTRADICTED, where, "files-differ", what)
    if differs is None:
        what = "it signs digests that the manifest does not have: verify the files"
        return Signature(body.format, body.method, who, State.UNCHECKED, where, "files-not-compared", what)
    return Signature(body.format, body.method, who, verdict.state, where, verdict.code, verdict.detail)
