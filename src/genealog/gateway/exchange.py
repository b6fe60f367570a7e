"""One attempt between its two frames: ask a target, pass bytes on as they come, keep the end until it is on record.

    intent on record → request → … data … → upstream's end → engine signature → outcome on record → last byte

What policy makes of an answer is known before its first byte goes out (`releasing`): until then it waits, and what does
not go out at all is read to its end for the record. However it ends, it ends on record: complete, abandoned by the
client, failed by the upstream. If the outcome cannot be put on record, the client does not see an end either: a broken
connection is the honest answer then. Whatever is on its way in one direction is bounded by flow control in the other.
Callbacks only: a task is made where something has to be waited for that is not this call's own bytes.

Long because every way in which an attempt can end stands beside the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from genealog.core.frames import Assurance, EngineEvidence, Finish, StreamedPart
from genealog.deploy import Live
from genealog.errors import GenealogError, StoreError, UpstreamError
from genealog.gateway import headers as rules
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.handshake import Binding
from genealog.gateway.hold import Hold, Way
from genealog.gateway.http1 import Connection, Reply, Response, UpstreamLostError
from genealog.gateway.parts import Parts
from genealog.gateway.recording import Entry
from genealog.gateway.releasing import Answer, Nothing, Question, Releasing, decided_about, waiting
from genealog.gateway.reported import reports_itself
from genealog.policy.release import Released

_FINAL = range(200, 600)  # RFC 9110 §15: lower ones go before an answer, higher ones are none
_AGAIN = frozenset((429, 502, 503, 504))  # another target may do better
_LOST_ANSWER = 64 * 1024  # bytes kept of an answer that another attempt replaces
_MOST_HELD = 32 * 1024 * 1024  # of an answer that has to wait whole

log = logging.getLogger("genealog.gateway")


class Owner(Protocol):
    """The client's side of an attempt (`asking.Asking`)."""

    plane: Parts
    reply: Reply
    who: Who
    name: str
    streams: bool
    parts: tuple[StreamedPart, ...]

    @property
    def dialect(self) -> str:
        """As the intent says it."""

    @property
    def operation(self) -> str:
        """As the intent says it."""

    @property
    def live(self) -> Live:
        """The deployment that is asked."""

    def may_retry(self) -> bool:
        """Say whether another attempt may follow."""

    def retry(self, error: GenealogError | None) -> None:
        """Make it: this one is on record."""

    def overtaken(self, aim: Aim) -> GenealogError | None:
        """Say why a request must not be sent any more, after somebody waited."""

    def fail(self, error: GenealogError, exchange: Exchange | None) -> None:
        """Tell the client, which has got nothing yet, why there is no answer; the call is on record."""

    def crashed(self) -> None:
        """End it all: something failed that nobody thought of."""

    def ours(self, call: str, aim: Aim, binding: Binding) -> list[tuple[bytes, bytes]]:
        """Return the headers that the gateway puts on an answer."""

    def over(self) -> None:
        """Know that the reply has ended."""


class Exchange:
    """One attempt whose intent is on record: an `http1.Sink`."""

    __slots__ = (
        "_began", "_body", "_dropped", "_encoding", "_first", "_head", "_headers", "_hold", "_is_whole", "_kind",
        "_more", "_owner", "_passing", "_released", "_replaced", "_reported", "_response", "_retried", "_spki",
        "_status", "_task", "_timer", "aim", "binding", "closed", "connection", "delivered", "entry", "last",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, entry: Entry, aim: Aim, binding: Binding, connection: Connection | None, began: float
    ) -> None:
        self.entry = entry
        self.aim = aim
        self.binding = binding
        self.connection = connection
        self.delivered = 0
        self.closed = False  # its outcome is on record, or cannot be
        self.last = began  # when a byte came from upstream, about
        self._owner = owner
        self._began = began
        self._head = self._body = b""
        self._more = False
        self._retried = False
        self._replaced = False  # another attempt will answer
        self._dropped = False  # the client is gone, and we read on to know what it cost
        self._status: int | None = None
        self._kind: str | None = None
        self._encoding: str | None = None
        self._headers: Mapping[str, str] | None = None
        self._first: Any = None
        self._response: Response | None = None
        self._hold: Hold | None = None
        self._passing: Hold | None = None  # what the answer will pass, while policy has not said that it may
        self._released: Released | None = None
        self._is_whole = False  # all of it came
        self._reported: bool | None = None
        self._spki = connection.spki if connection is not None else None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, head: bytes, body: bytes, *, more: bool, chunked: bool) -> None:
        """Send the request, or its beginning."""
        self._head, self._body, self._more = head, body, more
        connection = self.connection
        if connection is not None:
            connection.ask(head, body, self, more=more, chunked=chunked)

    def upload(self, data: bytes) -> None:
        """Put more of the request on record, and send it."""
        if self.closed or self.connection is None:
            return
        try:
            self.entry.call.upload(data)
        except StoreError as error:
            self._broken(error)
        else:
            self.connection.write(data)

    def upload_end(self) -> None:
        """Send the request's end."""
        if not self.closed and self.connection is not None:
            self.connection.end_body()

    # From upstream

    def head(self, response: Response) -> None:
        """Take the head of the answer."""
        status = response.status
        plane = self._owner.plane
        self.last = plane.now()
        self._first = self.entry.call.now()
        plane.counters.add("first_bytes")
        plane.counters.add("first_byte_microseconds", int((self.last - self._began) * 1e6))
        if status not in _FINAL:
            self._abort()
            self._lost(
                UpstreamError(
                    "upstream-status", "the upstream's status is none that an answer ends with", got=status,
                    expected="200 to 599",
                )
            )  # fmt: skip
            return
        self._response = response
        self._status = status
        kind, encoding = response.first(b"content-type"), response.first(b"content-encoding")
        self._kind = rules.text(kind) if kind is not None else None
        self._encoding = rules.text(encoding) if encoding is not None else None
        if not plane.answered.isdisjoint(response.names):
            named = zip(response.names, response.headers, strict=True)
            kept = tuple([(name, pair[1]) for name, pair in named if name in plane.answered])
            self._headers = rules.on_record(kept)
        if status in _AGAIN and self._owner.may_retry():
            self._replaced = True
            self._timer = plane.loop.call_later(2.0, self._enough)
            return
        if status < 500 and status != 429:
            plane.health.worked(self.aim)
        owner = self._owner
        hold = self._hold = Hold.of(
            self._kind, self._encoding, response.length, owner.dialect, streams=owner.streams
        )  # fmt: skip
        if plane.releasing is not None and decided_about(status):
            self._decide(plane.releasing, hold)
        self._start_early()

    def data(self, data: bytes) -> None:
        """Pass bytes on, but for what must wait."""
        if self.closed:
            return
        entry, hold = self.entry, self._hold
        plane = self._owner.plane
        self.last = plane.now()
        call = entry.call
        if self._reported is None and call.received + len(data) > plane.settings.hold:
            self._reported = self._reports((*call.held, data))
        try:
            call.chunk(data)
        except StoreError as error:
            self._broken(error)
            return
        if hold is None:
            if self._replaced and call.received > _LOST_ANSWER:
                self._enough()
            return
        free = hold.feed(data)
        if free:
            self._pass(free)
        elif hold.way is Way.WHOLE and call.received > _MOST_HELD:
            self._abort()
            self._lost(UpstreamError(
                "answer-too-big", "the answer is too big to hold, and has to wait until it is whole",
                expected=f"≤ {_MOST_HELD} bytes",
            ))  # fmt: skip

    def end(self) -> None:
        """Put the outcome of an answer that came to its end on record, and give the client the rest."""
        self.connection = None
        if self.closed:
            return
        status = self._status
        if self._replaced:
            self._replace()
        elif self._dropped:
            self._close("client_abandoned", error="client-gone")
        elif self._passing is not None:
            self._is_whole = True
            releasing = self._owner.plane.releasing
            if self._task is None and releasing is not None:
                self._later(self._ask_release(releasing))
        elif self.binding.level == "A3" and status is not None and status < 500:
            self._later(self._evidence())
        else:
            self._finish(None, None)

    def failed(self, error: UpstreamError) -> None:
        """Ask again on a new connection where an old one had been closed meanwhile; else put the failure on record."""
        self.connection = None
        if self.closed:
            return
        if isinstance(error, UpstreamLostError) and error.retriable and not self._retried and not self._more:
            self._retried = True
            self._later(self._ask_anew())
        elif self._replaced:
            self._replace()
        else:
            self._lost(error)

    def pause(self) -> None:
        """The upstream reads slower than the client writes."""
        self._owner.reply.pause_body()

    def resume(self) -> None:
        """It caught up."""
        self._owner.reply.resume_body()

    # From the client's side

    def client_gone(self) -> None:
        """Stop the upstream, or read it to its end, as `on_hangup` says."""
        if self.closed:
            return
        if self._owner.plane.settings.drains and self.connection is not None and self._head:
            self._dropped = True
            self.connection.resume()
        else:
            self._abort()
            self._close("client_abandoned", error="client-gone")

    def break_off(self, finish: Finish, code: str) -> None:
        """End in the middle: this gateway cannot or must not go on."""
        if not self.closed:
            self._abort()
            self._close(finish, error=code)

    def silent(self, patience: float) -> None:
        """End it: nothing came from upstream for so many seconds."""
        if not self.closed and self.connection is not None:
            self._abort()
            self._lost(UpstreamError("upstream-silent", "the upstream fell silent", expected=f"a byte in {patience} s"))

    # Inside

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._owner.plane.spawn(work, self._owner.crashed)

    async def _ask_anew(self) -> None:
        plane = self._owner.plane
        try:
            connection = await plane.pool.open(self.aim.origin)
        except GenealogError as error:
            self._task = None
            if not self.closed:
                lost = error if isinstance(error, UpstreamError) else UpstreamError("upstream-tls", error.message)
                self._lost(lost)
            return
        self._task = None
        if self.closed:
            connection.abort()
            return
        if (no := self._owner.overtaken(self.aim)) is not None:
            connection.abort()
            self._close("unknown", error=no.code, then=no)
            return
        self.connection = connection
        connection.ask(self._head, self._body, self)

    async def _evidence(self) -> None:
        evidence: EngineEvidence | None = None
        lost: str | None = None
        try:
            evidence = await self._owner.plane.handshakes.evidence(self.aim, self.binding, self.entry.call)
        except GenealogError as error:
            lost = error.code
            log.warning("call %s is not at A3: %s", self.entry.call.id, lost)
        self._task = None
        if not self.closed:
            self._finish(evidence, lost)

    def _finish(self, evidence: EngineEvidence | None, lost: str | None) -> None:
        status, released = self._status, self._released
        if released is not None and not released.out:
            told = released.error(self.entry.call.id)
            self._close("complete", evidence=evidence, error=told.code, then=told)
            return
        self._close(
            "upstream_error" if status is not None and status >= 500 else "complete",
            evidence=evidence,
            error=lost,
            whole=True,
        )

    # What policy makes of it

    def _decide(self, releasing: Releasing, hold: Hold) -> None:
        """Let the answer pass `hold`, or nothing of it; or let it wait until somebody knows."""
        looks = releasing.looks(self._owner.name)
        found = None if looks else releasing.known(self._question())
        if found is not None:
            self._released_as(found, hold)
            return
        self._passing, self._hold = hold, waiting()
        if not looks:
            self._later(self._ask_release(releasing))

    def _question(self, answer: Answer | None = None) -> Question:
        owner = self._owner
        return Question(owner.live, self.aim, self.binding.level, owner.who, answer)

    def _answer(self, body: bytes) -> Answer:
        owner = self._owner
        return Answer(
            body, owner.dialect, owner.operation, self._status or 0, self._kind, self._encoding, self._headers or {}
        )

    async def _ask_release(self, releasing: Releasing) -> None:
        waited, passing = self._hold, self._passing
        if waited is None or passing is None:
            raise AssertionError("nothing waits")
        answer = self._answer(waited.rest) if releasing.looks(self._owner.name) else None
        found = await releasing.ask(self._question(answer))
        self._task = None
        if self.closed:
            return
        self._passing = None
        self._released_as(found, passing)
        early = waited.rest
        if found.out and early and (free := passing.feed(early)):
            self._pass(free)
        else:
            self._start_early()
        if self._is_whole:
            self.end()

    def _released_as(self, found: Released, passing: Hold) -> None:
        self._released = found
        self._hold = passing if found.out else Nothing()

    def _start_early(self) -> None:
        """Give the head of a stream to the client, which may wait long for the first event."""
        hold = self._hold
        if hold is not None and hold.way is Way.MARKED and not hold.empty and not self._dropped:
            self._start()

    def _pass(self, free: bytes) -> None:
        if self._dropped:
            return
        reply = self._owner.reply
        if not reply.started:
            self._start()
        reply.write(free)
        self.delivered += len(free)

    def _close(
        self,
        finish: Finish,
        *,
        error: str | None = None,
        evidence: EngineEvidence | None = None,
        whole: bool = False,
        then: GenealogError | None = None,
    ) -> bool:
        """Put the outcome on record, once. `whole`: then give the client the end; `then`: tell it that instead."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        owner, call, released = self._owner, self.entry.call, self._released
        try:
            call.close(
                finish=finish,
                status=self._status,
                content_type=self._kind,
                content_encoding=self._encoding,
                delivered=None if whole else self.delivered,
                assurance="A3" if evidence is not None else self._unsigned(),
                error=error,
                engine=evidence,
                parts=owner.parts,
                headers=self._headers,
                first_byte_at=self._first,
                endpoint=self._spki,
                release=released.action if released is not None else None,
                release_flags=released.flags if released is not None else (),
            )
        except StoreError as unwritable:
            log.error("call %s: its outcome could not be recorded: %s", call.id, unwritable.code)
            self._count("unknown")
            if whole or then is not None:
                self._withhold(unwritable)
            return False
        self._count(finish)
        if whole:
            self.entry.settle(self._settled)
        elif then is not None:
            self.entry.settle(lambda failed: owner.fail(withheld(failed) if failed else then, self))
        return True

    def _settled(self, failed: StoreError | None) -> None:
        """Give the client the rest: the outcome is on record."""
        owner = self._owner
        if failed is not None:
            log.error("call %s: its outcome could not be recorded: %s", self.entry.call.id, failed.code)
            self._withhold(failed)
            return
        if not owner.reply.started:
            self._start(whole=True)
        owner.reply.end(self._hold.rest if self._hold is not None else b"")
        owner.over()

    def _withhold(self, error: StoreError) -> None:
        self._owner.fail(withheld(error), self)

    def _broken(self, error: StoreError) -> None:
        """End a call of which a piece could not be recorded. The sequencer closes it as unknown."""
        log.error("call %s: a piece of it could not be recorded: %s", self.entry.call.id, error.code)
        self._abort()
        self.closed = True
        self._count("unknown")
        self._withhold(error)

    def _lost(self, error: UpstreamError) -> None:
        """Put on record that the upstream failed; then the next target, or the client is told."""
        plane, owner = self._owner.plane, self._owner
        plane.handshakes.forget(self.aim)
        plane.health.failed(self.aim)
        finish: Finish = "refused" if error.code == "upstream-key-mismatch" else "upstream_error"
        if self._dropped:
            finish, error_code = "client_abandoned", "client-gone"
        else:
            error_code = error.code
        if not owner.reply.started and not self._dropped and finish == "upstream_error" and owner.may_retry():
            if self._close(finish, error=error_code):
                owner.retry(error)
            else:
                owner.fail(_unrecorded(), self)
            return
        self._close(finish, error=error_code, then=error)

    def _enough(self) -> None:
        """Read no more of an answer that is replaced."""
        self._timer = None
        self._abort()
        if not self.closed:
            self._replace()

    def _replace(self) -> None:
        status = self._status or 0
        owner = self._owner
        if status != 429:
            owner.plane.health.failed(self.aim)
        if self._close("upstream_error" if status >= 500 else "complete"):
            owner.retry(None)
        else:
            owner.fail(_unrecorded(), self)

    def _start(self, *, whole: bool = False) -> None:
        response, owner = self._response, self._owner
        if response is None:
            return
        headers = rules.to_client(response.headers, response.names)
        headers += owner.ours(self.entry.call.id, self.aim, self.binding)
        if self._released is not None:
            headers += self._released.wire
        length = response.length
        if self._head.startswith(b"HEAD ") and (stated := response.first(b"content-length")) is not None:
            length = int(stated)
        owner.reply.start(response.status, headers, length, whole=whole)

    def _unsigned(self) -> Assurance:
        """Return the level of an answer that no engine vouches for."""
        if self.aim.origin.pins:
            return "A2" if self._status is not None else "A0"
        if self._status is None:
            return "A0"
        own = self._reported if self._reported is not None else self._reports(self.entry.call.held)
        return "A1" if own else "A0"

    def _reports(self, held: Any) -> bool:
        asked = self.aim.target.served_as or self._owner.name
        return reports_itself(
            held, content_type=self._kind or "", content_encoding=self._encoding or "", asked=asked
        )  # fmt: skip

    def _count(self, finish: Finish) -> None:
        owner = self._owner
        plane = owner.plane
        call = self.entry.call
        plane.counters.ended(finish, self._status, plane.now() - self._began)
        plane.counters.add("response_bytes", call.received)

    def _abort(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()


def withheld(error: StoreError) -> StoreError:
    """Return what a client is told whose answer could not be recorded."""
    return StoreError(
        "spool-unwritable",
        "the answer came but could not be recorded, so it is withheld",
        got=error.code,
        hint="free disk space on the gateway, then try again",
    )


def _unrecorded() -> StoreError:
    return withheld(StoreError("spool-broken", "this spool takes no more frames"))
