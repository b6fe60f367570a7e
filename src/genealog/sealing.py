"""From the frames of a call to its entry and to what the vault keeps of it. Pure: no spool, no log, no vault.

A body that came in pieces is put together again, up to 32 MiB, and gives the same leaf as the body in one would. Where
it is not all there, or too big, its frames say what it was as a whole (`Whole`), and nothing of it is kept or read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace as with_fields

from genealog.capture.dialects import read_intent, read_outcome
from genealog.core.call import Pricing, seal_call
from genealog.core.call_groups import NO_RESPONSE_FACTS, EngineGroup, Part, RequestFacts, ResponseFacts
from genealog.core.canonical import decode, encode_typed
from genealog.core.frames import MAX_BODY, Intent, Outcome, Piece, StreamedPart, Whole
from genealog.core.ids import sha256_hex
from genealog.core.records import EngineReport, ExternalModel
from genealog.errors import MalformedError
from genealog.store.vault import VaultCall, Which

NOT_KEPT = "body-not-kept"
Redact = Callable[[VaultCall, str, bytes | None, bytes], VaultCall]  # `genealog.redaction`


@dataclass(frozen=True, slots=True)
class Gathered:
    """The frames of a call with its bodies put together.

    `seen` is what came from upstream before a call broke off whose end nobody saw. A body that is not `kept` is empty
    in its frame: it was too big, or pieces of it are missing.
    """

    intent: Intent
    outcome: Outcome | None
    seen: bytes = b""
    request_kept: bool = True
    response_kept: bool = True

    @property
    def size(self) -> int:
        """Bytes of bodies."""
        return len(self.intent.request) + len(self.seen) + (len(self.outcome.response) if self.outcome else 0)


@dataclass(frozen=True, slots=True)
class Reported:
    """What the answer of one call says that it is from. `target` counts the targets of the spec, from 0."""

    deployment: str
    spec: str
    target: int
    body: ExternalModel
    call: str


def reported(call: Gathered, kept: VaultCall) -> Reported | None:
    """Return what a vendor's model says that it is; None for other models, and where it says nothing."""
    intent, body = call.intent, kept.groups["engine"][1]
    if intent.spec is None or b'"version":"' not in body:
        return None
    said = decode(body, EngineGroup)
    model = ExternalModel(vendor=said.seller or "", model=said.model or "", fingerprint=said.fingerprint)
    return Reported(intent.deployment, intent.spec, intent.target, model, intent.call)


def gather(intent: Intent, outcome: Outcome | None, pieces: Iterable[Piece]) -> Gathered:
    """Put the pieces of a call, in their order, into its bodies. Holds at most 32 MiB of each side."""
    request, response = _Body(intent.request), _Body(b"")
    for piece in pieces:
        (request if piece.side == "request" else response).add(piece)
    asked = request.joined(outcome.request if outcome is not None else None)
    if outcome is None:
        seen = response.joined(None)
        return Gathered(with_fields(intent, request=asked or b""), None, seen or b"", asked is not None)
    if outcome.whole is not None:
        response.end(outcome.response)
        answered = response.joined(outcome.whole)
    else:
        answered = outcome.response
    return Gathered(
        intent if asked is intent.request else with_fields(intent, request=asked or b""),
        outcome if answered is outcome.response else with_fields(outcome, response=answered or b""),
        request_kept=asked is not None,
        response_kept=answered is not None,
    )


class _Body:
    """One side of a call while it is put together."""

    def __init__(self, start: bytes) -> None:
        self._parts = [start]
        self._size = len(start)
        self._fits = True

    def add(self, piece: Piece) -> None:
        if piece.at != self._size:
            self._fits = False  # a piece is missing
        self.end(piece.data)

    def end(self, data: bytes) -> None:
        self._size += len(data)
        self._fits = self._fits and self._size <= MAX_BODY
        if self._fits:
            self._parts.append(data)
        else:
            self._parts.clear()

    def joined(self, whole: Whole | None) -> bytes | None:
        """Return the body, None if it is not all here."""
        if not self._fits or (whole is not None and not (whole.kept and whole.size == self._size)):
            return None
        data = b"".join(self._parts) if len(self._parts) != 1 else self._parts[0]
        return data if whole is None or sha256_hex(data) == whole.sha256 else None


def seal_gathered(
    call: Gathered,
    *,
    emitter: str,
    boot: str,
    prev: bytes | None,
    price: Pricing | None = None,
    redact: Redact | None = None,
) -> tuple[bytes, VaultCall]:
    """Return the log entry of a call, and what the vault keeps of it as its capture mode says.

    encrypted: bodies, and texts that can be found. hashes: texts that can be found. none: neither. `redact` masks both.
    """
    intent, outcome = call.intent, call.outcome
    asked = _asked(call)
    answered = _answered(call)
    sealed = seal_call(
        intent,
        outcome,
        emitter=emitter,
        boot=boot,
        prev=prev,
        asked=asked,
        answered=answered,
        report=_report(outcome),
        price=price,
        seen=call.seen,
    )
    bodies: dict[str, bytes] = {}
    texts: list[tuple[Which, bytes]] = [("request", text.encode()) for text in asked.last_texts]
    if call.request_kept:
        bodies["request"] = intent.request
    if outcome is not None:
        if call.response_kept:
            bodies["response"] = outcome.response
        texts += [("response", text.encode()) for text in answered.texts]
        texts += [("response", outcome.response)] if outcome.response else []
        if outcome.engine is not None:
            bodies["report"] = outcome.engine.report
    elif call.seen:
        bodies["response"] = call.seen
        texts += [("response", call.seen)]
    kept = VaultCall(
        call=intent.call,
        source=f"{emitter}/{boot}/{intent.seq}",
        tenant=intent.who.get("tenant", ""),
        groups=sealed.groups,
        bodies=bodies if intent.capture == "encrypted" else {},
        texts=tuple(texts) if intent.capture != "none" else (),
        subject=intent.who.get("subject") or asked.subject,
        ended_at=sealed.leaf.ended_at or sealed.leaf.called_at,
    )
    if redact is not None:
        kept = redact(kept, intent.deployment, answered.content, outcome.response if outcome is not None else call.seen)
    return encode_typed(sealed.leaf), kept


def _asked(call: Gathered) -> RequestFacts:
    facts = read_intent(call.intent) if call.request_kept else RequestFacts({}, {}, malformed=NOT_KEPT)
    streamed = call.outcome.parts if call.outcome is not None else ()
    if streamed and not call.request_kept:
        return with_fields(facts, parts=tuple(_part(part) for part in streamed))
    return facts


def _part(part: StreamedPart) -> Part:
    kind = "field" if part.media_type is None else "file"
    return Part(index=0, role="user", sha256=part.sha256, type=kind, media_type=part.media_type, size=part.size)


def _answered(call: Gathered) -> ResponseFacts:
    if call.outcome is None:
        return NO_RESPONSE_FACTS
    return read_outcome(call.intent, call.outcome) if call.response_kept else ResponseFacts(malformed=NOT_KEPT)


def _report(outcome: Outcome | None) -> EngineReport | None:
    """Return the engine's report where it is one. Its bytes are sealed by digest in any case."""
    if outcome is None or outcome.engine is None:
        return None
    try:
        report = decode(outcome.engine.report, EngineReport)
    except MalformedError:
        return None
    whole = report.prompt_tokens >= 0 and all(0 <= token < 2**32 for token in report.tokens)
    return report if whole else None
