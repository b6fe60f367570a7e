"""The six groups that the leaf of a call commits to, and what a dialect reads in bodies to fill them.

Each field is spelled into the canonical bytes of its group, so a new one is absent until it says something. Token
counts have one meaning for all vendors: that of `UsageGroup`. `core.call` seals them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from genealog.core.canonical import MAX_INTEGER, Record
from genealog.core.frames import Assurance, Capture, Release

Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z")]
Ulid = Annotated[str, Meta(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]
Spec = Annotated[str, Meta(pattern=r"^glr1:[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class Digest(Record):
    """A value that is committed to, and too long or too telling to be spelled out. SHA-256, hex."""

    sha256: Hex


class Prefix(Record):
    """The first `size` bytes of a body; no digest where the body is not kept, and nobody digested that far."""

    size: Count
    sha256: Hex | None = None


class Part(Record):
    """The commitment to one part of message `index` of a prompt, or of an answer.

    Of an image, audio, video or file that came with the message, `sha256` and `size` are over its own bytes, decoded
    where it came as base64; of one that is only referred to, over the reference, and there is no size.
    """

    index: Count
    role: str
    sha256: Hex
    type: str
    media_type: str | None = None
    size: Count | None = None


class WhoGroup(Record):
    """On whose account a call was made. The person that it is about stands nowhere: the vault keeps a digest."""

    principal: str | None = None
    department: str | None = None
    project: str | None = None
    tenant: str | None = None
    how: Literal["key", "jwt", "mtls", "claimed"] | None = (
        None  # how the gateway knew: claimed is the client's own word
    )
    key: str | None = None  # which of the principal's keys, by its public ID


class RequestGroup(Record):
    """What was asked. `parameters` as received, numbers by their exact token; `sampler` as it was really used."""

    deployment: str
    dialect: str
    operation: str
    size: Count
    wire: Hex
    capture: Capture
    headers: dict[str, str] = {}  # noqa: RUF012 - msgspec copies an empty default
    malformed: str | None = None
    parameters: dict[str, str | bool | Digest | None] = {}  # noqa: RUF012
    parts: tuple[Part, ...] = ()
    sampler: dict[str, str] = {}  # noqa: RUF012
    trace: Ulid | None = None  # the call that this one is another attempt of
    attempt: Count | None = None  # absent for a first attempt
    changed: tuple[str, ...] = ()  # what the gateway rewrote before it went upstream
    forwarded: Hex | None = None  # over the body that went upstream, where that is not `wire`
    policy: str | None = None  # glf1:… of the policy set that decided whether it may be served
    flags: tuple[str, ...] = ()  # lines `policy code` of policies that only flag
    waived: tuple[str, ...] = ()  # policies that a break-glass put aside for it


class ResponseGroup(Record):
    """What came back. Of a call whose end nobody saw no more than `size` and `wire` of what came before, if it did.

    `wire` is over the body as it came, content encoding untouched; `content` over the canonical message, so that stream
    and non-stream agree; `text` over each text part. `delivered` stands here when the client got less than all.
    """

    content: Hex | None = None
    content_encoding: str | None = None
    content_type: str | None = None
    delivered: Prefix | None = None
    error: str | None = None
    finish_reason: str | None = None
    first_byte_at: Time | None = None
    headers: dict[str, str] = {}  # noqa: RUF012
    malformed: str | None = None
    parts: tuple[Part, ...] = ()  # images, audio: what is no text
    release: Release | None = None
    release_flags: tuple[str, ...] = ()  # lines `policy code`
    size: Count | None = None
    status: Count | None = None
    text: tuple[Hex, ...] = ()
    token_ids: Hex | None = None  # over the token IDs as 4 little-endian bytes each
    tokens: Count | None = None
    wire: Hex | None = None


class RetrievalGroup(Record):
    """What was retrieved for this call: nothing that this version can see."""


class UsageGroup(Record):
    """Tokens, and whose word that is: the provider's last snapshot (`partial` if the call was cut), the engine's, or
    nobody's, where all that is known was counted in the `request`.

    `prompt_tokens` is all that went in, `completion_tokens` all that came out; the other token counts are parts of one
    of them, whatever way a vendor adds them up. `cost` is in millionths of `currency`, by the price entry `price`.
    """

    cached_tokens: Count | None = None  # of the prompt, read from the vendor's cache
    cache_write_tokens: Count | None = None  # of the prompt, written to it
    cache_write_1h_tokens: Count | None = None  # of those, for an hour
    completion_tokens: Count | None = None
    prompt_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    audio_prompt_tokens: Count | None = None
    audio_completion_tokens: Count | None = None
    image_prompt_tokens: Count | None = None
    image_completion_tokens: Count | None = None
    images: Count | None = None  # made
    audio_ms: Count | None = None  # heard or spoken
    characters: Count | None = None  # of text to speak
    searches: Count | None = None  # server tools that are billed by use
    tier: str | None = None  # as the vendor names it: batch, flex, priority
    cost: Count | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] | None = None
    price: str | None = None
    source: Literal["provider", "partial", "engine", "request"] | None = None


class EngineGroup(Record):
    """What is known of the engine. `bound` is the assurance at dispatch; the final level stands in the leaf."""

    bound: Assurance
    endpoint: Hex | None = None  # SHA-256 of the public key that the upstream showed in TLS
    envelope: str | None = None  # base64 of the DSSE envelope that the engine signed
    fingerprint: str | None = None
    load: Hex | None = None
    model: str | None = None  # as the upstream calls it
    numerics: dict[str, str] = {}  # noqa: RUF012
    report: Hex | None = None
    seller: str | None = None  # whom the call is paid to
    signature: Hex | None = None  # SHA-256 of the envelope
    target: Count | None = None  # which of the spec's targets, where it has several
    version: Spec | None = None  # the external model that the answer reports to be from


class RequestFacts(Struct, frozen=True):
    """What a dialect read in a request. Texts are in clear; they reach a group only as digests."""

    parameters: Mapping[str, str | bool | Digest | None]
    sampler: Mapping[str, str]
    parts: tuple[Part, ...] = ()
    last_texts: tuple[str, ...] = ()  # text parts of the last message
    characters: int | None = None  # of a text to speak
    subject: str | None = None  # the person whom the client says that it asks for
    malformed: str | None = None


class ResponseFacts(Struct, frozen=True):
    """What a dialect read in a response, whole or cut."""

    content: bytes | None = None  # the canonical message
    texts: tuple[str, ...] = ()
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None  # counts of UsageGroup, in its meaning
    tier: str | None = None
    parts: tuple[Part, ...] = ()  # what is no text
    model: str | None = None
    fingerprint: str | None = None
    error: str | None = None
    malformed: str | None = None


NO_REQUEST_FACTS = RequestFacts({}, {})
NO_RESPONSE_FACTS = ResponseFacts()
