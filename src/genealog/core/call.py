"""A call in the log: one leaf in clear, and six sealed groups that its owner can show one by one.

The leaf says which emitter saw the call when, which models it resolved to and how it ended; of everything else it has
only commitments: seal = SHA-256(tag ‖ salt ‖ canonical group). Handing over salt and group opens one group, erasing
them closes it for good, and no proof notices. A group is never absent: an empty one is `{}`, so that the leaf does
not tell whether something was there.

`seal_call` joins the two frames of a call with what a dialect read in its bodies. Emitters number and chain their
calls; `core.emitters` finds what is missing.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, convert

from genealog.core.call_groups import (
    Digest,
    EngineGroup,
    Hex,
    Prefix,
    RequestFacts,
    RequestGroup,
    ResponseFacts,
    ResponseGroup,
    RetrievalGroup,
    Spec,
    Time,
    Ulid,
    UsageGroup,
    WhoGroup,
)
from genealog.core.canonical import MAX_INTEGER, Record, encode, encode_typed, timestamp
from genealog.core.frames import SALT, Assurance, Durability, Finish, Intent, Outcome
from genealog.core.ids import record_id, seal, sha256_hex
from genealog.core.records import EngineReport, ExternalModel

GROUPS = ("engine", "request", "response", "retrieval", "usage", "who")
_CALL_LOG = re.compile(r"calls(?:-[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?)?(?:_[1-9][0-9]{0,5})?")
MAX_MODELS = 256  # a leaf has at most 65,535 bytes; this many IDs leave room for everything else

Emitter = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
Boot = Annotated[str, Meta(pattern=r"^[0-9]{8}-[0-9a-f]{8}\Z")]
Model = Annotated[str, Meta(pattern=r"^gl[fr]1:[0-9a-f]{64}\Z")]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SHIFTS = tuple(range(120, -1, -10))
_PAIRS = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)


class Seals(Record):
    """The commitments to the six groups, hex SHA-256 each."""

    engine: Hex
    request: Hex
    response: Hex
    retrieval: Hex
    usage: Hex
    who: Hex


class CallLeaf(Record, tag_field="t", tag="genealog/call/v1"):
    """One inference call, as it stands in the call log.

    `seq` counts the calls of one emitter and boot from 1, without holes, in the order they began; leaves come in the
    order they ended. `prev` is the hex leaf hash of the emitter's leaf before, over all its boots. A call that was
    closed as `unknown` has no `ended_at`: nobody saw its end.
    """

    call: Ulid
    emitter: Emitter
    boot: Boot
    seq: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    assurance: Assurance
    durability: Durability
    finish: Finish
    called_at: Time
    seals: Seals
    ended_at: Time | None = None
    prev: Hex | None = None
    spec: Spec | None = None
    models: tuple[Model, ...] = ()


Pricing = Callable[[Intent, Outcome | None, str | None, UsageGroup], UsageGroup]

_NOTHING = encode(RetrievalGroup())


@dataclass(frozen=True, slots=True)
class SealedCall:
    """A leaf, and what its seals commit to: group name → (salt, canonical bytes)."""

    leaf: CallLeaf
    groups: Mapping[str, tuple[bytes, bytes]]


def is_call_log(name: str) -> bool:
    """Say whether a log of this name holds calls: `calls`, `calls-2026-11`, `calls-NODE`, and `…_2` if it was taken."""
    return bool(_CALL_LOG.fullmatch(name))


def call_id(milliseconds: int, entropy: bytes) -> str:
    """Return a ULID: 48 bits of Unix time, 80 random bits, in Crockford's base 32. Source: github.com/ulid/spec."""
    value = milliseconds << 80 | int.from_bytes(entropy)
    return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def without_evidence(bound: Assurance) -> Assurance:
    """Return the level that a call keeps whose answer came without the engine's signature: at most A2."""
    return min("A2", bound)


def seal_call(
    intent: Intent,
    outcome: Outcome | None,
    *,
    emitter: str,
    boot: str,
    prev: bytes | None,
    asked: RequestFacts,
    answered: ResponseFacts,
    report: EngineReport | None,
    price: Pricing | None = None,
    seen: bytes = b"",
) -> SealedCall:
    """Join what is known of a call into its leaf and groups. Without an outcome the call ends as `unknown`, and `seen`
    is what came from upstream until then. A body stands in its frame as a whole, or the outcome says what it was.

    `price` fills the cost into its usage (`core.pricing`), for the model that was reported, else the one that the
    upstream was asked for.

    The same arguments give the same bytes: a call that is sealed twice because of a crash is the same call.
    """
    texts = intent.capture != "none"
    usage = _usage(asked, outcome, answered, report)
    if price is not None:
        named = intent.served_as or asked.parameters.get("model")
        usage = price(intent, outcome, answered.model or (named if isinstance(named, str) else None), usage)
    groups = {
        "engine": _engine(intent, outcome, answered, report),
        "request": _request(intent, outcome, asked, report, texts=texts),
        "response": _response(outcome, answered, report, texts=texts) if outcome else _broken_off(seen),
        "usage": usage,
    }
    numbers = (intent.seq, intent.attempt, intent.target, outcome.status or 0 if outcome else 0)
    spell = encode_typed if min(numbers) >= -MAX_INTEGER and max(numbers) <= MAX_INTEGER else encode
    bodies = {name: spell(group) for name, group in groups.items()}
    bodies["retrieval"] = _NOTHING
    bodies["who"] = _who(tuple(sorted(intent.who.items())))
    opened = {name: (intent.salts[at * SALT : (at + 1) * SALT], bodies[name]) for at, name in enumerate(GROUPS)}
    leaf = CallLeaf(
        call=intent.call,
        emitter=emitter,
        boot=boot,
        seq=intent.seq,
        assurance=outcome.assurance if outcome else without_evidence(intent.bound),
        durability=intent.durability,
        finish=outcome.finish if outcome else "unknown",
        called_at=timestamp(intent.called_at),
        ended_at=timestamp(outcome.ended_at) if outcome else None,
        seals=Seals(**{name: seal(salt, body) for name, (salt, body) in opened.items()}),
        prev=prev.hex() if prev else None,
        spec=intent.spec,
        models=intent.models,
    )
    return SealedCall(leaf, opened)


@lru_cache(maxsize=1024)
def _who(items: tuple[tuple[str, str], ...]) -> bytes:
    """Return the canonical group; few callers make many calls."""
    return encode(convert({name: value for name, value in items if name != "subject"}, WhoGroup))


def _request(
    intent: Intent, outcome: Outcome | None, asked: RequestFacts, report: EngineReport | None, *, texts: bool
) -> RequestGroup:
    parameters = asked.parameters
    whole = outcome.request if outcome else None
    if not texts:  # a parameter behind a digest may be text, and a digest of a short text can be guessed
        parameters = {name: value for name, value in parameters.items() if not isinstance(value, Digest)}
    return RequestGroup(
        deployment=intent.deployment,
        dialect=intent.dialect,
        operation=intent.operation,
        size=whole.size if whole else len(intent.request),
        wire=whole.sha256 if whole else sha256_hex(intent.request),
        capture=intent.capture,
        headers=intent.headers,
        malformed=asked.malformed,
        parameters=dict(parameters),
        parts=asked.parts if texts else (),
        sampler=dict(report.sampler if report else asked.sampler),
        trace=intent.trace,
        attempt=intent.attempt if intent.attempt > 1 else None,
        changed=intent.changed,
        forwarded=intent.forwarded,
        policy=intent.policy,
        flags=intent.flags,
        waived=intent.waived,
    )


def _response(outcome: Outcome, answered: ResponseFacts, report: EngineReport | None, *, texts: bool) -> ResponseGroup:
    body, whole, delivered = outcome.response, outcome.whole, outcome.delivered
    size = whole.size if whole else len(body)
    reached = sha256_hex(body[:delivered]) if delivered < size and delivered <= len(body) else None
    tokens = struct.pack(f"<{len(report.tokens)}I", *report.tokens) if report and texts else None
    return ResponseGroup(
        content=sha256_hex(answered.content) if answered.content is not None and texts else None,
        content_encoding=outcome.content_encoding,
        content_type=outcome.content_type,
        delivered=Prefix(sha256=reached, size=delivered) if delivered < size else None,
        error=outcome.error or answered.error,
        finish_reason=answered.finish_reason,
        first_byte_at=timestamp(outcome.first_byte_at) if outcome.first_byte_at else None,
        headers=outcome.headers,
        malformed=answered.malformed,
        parts=answered.parts if texts else (),
        release=outcome.release,
        release_flags=outcome.release_flags,
        size=size,
        status=outcome.status,
        text=tuple(sha256_hex(text.encode()) for text in answered.texts) if texts else (),
        token_ids=sha256_hex(tokens) if tokens is not None else None,
        tokens=len(report.tokens) if report else None,
        wire=whole.sha256 if whole else sha256_hex(body),
    )


def _broken_off(seen: bytes) -> ResponseGroup:
    return ResponseGroup(size=len(seen), wire=sha256_hex(seen)) if seen else ResponseGroup()


def _usage(
    asked: RequestFacts, outcome: Outcome | None, answered: ResponseFacts, report: EngineReport | None
) -> UsageGroup:
    spoken = {} if asked.characters is None or answered.content is None else {"characters": asked.characters}
    if outcome and (answered.usage or spoken):
        source = "partial" if outcome.finish != "complete" else "provider" if answered.usage else "request"
        counts = {**(answered.usage or {}), **spoken, "tier": answered.tier, "source": source}
        return convert(counts, UsageGroup)
    if report:
        return UsageGroup(prompt_tokens=report.prompt_tokens, completion_tokens=len(report.tokens), source="engine")
    return UsageGroup()


def _reported(intent: Intent, answered: ResponseFacts) -> str | None:
    """Return the external model that an answer says it is from, where an external one was asked."""
    external = bool(intent.models) and intent.models[0].startswith("glr1:")
    if not external or intent.seller is None or answered.model is None:
        return None
    return record_id(ExternalModel(vendor=intent.seller, model=answered.model, fingerprint=answered.fingerprint))


def _engine(
    intent: Intent, outcome: Outcome | None, answered: ResponseFacts, report: EngineReport | None
) -> EngineGroup:
    evidence = outcome.engine if outcome else None
    return EngineGroup(
        bound=intent.bound,
        endpoint=outcome.endpoint if outcome else None,
        envelope=base64.b64encode(evidence.signature).decode() if evidence else None,
        fingerprint=answered.fingerprint,
        load=evidence.load if evidence else None,
        model=answered.model,
        numerics=dict(report.numerics) if report else {},
        report=sha256_hex(evidence.report) if evidence else None,
        seller=intent.seller,
        target=intent.target or None,
        version=_reported(intent, answered),
        signature=sha256_hex(evidence.signature) if evidence else None,
    )
