"""One exchange: what the sealed groups of a call prove of its answer, its prompt, and the engine that signed it.

A group counts only if it opens the seal that the call carries. Everything else here compares digests, and checks one
signature: that of the engine over (call, load statement, request, response, report). `core.chain` draws the hops.
"""

from __future__ import annotations

from dataclasses import dataclass

from genealog.core import records
from genealog.core.bundle import Evidence
from genealog.core.call import CallLeaf
from genealog.core.call_groups import (
    EngineGroup,
    RequestGroup,
    ResponseGroup,
    RetrievalGroup,
    UsageGroup,
    WhoGroup,
)
from genealog.core.canonical import Record, decode, parse_timestamp
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.ids import seal, sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, EngineSignature
from genealog.core.states import State
from genealog.errors import GenealogError

Verdict = tuple[State, str | None]  # and the code that says why it is not better

_GROUPS: dict[str, type[Record]] = {
    "engine": EngineGroup, "request": RequestGroup, "response": ResponseGroup,
    "retrieval": RetrievalGroup, "usage": UsageGroup, "who": WhoGroup,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups that a chain reads, where the bundle shows them, and what is wrong with any that it shows."""

    engine: EngineGroup | None
    request: RequestGroup | None
    response: ResponseGroup | None
    problem: str | None


def open_groups(evidence: Evidence, call: CallLeaf) -> Groups:
    """Check every group that a bundle shows against its seal in the call."""
    opened: dict[str, Record] = {}
    problem = None
    for name, group in sorted(evidence.groups.items()):
        body = unb64(group.body)
        if name not in _GROUPS:
            problem = "unknown-group"
        elif seal(bytes.fromhex(group.salt), body) != getattr(call.seals, name):
            problem = "seal-mismatch"
        else:
            try:
                opened[name] = decode(body, _GROUPS[name])
            except GenealogError:
                problem = "group-malformed"
    engine, request, response = (opened.get(name) for name in ("engine", "request", "response"))
    return Groups(engine, request, response, problem)  # type: ignore[arg-type]


def judge_output(
    call: CallLeaf, response: ResponseGroup | None, body: bytes | None, output: bytes | None
) -> tuple[Verdict, str]:
    """Compare the body in a bundle, and the output that somebody holds, with what the call says. Adds a detail."""
    refused = call.finish == "refused"
    if response is None or response.wire is None:
        if call.finish == "unknown" or response is not None:
            return (State.MISSING, "end-not-seen"), "nobody saw how the call ended"
        if refused and body is None and output is None:
            return (State.PROVEN, None), "the call says so"
        return (State.UNCHECKED, "response-sealed"), "its digests are sealed here"
    bodies = (response.wire, response.delivered.sha256 if response.delivered else response.wire)
    if output is not None and sha256_hex(output) not in (*bodies, *response.text):
        return (State.CONTRADICTED, "output-mismatch"), "not what this call answered"
    if body is not None and sha256_hex(body) not in bodies:
        return (State.CONTRADICTED, "output-mismatch"), "the body was altered"
    if refused:
        return (State.PROVEN, None), response.error or "the call says so"
    if body is None and output is None:
        return (State.UNCHECKED, "output-not-included"), "give it with --output"
    return (State.PROVEN, None), "its digest stands in the call"


def judge_prompt(request: RequestGroup | None, body: bytes) -> Verdict:
    """Compare the request body in a bundle with what the call says."""
    if request is None:
        return State.UNCHECKED, "request-sealed"
    return (State.PROVEN, None) if sha256_hex(body) == request.wire else (State.CONTRADICTED, "request-mismatch")


def judge_engine(
    call: CallLeaf, groups: Groups, leaf: str, load: records.Load, target: records.Target,
    key: records.Key, revoked: records.Key | None,
) -> Verdict:  # fmt: skip
    """Check the signature of `key` over this exchange under the load statement `leaf`, and what was loaded.

    `revoked` is the revocation of `key`, if there is one: it may come after the call.
    """
    engine, request, response = groups.engine, groups.request, groups.response
    if engine is None or request is None or response is None:
        return State.UNCHECKED, "response-sealed" if request else "request-sealed"
    try:
        public = {key.keyid: unb64(str(key.public))}
        payload, _ = verify_envelope(unb64(str(engine.envelope)), public, ENGINE_SIGNATURE)
        signed = decode(payload, EngineSignature)
        ended = [parse_timestamp(each) for each in (revoked.at, revoked.since) if each] if revoked else []
        late = bool(ended) and min(ended) <= parse_timestamp(call.called_at)
    except GenealogError as error:
        names = {"signature-invalid": "engine-signature-invalid", "signer-unknown": "engine-signer-unknown"}
        return State.CONTRADICTED, names.get(error.code, error.code)
    exchange = (call.call, leaf, request.wire, response.wire, engine.report)
    if (signed.call, signed.load, signed.request, signed.response, signed.report) != exchange:
        return State.CONTRADICTED, "engine-signature-mismatch"
    if late:
        return State.CONTRADICTED, "engine-key-revoked"
    pairs = zip((target.model, *target.adapters), load.loaded, strict=False)
    if load.models != call.models or any(pin.weights not in (None, loaded.weights) for pin, loaded in pairs):
        return State.CONTRADICTED, "load-not-spec"
    return (State.UNCHECKED, "attestation-unchecked") if call.assurance > "A3" else (State.STATED, None)
