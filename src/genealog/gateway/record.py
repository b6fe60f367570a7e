"""The record core: what every way of capturing a call shares. Bytes in, two frames out.

    call = recorder.open(request, context)      the intent is on record: now the request may go upstream
    call.chunk(data)                            for each piece as it comes, before it goes to the client
    call.close(finish="complete", status=200)   the outcome is on record: now the last byte may go to the client

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
from typing import Annotated, Literal

import msgspec

from genealog.core.call import MAX_MODELS, Model, Spec, call_id, without_evidence
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
    encode_frame,
)
from genealog.errors import MalformedError, StoreError

Sink = Callable[[bytes], None]


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the caller of the record core knows of a call besides its bytes.

    `who` has the keys principal, department, project, tenant, subject (the person it is about), or fewer; `headers`
    only those on the allow-list.
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
    who: dict[Literal["principal", "department", "project", "tenant", "subject"], str]
    headers: dict[Annotated[str, msgspec.Meta(pattern=r"^[!-~]+\Z")], str]


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

    def open(self, request: bytes, context: Context) -> Call:
        """Put the intent on record and return the call.

        Raises: MalformedError `body-too-big` (over 32 MiB), `text-not-unicode`; StoreError from the sink. After any of
        them there is no call.
        """
        if len(request) > MAX_BODY:
            raise MalformedError(
                "body-too-big", "the request is too big to record", got=len(request), expected=f"≤ {MAX_BODY}"
            )
        line = self._line
        now = line.clock()
        random = self._entropy(10 + SALTS)
        call = call_id(int(now.timestamp() * 1000), random[:10])
        with line.lock:
            line.write(
                Intent(
                    n=line.frames + 1,
                    call=call,
                    seq=line.calls + 1,
                    called_at=now,
                    deployment=context.deployment,
                    spec=context.spec,
                    models=context.models,
                    bound=context.bound,
                    durability=context.durability,
                    capture=context.capture,
                    dialect=context.dialect,
                    operation=context.operation,
                    who=dict(context.who),
                    headers=dict(context.headers),
                    request=request,
                    salts=random[10:],
                )
            )
            line.calls += 1
        return Call(line, call, request, context.bound)


class Call:
    """One call between its two frames."""

    __slots__ = ("_bound", "_chunks", "_closed", "_line", "_request", "id", "received")

    def __init__(self, line: _Line, call: str, request: bytes, bound: Assurance) -> None:
        self.id = call
        self.received = 0  # bytes that came from upstream so far
        self._line = line
        self._request = request
        self._bound = bound
        self._chunks: list[bytes] = []
        self._closed = False

    @property
    def request_sha256(self) -> str:
        """Hex SHA-256 of the request body."""
        return hashlib.sha256(self._request).hexdigest()

    @property
    def response_sha256(self) -> str:
        """Hex SHA-256 of what came from upstream so far: the `wire` digest once the last byte is here."""
        digest = hashlib.sha256()
        for chunk in self._chunks:
            digest.update(chunk)
        return digest.hexdigest()

    def chunk(self, data: bytes) -> None:
        """Take a piece of the response. It may go on to the client when this has returned.

        Raises: MalformedError `body-too-big` when the response passes 32 MiB, and the piece is not taken;
        StoreError `call-closed`.
        """
        if self._closed:
            raise StoreError("call-closed", f"call {self.id} has ended already")
        if self.received + len(data) > MAX_BODY:
            raise MalformedError("body-too-big", "the response is too big to record", expected=f"≤ {MAX_BODY}")
        self._chunks.append(data)
        self.received += len(data)

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
    ) -> None:
        """Put the outcome on record; the second time, do nothing. The last byte may go to the client afterwards.

        `delivered`: how many bytes of the response reached the client, all when None. `assurance`: the final level;
        None is the bound one, but no more than A2, because more needs evidence. Raises: StoreError from the sink;
        the call is then still open and may be closed again.
        """
        line = self._line
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
                    response=b"".join(self._chunks),
                    delivered=self.received if delivered is None else max(0, min(delivered, self.received)),
                    assurance=assurance or without_evidence(self._bound),
                    error=_unicode(error),
                    engine=engine,
                )
            )
            self._closed = True


def _unicode(text: str | None) -> str | None:
    """Return what an upstream sent as text: no oddity of its headers may keep an outcome off the record."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
