"""The record core: what every way of capturing a call shares. Bytes in, two frames out.

    call = recorder.open(request, context)      the intent is on record: now the request may go upstream
    call.upload(data)                           for each piece of a request that goes on, before it goes upstream
    call.chunk(data)                            for each piece of the answer as it comes, before it goes to the client
    call.close(finish="complete", status=200)   the outcome is on record: now the last byte may go to the client

A body that is too big to hold goes to the spool in pieces as it comes: its first 32 MiB, and a digest of all of it.
When `open` or `close` return, the sink has the frame; if the sink raises, so do they, and no number is used up: the
numbers in the spool have no holes. No JSON is parsed and nothing is encrypted here; that is the sequencer's work.
No HTTP either. The clock and the entropy are arguments.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from genealog.core.call import MAX_MODELS, Model, call_id, without_evidence
from genealog.core.call_groups import Spec
from genealog.core.frames import (
    MAX_BODY,
    SALTS,
    Assurance,
    Capture,
    Durability,
    EngineEvidence,
    Finish,
    Frame,
    Intent,
    Outcome,
    Piece,
    Release,
    StreamedPart,
    Whole,
    encode_frame,
)
from genealog.errors import MalformedError, StoreError

Sink = Callable[[bytes], None]
PIECE = 256 * 1024  # bytes of one piece of a body, at most


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the caller of the record core knows of a call besides its bytes.

    `who` has the keys principal, department, project, tenant, subject (the person it is about), how and key, or fewer;
    `headers` only those on the allow-list. `target` is which of the spec's targets is asked, `seller` who is paid,
    `served_as` what the upstream calls the model, if another name; `policy`, `flags`, `waived` as in `frames.Intent`.
    `spec` None means that the name asked for leads nowhere; such a call is closed as `refused`.
    Raises: MalformedError `bad-context` for anything that no leaf of the log could hold.
    """

    deployment: str
    operation: str
    dialect: str
    spec: str | None = None
    models: tuple[str, ...] = ()
    bound: Assurance = "A0"
    durability: Durability = "D1"
    capture: Capture = "encrypted"
    who: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    target: int = 0
    seller: str | None = None
    served_as: str | None = None
    policy: str | None = None
    flags: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self, _Recordable, from_attributes=True)
        except msgspec.ValidationError as error:
            raise MalformedError("bad-context", f"a call cannot be recorded like this: {error}") from None


class _Recordable(msgspec.Struct, frozen=True, kw_only=True):
    """What a leaf and its groups can hold: a call that the sequencer cannot log must not begin."""

    spec: Spec | None
    models: Annotated[tuple[Model, ...], msgspec.Meta(max_length=MAX_MODELS)]
    bound: Assurance
    durability: Durability
    capture: Capture
    who: dict[Literal["principal", "department", "project", "tenant", "subject", "how", "key"], str]
    headers: dict[Annotated[str, msgspec.Meta(pattern=r"^[!-~]+\Z")], str]


class Name(NamedTuple):
    """What a call is called, drawn before it begins: `lot` are 80 random bits that stand in the ID."""

    call: str
    at: datetime
    lot: int
    salts: bytes


class _Line:
    """The frames of one emitter and boot, numbered in the order in which they reach the sink."""

    __slots__ = ("calls", "clock", "frames", "lock", "sink")

    def __init__(self, sink: Sink, clock: Callable[[], datetime]) -> None:
        self.sink = sink
        self.clock = clock
        self.lock = threading.Lock()
        self.frames = 0
        self.calls = 0

    def write(self, frame: Frame) -> None:
        self.sink(encode_frame(frame))
        self.frames += 1


class Recorder:
    """Opens the calls of one emitter in one boot.

    Safe to use from several threads. Not after a fork: the child opens a spool and a recorder of its own.
    """

    def __init__(
        self,
        emitter: str,
        boot: str,
        sink: Sink,
        *,
        clock: Callable[[], datetime] = utc_now,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.emitter = emitter
        self.boot = boot
        self._line = _Line(sink, clock)
        self._entropy = entropy

    def draw(self) -> Name:
        """Name a call that has not begun."""
        now = self._line.clock()
        random = self._entropy(10 + SALTS)
        name = call_id(int(now.timestamp() * 1000), random[:10])
        return Name(name, now, int.from_bytes(random[:10]), random[10:])

    def open(
        self,
        request: bytes,
        context: Context,
        *,
        name: Name | None = None,
        more: bool = False,
        trace: str | None = None,
        attempt: int = 1,
        changed: tuple[str, ...] = (),
        forwarded: str | None = None,
        hold: int = MAX_BODY,
    ) -> Call:
        """Put the intent on record and return the call.

        `more`: the request goes on, and `Call.upload` gets the rest. `trace`, `attempt`: this is another attempt of
        that call. `forwarded` is the hex SHA-256 of what goes upstream where something was `changed`. An answer of more
        than `hold` bytes goes to the spool in pieces.
        Raises: MalformedError `body-too-big` (over 32 MiB), `text-not-unicode`; StoreError from the sink. After any of
        them there is no call.
        """
        if len(request) > MAX_BODY:
            raise MalformedError(
                "body-too-big", "the request is too big to record", got=len(request), expected=f"≤ {MAX_BODY}"
            )
        line = self._line
        if name is None:
            name = self.draw()
        with line.lock:
            line.write(
                Intent(
                    n=line.frames + 1,
                    call=name.call,
                    seq=line.calls + 1,
                    called_at=name.at,
                    deployment=context.deployment,
                    spec=context.spec,
                    models=context.models,
                    bound=context.bound,
                    durability=context.durability,
                    capture=context.capture,
                    dialect=context.dialect,
                    operation=context.operation,
                    who=context.who,  # type: ignore[arg-type]
                    headers=context.headers,  # type: ignore[arg-type]
                    request=request,
                    salts=name.salts,
                    more=more,
                    content_type=context.content_type,
                    trace=trace,
                    attempt=attempt,
                    target=context.target,
                    seller=context.seller,
                    served_as=context.served_as,
                    changed=changed,
                    forwarded=forwarded,
                    policy=context.policy,
                    flags=context.flags,
                    waived=context.waived,
                )
            )
            line.calls += 1
        return Call(line, name.call, request, context.bound, more=more, forwarded=forwarded, hold=hold)


class _Long:
    """A body that lies in pieces: what of it is on record, and the digest of all of it."""

    __slots__ = ("at", "digest", "kept")

    def __init__(self, start: int, seen: bytes) -> None:
        self.at = start  # bytes so far
        self.digest = hashlib.sha256(seen)
        self.kept = True

    def whole(self) -> Whole:
        return Whole(size=self.at, sha256=self.digest.hexdigest(), kept=self.kept)


class Call:
    """One call between its two frames."""

    __slots__ = (
        "_bound", "_chunks", "_closed", "_forwarded", "_held", "_hold", "_line", "_long", "_request", "_upload", "id",
        "received",
    )  # fmt: skip

    def __init__(
        self, line: _Line, call: str, request: bytes, bound: Assurance, *, more: bool, forwarded: str | None, hold: int
    ) -> None:
        self.id = call
        self.received = 0  # bytes that came from upstream so far
        self._line = line
        self._request = request
        self._forwarded = forwarded
        self._bound = bound
        self._chunks: list[bytes] = []
        self._held = 0
        self._hold = hold
        self._long: _Long | None = None
        self._upload = _Long(len(request), request) if more else None
        self._closed = False

    @property
    def sent(self) -> int:
        """Bytes of the request so far."""
        return self._upload.at if self._upload is not None else len(self._request)

    @property
    def request_sha256(self) -> str:
        """Hex SHA-256 of the body that went upstream, so far."""
        if self._forwarded is not None:
            return self._forwarded
        return self._upload.digest.hexdigest() if self._upload else hashlib.sha256(self._request).hexdigest()

    @property
    def response_sha256(self) -> str:
        """Hex SHA-256 of what came from upstream so far: the `wire` digest once the last byte is here."""
        digest = self._long.digest.copy() if self._long is not None else hashlib.sha256()
        for chunk in self._chunks:
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def held(self) -> list[bytes]:
        """What is held of the answer: all of it, or what came after the last piece."""
        return self._chunks

    @property
    def cut(self) -> bool:
        """Whether the answer lies in pieces."""
        return self._long is not None

    def now(self) -> datetime:
        """Return the time of the recorder's clock."""
        return self._line.clock()

    def upload(self, data: bytes) -> None:
        """Take more of the request; it may go upstream when this has returned. Raises: StoreError from the sink."""
        if self._upload is None or self._closed:
            raise StoreError("call-closed", f"call {self.id} takes no more of a request")
        self._pieces("request", self._upload, data)

    def chunk(self, data: bytes) -> None:
        """Take a piece of the response. It may go on to the client when this has returned.

        Raises: StoreError `call-closed`, or from the sink where the answer goes to the spool in pieces.
        """
        if self._closed:
            raise StoreError("call-closed", f"call {self.id} has ended already")
        self._chunks.append(data)
        self.received += len(data)
        self._held += len(data)
        if self._held > self._hold:
            if self._long is None:
                self._long = _Long(0, b"")
                self._hold = min(self._hold, PIECE)
            self._pieces("response", self._long, b"".join(self._chunks))
            self._chunks = []
            self._held = 0

    def _pieces(self, side: Literal["request", "response"], long: _Long, data: bytes) -> None:
        line = self._line
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            room = MAX_BODY - long.at
            if room > 0:
                with line.lock:
                    line.write(Piece(n=line.frames + 1, call=self.id, side=side, at=long.at, data=piece[:room]))
            long.kept = long.kept and room >= len(piece)
            long.at += len(piece)
            long.digest.update(piece)

    def close(
        self,
        *,
        finish: Finish,
        status: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivered: int | None = None,
        assurance: Assurance | None = None,
        error: str | None = None,
        engine: EngineEvidence | None = None,
        parts: tuple[StreamedPart, ...] = (),
        headers: Mapping[str, str] | None = None,
        first_byte_at: datetime | None = None,
        endpoint: str | None = None,
        release: Release | None = None,
        release_flags: tuple[str, ...] = (),
    ) -> None:
        """Put the outcome on record; the second time, do nothing. The last byte may go to the client afterwards.

        `delivered`: how many bytes of the response reached the client, all when None. `assurance`: the final level;
        None is the bound one, but no more than A2, because more needs evidence. `parts` are those of a multipart
        request that was too big to hold, `headers` what is recorded of the response's, `release` what policy made of
        it. Raises: StoreError from the sink; the call is then still open and may be closed again.
        """
        line = self._line
        rest = b"".join(self._chunks)
        if self._long is not None and self._long.at + len(rest) > MAX_BODY:
            self._pieces("response", self._long, rest)
            rest = b""
            self._chunks = []
        with line.lock:
            if self._closed:
                return
            line.write(
                Outcome(
                    n=line.frames + 1,
                    call=self.id,
                    ended_at=line.clock(),
                    finish=finish,
                    status=status,
                    content_type=_unicode(content_type),
                    content_encoding=_unicode(content_encoding),
                    response=rest,
                    delivered=self.received if delivered is None else max(0, min(delivered, self.received)),
                    assurance=assurance or without_evidence(self._bound),
                    error=_unicode(error),
                    engine=engine,
                    request=self._upload.whole() if self._upload is not None else None,
                    parts=parts,
                    whole=self._whole(rest),
                    headers=dict(headers) if headers else {},
                    first_byte_at=first_byte_at,
                    endpoint=endpoint,
                    release=release,
                    release_flags=release_flags,
                )
            )
            self._closed = True

    def _whole(self, rest: bytes) -> Whole | None:
        if self._long is None:
            return None
        digest = self._long.digest.copy()
        digest.update(rest)
        return Whole(size=self._long.at + len(rest), sha256=digest.hexdigest(), kept=self._long.kept)


def _unicode(text: str | None) -> str | None:
    """Return what an upstream sent as text: no oddity of its headers may keep an outcome off the record."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
