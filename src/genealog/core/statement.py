"""in-toto Statements v1 over our records: the payload of every registry entry.

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": text, "digest": {"glf1" | "glw1" | "glr1" | "sha256": hex}}],
     "predicateType": "urn:genealog:<name>:v1", "predicate": {...}}

Source: in-toto/attestation spec/v1 (statement.md, digest_set.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from genealog.core import records
from genealog.core.canonical import Record, decode, encode, parse_timestamp
from genealog.core.dsse import Signer, keyid_of, open_envelope, sign_envelope, unb64
from genealog.core.ids import digest_set, parse_id, record_id
from genealog.errors import MalformedError, VerificationError

STATEMENT = "https://in-toto.io/Statement/v1"
_ARTIFACT = ("glf1", "glr1")
_WEIGHTS = ("glw1",)
_RECORD = ("glr1",)
_ABOUT: dict[type[Record], str] = {  # the field that names what a statement is about
    records.Signature: "artifact", records.Approval: "spec", records.Ref: "to", records.Drift: "version",
    records.Assessment: "artifact",
}  # fmt: skip
_FIELDS: dict[type[Record], tuple[tuple[str, tuple[str, ...]], ...]] = {  # fields that hold one ID, and its kinds
    records.Execution: (("code", _ARTIFACT), ("environment", _ARTIFACT)),
    records.Finding: (("execution", _RECORD), ("artifact", _ARTIFACT)),
    records.Signature: (("artifact", _ARTIFACT),),
    records.Approval: (("spec", _ARTIFACT),),
    records.Assessment: (("artifact", _ARTIFACT),),
    records.Decision: (("policy", _ARTIFACT),),
    records.Drift: (("version", _RECORD), ("spec", _RECORD), ("previous", _RECORD)),
}


class Subject(Record):
    """What a statement is about."""

    name: str
    digest: dict[str, str]


class Statement(Record, rename={"type_": "_type"}):
    """The wire form. `predicate` is read by `read_statement` as the record that `predicateType` names."""

    predicate: dict[str, Any]
    predicateType: str  # noqa: N815 - the wire name
    subject: tuple[Subject, ...]
    type_: str


@dataclass(frozen=True, slots=True)
class Read:
    """A statement as read from an envelope: nothing about it is verified yet."""

    body: Record
    subjects: tuple[Subject, ...]
    keyids: tuple[str, ...]
    envelope: bytes


def subjects_of(body: Record, name: str, artifact: str | None = None) -> tuple[Subject, ...]:
    """Return the subjects that a body of ours is stated over. `artifact` is the ID for an artifact with files."""
    match body:
        case records.Artifact():
            digest = digest_set(artifact or record_id(body.body))
            if body.weights:
                digest |= digest_set(body.weights.id)
            return (Subject(name=name, digest=digest),)
        case records.Execution() | records.ServingSpec() | records.Context():
            return (Subject(name=name, digest=digest_set(record_id(body))),)
        case records.ExecutionEnd() | records.ExecutionEvents():
            return (Subject(name=name, digest=digest_set(body.execution)), *_came_out(body.events))
        case records.Finding():
            digest = digest_set(body.execution)
            return (Subject(name=name, digest=digest), Subject(name=body.role, digest=digest_set(body.artifact)))
        case records.Signature() | records.Approval() | records.Ref() | records.Drift() | records.Assessment():
            return (Subject(name=name, digest=digest_set(getattr(body, _ABOUT[type(body)]))),)
        case records.Load():
            return tuple(
                Subject(name=i.role, digest=digest_set(i.artifact) | digest_set(i.weights)) for i in body.loaded
            )
        case records.Key():
            return (Subject(name=name, digest={"sha256": body.keyid}),)
        case _:
            return (Subject(name=name, digest=digest_set(record_id(body))),)


def _came_out(events: tuple[records.Event, ...]) -> tuple[Subject, ...]:
    return tuple(Subject(name=e.role, digest=digest_set(e.artifact)) for e in events if e.direction == "out")


def make_statement(body: Record, signer: Signer, *, name: str, artifact: str | None = None) -> bytes:
    """Return the signed envelope (an entry's bytes) that states `body`.

    Raises: MalformedError `entry-too-big` beyond 65,535 bytes; `bad-id`, `key-mismatch`, `subject-mismatch` as
    `read_statement`, so that nobody signs what nobody reads.
    """
    _check_body(body, artifact)
    statement = Statement(
        type_=STATEMENT,
        subject=subjects_of(body, name, artifact),
        predicateType=records.TYPES[type(body)],
        predicate=msgspec.to_builtins(body),
    )
    envelope = sign_envelope(encode(statement), signer)
    if len(envelope) > 65_535:
        raise MalformedError(
            "entry-too-big",
            f"a statement of {len(envelope)} bytes",
            expected="≤ 65,535",
            hint="register large bodies as artifacts and name them by ID",
        )
    return envelope


def read_statement(envelope: bytes) -> Read:
    """Read one of our envelopes, verifying no signature.

    Checks that the subjects are those that the body calls for: a statement cannot be about one thing and name another.
    Raises: MalformedError `unknown-predicate`, `subject-mismatch`, `bad-id` (an ID of the wrong kind), `key-mismatch`
    (a key ID that is not the one of the key shown), or those of `decode` and `open_envelope`.
    """
    payload, signatures = open_envelope(envelope)
    statement = decode(payload, Statement)
    kind = records.PREDICATES.get(statement.predicateType)
    if kind is None or statement.type_ != STATEMENT:
        raise MalformedError("unknown-predicate", "a statement of a type unknown here", got=statement.predicateType)
    body = decode(encode(statement.predicate), kind)
    name = statement.subject[0].name if statement.subject else ""
    artifact = None
    if isinstance(body, records.Artifact) and statement.subject and "glf1" in statement.subject[0].digest:
        artifact = "glf1:" + statement.subject[0].digest["glf1"]
    _check_body(body, artifact)
    if statement.subject != subjects_of(body, name, artifact):
        raise MalformedError("subject-mismatch", "the subject is not what the predicate is about", got=name)
    return Read(
        body=body, subjects=statement.subject, keyids=tuple(keyid for keyid, _ in signatures), envelope=envelope
    )


def check_role(body: Record, *, role: str, keyid: str) -> None:
    """Check that a key of this role may state `body`. Raises: VerificationError `role-not-allowed`."""
    if isinstance(body, records.Key) and role != "owner":
        problem = "only an owner vouches for keys"
    elif role == "log":
        problem = "the key of a log signs checkpoints, and no statement"
    elif role == "engine" and not isinstance(body, records.Load | records.Decision):
        problem = "an engine may state loads and decisions, and nothing else"
    elif isinstance(body, records.Load) and (role != "engine" or keyid != body.keyid):
        problem = "a load statement is signed by the engine's own key"
    else:
        return
    raise VerificationError("role-not-allowed", problem, got=role)


def artifact_of(read: Read) -> str:
    """Return the artifact ID (glf1 or glr1) that an artifact statement is about."""
    digest = read.subjects[0].digest
    return f"glf1:{digest['glf1']}" if "glf1" in digest else f"glr1:{digest['glr1']}"


def _check_body(body: Record, artifact: str | None) -> None:
    for identifier, kinds in _ids(body):
        if identifier is not None and parse_id(identifier)[0] not in kinds:
            raise MalformedError("bad-id", "an ID of another kind", got=identifier, expected=" or ".join(kinds))
    match body:
        case records.Artifact() if (artifact is None) is (body.body is None):
            raise MalformedError("subject-mismatch", "an artifact has either files or a body")
        case records.Load(loaded=()):
            raise MalformedError("subject-mismatch", "a load statement names what was loaded")
        case records.Key(action="add") if body.public is None or keyid_of(unb64(body.public)) != body.keyid:
            raise MalformedError("key-mismatch", "a key ID is the SHA-256 of its public key", got=body.keyid)
        case records.Key(since=str() as since):
            parse_timestamp(since)
        case records.Drift() if body.version != record_id(body.body):
            raise MalformedError("subject-mismatch", "an external model's ID is the hash of its body", got=body.version)


def _ids(body: Record) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Yield every ID in a body, and the kinds that it may have there."""
    yield from ((getattr(body, name), kinds) for name, kinds in _FIELDS.get(type(body), ()))
    match body:
        case records.Artifact():
            yield body.weights.id if body.weights else None, _WEIGHTS
            yield body.records.root if body.records else None, ("gld1",)
        case records.ExecutionEnd() | records.ExecutionEvents():
            yield body.execution, _RECORD
            for event in body.events:
                yield from ((event.artifact, _ARTIFACT), (event.weights, _WEIGHTS))
        case records.Incident():
            yield from ((spec, _RECORD) for spec in body.specs)
            yield from ((artifact, _ARTIFACT) for artifact in body.artifacts)
        case records.ServingSpec():
            for target in body.targets:
                for pinned in (target.model, *target.adapters):
                    yield from ((pinned.artifact, _ARTIFACT), (pinned.weights, _WEIGHTS))
        case records.Load():
            for item in body.loaded:
                yield from ((item.artifact, _ARTIFACT), (item.weights, _WEIGHTS))
