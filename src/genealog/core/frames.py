"""The frames of a call, as the record core writes them and the sequencer reads them.

    intent    before the first upstream byte: who asked what of which deployment, and which model it resolves to
    piece     a part of a body that is too big to hold: what it says goes on, on record, as it comes
    outcome   before the last client byte: what came back, and how it ended

Frames never leave the node: they hold bodies and salts in clear, live in a spool of mode 0600, and are gone once
sequenced. They are MessagePack maps, so that a writer in another language can produce them. What they mean in the
log is said in `core.call`; how they lie in a file is said in `store.spool`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from genealog.errors import MalformedError

Assurance = Literal["A0", "A1", "A2", "A3", "A4"]
Durability = Literal["D0", "D1", "D1+", "D2", "D3"]
Capture = Literal["encrypted", "hashes", "none"]
Finish = Literal["complete", "client_abandoned", "upstream_error", "refused", "unknown"]
Release = Literal["allowed", "labelled", "held", "blocked"]  # what policy made of an answer

MAX_BODY = 32 * 1024 * 1024
SALT = 32
SALTS = 6 * SALT  # one for each group of `core.call.GROUPS`, in that order


class EngineEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine gave for one call: which load served it, its signature, and how it drew the answer."""

    load: str  # leaf hash of the load statement, hex
    signature: bytes  # DSSE envelope over an `EngineSignature`
    report: bytes  # canonical `EngineReport`


class Intent(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="genealog/intent/v1"
):
    """A call has begun. `n` counts the frames, `seq` the calls of one emitter and boot; both start at 1, no holes."""

    n: int
    call: str  # ULID
    seq: int
    called_at: datetime
    deployment: str  # the name that was asked for
    spec: str | None  # glr1:…, None where the name leads nowhere
    models: tuple[str, ...]
    bound: Assurance
    durability: Durability
    capture: Capture
    dialect: str
    operation: str
    who: dict[str, str]
    headers: dict[str, str]
    request: bytes
    salts: bytes
    more: bool = False  # the request goes on in pieces, and `Outcome.request` says what it was as a whole
    content_type: str | None = None  # of the request
    trace: str | None = None  # the call that this one is another attempt of; None for a first attempt
    attempt: int = 1
    target: int = 0  # which of the spec's targets this attempt went to
    seller: str | None = None  # whom the call is paid to: a key of price tables
    served_as: str | None = None  # what the upstream calls the model, where that is not what was asked for
    changed: tuple[str, ...] = ()  # what was rewritten in the request before it went upstream, by name
    forwarded: str | None = None  # hex SHA-256 of the body that went upstream, where something was changed
    policy: str | None = None  # of the policy set that decided whether it may be served
    flags: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()


class Whole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that was too big to hold. `kept` says whether all of it lies in pieces, or no more than its start."""

    size: int
    sha256: str
    kept: bool = True


class StreamedPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a multipart body, digested as it streamed by."""

    name: str
    size: int
    sha256: str
    media_type: str | None = None


class Piece(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="genealog/piece/v1"
):
    """The bytes from offset `at` of a body, after those of the intent or before those of the outcome."""

    n: int
    call: str
    side: Literal["request", "response"]
    at: int
    data: bytes


class Outcome(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="genealog/outcome/v1"
):
    """A call has ended. `response` is what came from upstream, but for what lies in pieces before it; the first
    `delivered` bytes of all of it reached the client.
    """

    n: int
    call: str
    ended_at: datetime
    finish: Finish
    status: int | None
    content_type: str | None
    content_encoding: str | None
    response: bytes
    delivered: int
    assurance: Assurance
    error: str | None
    engine: EngineEvidence | None
    request: Whole | None = None  # where the intent says `more`
    parts: tuple[StreamedPart, ...] = ()  # of that request, where it was multipart
    whole: Whole | None = None  # the response, where it lies in pieces
    headers: dict[str, str] = {}
    first_byte_at: datetime | None = None
    endpoint: str | None = None  # hex SHA-256 of the public key (SPKI) that the upstream showed in TLS
    release: Release | None = None
    release_flags: tuple[str, ...] = ()


Frame = Intent | Piece | Outcome

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises: MalformedError `text-not-unicode` for a lone surrogate in a text field."""
    try:
        return _encoder.encode(frame)
    except UnicodeEncodeError as error:
        raise MalformedError("text-not-unicode", "a field of this call is not Unicode text", got=error.reason) from None


def decode_frame(data: bytes) -> Frame:
    """Read a frame. Raises: MalformedError `bad-frame`."""
    try:
        frame = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError("bad-frame", f"not a frame of a call: {error}") from None
    if isinstance(frame, Intent) and len(frame.salts) != SALTS:
        raise MalformedError("bad-frame", "a call has six salts", got=f"{len(frame.salts)} bytes", expected=SALTS)
    return frame
