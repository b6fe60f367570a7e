"""One request of a client, from its head to the end of its reply: which deployment, which target, and what to try next.

    head → who → body (enough of it) → name → directory → target → binding → policy → connection → intent → `Exchange`

A step that has its answer at hand goes on at once, in the same callback; only what has to be waited for (a name that
the snapshot does not have, a handshake, a policy, a new connection) makes a task. Whoever waited looks whether the
registry has changed meanwhile, and if so decides anew. How a request comes in is in `taking`; from its intent on, each
piece of a big one is on record before it goes upstream.

Long because the steps of one request, and what interrupts them, are one machine to be read in one place.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from genealog.core.frames import Finish
from genealog.deploy import Live
from genealog.errors import GenealogError, MalformedError, MissingError, StoreError, UpstreamError
from genealog.gateway import headers as rules
from genealog.gateway import outgoing
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim, order
from genealog.gateway.directory import Found
from genealog.gateway.exchange import Exchange
from genealog.gateway.handshake import Binding
from genealog.gateway.http1 import Connection, Reply, Request
from genealog.gateway.judged import closed, context_of, denied, loop, overtaken, revocation
from genealog.gateway.parts import Parts
from genealog.gateway.policing import Policing, Ruling
from genealog.gateway.record import Name
from genealog.gateway.recording import Entry, unwritable
from genealog.gateway.refusal import refusal
from genealog.gateway.routes import Route
from genealog.gateway.said import read_said
from genealog.gateway.taking import Taking
from genealog.store.gateway_settings import Upstream

_NO_SECTION = Upstream()

log = logging.getLogger("genealog.gateway")


class Asking(Taking):
    """One request: a `http1.Handler`, and the `exchange.Owner` of its attempts."""

    __slots__ = (
        "_aims", "_attempt", "_found", "_lot", "_over_cb", "_task", "_trace", "name", "ruling", "streams", "who",
    )  # fmt: skip

    def __init__(
        self, plane: Parts, request: Request, reply: Reply, route: Route, who: Who, over: Callable[[Asking], None]
    ) -> None:
        super().__init__(plane, request, reply, route)
        self.who = who
        self.name = ""
        self.streams = bool(route.streams)
        self.ruling: Ruling | None = None  # what policy says of this attempt
        self._over_cb = over
        self._attempt = 0
        self._trace: str | None = None
        self._lot: Name | None = None
        self._aims: tuple[Aim, ...] = ()
        self._found: Found | None = None
        self._task: Any = None

    @property
    def dialect(self) -> str:
        """As the intent says it."""
        return self.route.dialect

    @property
    def operation(self) -> str:
        """As the intent says it."""
        return self.route.operation

    @property
    def live(self) -> Live:
        """The deployment that is asked."""
        return self._live()

    # From the client

    def lost(self) -> None:
        """Know that the client is gone, or broke the rules in the middle of its request."""
        if self._over:
            return
        exchange = self._exchange
        if exchange is not None:
            exchange.client_gone()
        elif self._began:
            self._stop_waiting()
            self._record("client_abandoned", "client-gone")
        self.over()

    def pause(self) -> None:
        """Read no more from upstream: the client does not keep up."""
        exchange = self._exchange
        if exchange is not None and exchange.connection is not None:
            exchange.connection.pause()

    def resume(self) -> None:
        """Read on."""
        exchange = self._exchange
        if exchange is not None and exchange.connection is not None:
            exchange.connection.resume()

    def stop(self) -> None:
        """End now: the gateway stops."""
        if self._exchange is not None:
            self._exchange.break_off("unknown", "gateway-stopped")
        self._stop_waiting()
        self.reply.cut()
        self.over()

    def crashed(self) -> None:
        """End it: something failed that nobody thought of. The log of this process says where."""
        if self._over:
            return
        error = StoreError("gateway-failed", "the gateway made a mistake", hint="its log says where; please report it")
        exchange = self._exchange
        if exchange is not None:
            exchange.break_off("unknown", error.code)
        else:
            self._record("unknown", error.code)
        if not self._over:
            self.fail(error, exchange)

    def cut(self) -> None:
        """Break off an answer of a model that was revoked meanwhile."""
        exchange = self._exchange
        if exchange is None or exchange.closed or not self._sent:
            return
        no = revocation(exchange.aim, self.plane.directory.revoked, code="revoked-while-serving")
        if no is not None:
            self.plane.counters.add("cut")
            log.warning("call %s is cut: %s", exchange.entry.call.id, no.message)
            exchange.break_off("unknown", no.code)
            self.fail(no, exchange)

    def look_at_silence(self, now: float) -> None:
        """Break off an attempt whose upstream has been silent for too long."""
        exchange = self._exchange
        if exchange is None or not self._sent:
            return
        credentials = exchange.aim.credentials
        section = credentials.section if credentials is not None else _NO_SECTION
        if (patience := section.read_timeout) < now - exchange.last:
            exchange.silent(patience)

    # Of the attempts

    def may_retry(self) -> bool:
        """Say whether another attempt may follow."""
        found = self._found
        live = found.live if found is not None else None
        return live is not None and self._attempt < live.body.attempts and not self._more and not self._over

    def retry(self, error: GenealogError | None) -> None:
        """Make the next attempt."""
        log.info("call %s: attempt %d was not it: %s", self._trace, self._attempt, error.code if error else "status")
        self._exchange = None
        if not self._over:
            self.plane.counters.add("retries")
            self._next()

    def overtaken(self, aim: Aim) -> GenealogError | None:
        """Say why a request must not be sent any more: it waited for a disk or a connection, or this process was
        stopped, and the registry has moved on.
        """
        directory = self.plane.directory
        found = directory.look(self.name)
        return None if found is self._found else overtaken(found, aim, directory.revoked)

    def fail(self, error: GenealogError, exchange: Exchange | None) -> None:
        """Tell the client that there is no answer; leave one that has begun without an end."""
        if self.reply.started:
            self.reply.cut()
        elif exchange is not None:
            self._answer(error, self.ours(exchange.entry.call.id, exchange.aim, exchange.binding))
        else:
            self._answer(error, [])
        self.over()

    def ours(self, call: str, aim: Aim | None, binding: Binding | None) -> list[tuple[bytes, bytes]]:
        """Return the headers that the gateway puts on every answer to a call."""
        result = [(b"genealog-call", call.encode())]
        if aim is not None:
            result.append((b"genealog-model", aim.named))
        elif self._found is not None and self._found.live is not None:
            result.append((b"genealog-model", ",".join(self._found.live.body.models).encode()))
        if binding is not None:
            result.append((b"genealog-assurance", binding.level.encode()))
        if self._trace is not None and self._trace != call:
            result.append((b"genealog-trace", self._trace.encode()))
        if self.ruling is not None:
            result += self.ruling.headers
        return result

    def over(self) -> None:
        """Know that the reply has ended."""
        if not self._over:
            self._over = True
            self._exchange = None  # it knows us too: what a call leaves shall die by its count
            self.plane.counters.add("request_bytes", self._size)
            self._pieces.clear()
            self._over_cb(self)

    # Steps

    def _begin(self, *, more: bool) -> None:
        """Find out what is asked for, as soon as that can be known."""
        self._began = True
        self._more = more
        self._body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        try:
            said = read_said(
                self.route, self._body, given=self._given, form=self._form, default=self.plane.settings.default,
                whole=not more,
            )  # fmt: skip
        except GenealogError as error:
            self._refuse(error)
            return
        self.name, self.streams = said.name, said.streams
        found = self.plane.directory.look(self.name)
        if found is None:
            self._later(self._find())
        else:
            self._go(found)

    async def _find(self) -> None:
        found = await self.plane.directory.find(self.name)
        if self._waited():
            self._go(found)

    def _go(self, found: Found) -> None:
        """Choose where the call may go."""
        self._found = found
        live = found.live
        if found.refusal is not None or live is None:
            self._refuse(found.refusal or MissingError("unknown-deployment", "no deployment has this name"))
            return
        plane = self.plane
        if plane.mark in rules.via(self.request.headers):
            self._refuse(loop(live))
            return
        if (denied := plane.admission.admit(self.who, self.name)) is not None:
            self._refuse(denied)
            return
        self._aim(live)

    def _aim(self, live: Live) -> None:
        """Go to the targets of a deployment, in the order of this call."""
        plane = self.plane
        try:
            aims = plane.aims(live)
        except GenealogError as error:
            self._refuse(error)
            return
        if len(aims) > 1 or live.body.attempts > 1:
            self._lot = plane.recording.draw()
            aims = order(aims, self._lot.lot, plane.health)
        self._aims = aims
        self._next()

    def _next(self) -> None:
        """Make the next attempt."""
        self.ruling = None
        if self._moved():
            return
        aim = self._aims[self._attempt % len(self._aims)]
        self._attempt += 1
        binding = self.plane.handshakes.known(aim)
        if binding is None:
            self._later(self._bind(aim))
        else:
            self._bound(aim, binding)

    def _again(self) -> None:
        """Make this attempt from its beginning: while it waited, the registry has changed, or a ruling is over."""
        self._attempt -= 1
        self._next()

    def _moved(self) -> bool:
        """Look at the registry's last word: say whether the call goes another way by now, or nowhere."""
        found = self.plane.directory.look(self.name)
        if found is self._found:
            return False
        if found is None:
            self._later(self._look_again())
            return True
        if found.live is None or found.refusal is not None:
            self._refuse(found.refusal or MissingError("unknown-deployment", "no deployment has this name"))
            return True
        before, self._found = self._found, found
        if before is not None and before.live is found.live:
            return False
        self._aim(found.live)
        return True

    async def _look_again(self) -> None:
        """Go on if the registry can be read: what was known of it is older than a lease."""
        found = await self.plane.directory.find(self.name)
        if not self._waited():
            return
        if found.live is None or found.refusal is not None:
            self._refuse(found.refusal or MissingError("unknown-deployment", "no deployment has this name"))
        else:
            self._next()

    async def _bind(self, aim: Aim) -> None:
        try:
            binding = await self.plane.handshakes.bind(aim)
        except GenealogError as error:
            if self._waited():
                self._unreachable(aim, Binding("A0", reason=error.code), error)
        else:
            if self._waited():
                self._bound(aim, binding)

    def _bound(self, aim: Aim, binding: Binding) -> None:
        """Refuse what answers there, or ask it."""
        live = self._live()
        if (no := denied(live, binding) or closed(live, aim, self.route.dialect)) is not None:
            self._refuse(no, aim=aim, binding=binding)
            return
        policing = self.plane.policing
        if policing is None:
            self._allowed(aim, binding)
            return
        ruling = policing.known(self._asked(), aim, binding.level, self.who)
        if ruling is None:
            self._later(self._rule(policing, aim, binding))
        else:
            self._ruled(aim, binding, ruling)

    async def _rule(self, policing: Policing, aim: Aim, binding: Binding) -> None:
        ruling = await policing.rule(self._asked(), aim, binding.level, self.who, self.plane.directory.age)
        if not self._waited():
            return
        if self.plane.directory.look(self.name) is self._found:
            self._ruled(aim, binding, ruling)
        else:
            self._again()

    def _ruled(self, aim: Aim, binding: Binding, ruling: Ruling) -> None:
        """Refuse what policy denies, or ask for it."""
        self.ruling = ruling
        _, flags, waived = ruling.on_record
        if flags or waived:
            self.plane.counters.add("waived" if waived else "flagged")
        if ruling.denial is not None:
            self.plane.counters.add("denied")
            self._refuse(ruling.denial, aim=aim, binding=binding)
        else:
            self._allowed(aim, binding)

    def _allowed(self, aim: Aim, binding: Binding) -> None:
        connection = self.plane.pool.take(aim.origin)
        if connection is None:
            self._later(self._open(aim, binding))
        else:
            self._connected(aim, binding, connection)

    async def _open(self, aim: Aim, binding: Binding) -> None:
        try:
            connection = await self.plane.pool.open(aim.origin)
        except GenealogError as error:
            if self._waited():
                self._unreachable(aim, binding, error)
            return
        if not self._waited():
            connection.abort()
        elif self.ruling is not None and self.plane.policing is not None and not self.plane.policing.good(self.ruling):
            connection.abort()
            self._again()
        else:
            self._connected(aim, binding, connection)

    def _unreachable(self, aim: Aim, binding: Binding, error: GenealogError) -> None:
        """Put on record that an attempt did not come to a connection."""
        plane = self.plane
        plane.handshakes.forget(aim)
        plane.health.failed(aim)
        if isinstance(error, UpstreamError) and error.code != "upstream-key-mismatch":
            again = self.may_retry()
            entry = self._record("upstream_error", error.code, aim=aim, binding=binding)
            if entry is not None and again:
                self.retry(error)
            elif entry is not None:
                self._tell(entry, error, aim, binding)
            return
        self._refuse(error, aim=aim, binding=binding)

    def _connected(self, aim: Aim, binding: Binding, connection: Connection) -> None:
        """Put the intent on record."""
        plane = self.plane
        if plane.directory.look(self.name) is not self._found:
            connection.abort()
            self._again()
            return
        try:
            body, changed = outgoing.forwarded(
                self.route, self._body, self.name, aim, form=self._form, given=self._given is not None
            )  # fmt: skip
            entry = self._open_entry(aim, binding, changed, body)
        except GenealogError as error:
            connection.abort()
            self._unrecorded(error)
            return
        exchange = self._exchange = Exchange(self, entry, aim, binding, connection, plane.now())
        entry.settle(lambda failed: self._dispatch(exchange, body, changed, failed))

    def _dispatch(self, exchange: Exchange, body: bytes, changed: tuple[str, ...], failed: StoreError | None) -> None:
        """Send the request: its intent is on record."""
        connection = exchange.connection
        if failed is not None or self._over or connection is None:
            if failed is not None:
                exchange.break_off("refused", "spool-unwritable")
                self._unrecorded(unwritable(failed))
            elif not exchange.closed:
                exchange.break_off("client_abandoned", "client-gone")
            return
        if (no := self.overtaken(exchange.aim)) is not None:
            exchange.break_off("refused", no.code)
            self.fail(no, exchange)
            return
        try:
            head = outgoing.head_of(self, exchange.aim, exchange.entry.call.id, body, self._length(body), changed)
        except GenealogError as error:
            exchange.break_off("refused", error.code)
            self.fail(error, exchange)
            return
        self._sent = True
        exchange.ask(head, body, more=self._more, chunked=self._length(body) is None)
        if self._more:
            late, self._pieces = self._pieces, []
            for piece in late:
                exchange.upload(piece)
            if self._whole:
                exchange.upload_end()
        if self._paused:
            self._paused = False
            self.reply.resume_body()

    # On record

    def _open_entry(
        self, aim: Aim | None, binding: Binding | None, changed: tuple[str, ...] = (), body: bytes | None = None
    ) -> Entry:
        """Put an intent on record. Raises: StoreError `spool-unwritable`, MalformedError."""
        first = self._attempt <= 1
        forwarded = None
        if body is not None and body is not self._body and not self._more:
            forwarded = hashlib.sha256(body).hexdigest()
        entry = self.plane.recording.open(
            self._body,
            context_of(self, self._found, aim, binding.level if binding and not binding.contradicted else "A0"),
            hold=self.plane.settings.hold,
            name=self._lot if first else None,
            more=self._more,
            trace=None if first else self._trace,
            attempt=max(1, self._attempt),
            changed=changed,
            forwarded=forwarded,
        )
        if self._trace is None:
            self._trace = entry.call.id
        return entry

    def _record(
        self, finish: Finish, code: str, *, aim: Aim | None = None, binding: Binding | None = None
    ) -> Entry | None:
        """Put on record a call that is not made; None, and the client knows, where that is not possible."""
        try:
            entry = self._open_entry(aim, binding)
            entry.call.close(finish=finish, assurance="A0", error=code, parts=self.parts)
        except GenealogError as error:
            self._unrecorded(error)
            return None
        self.plane.counters.ended(finish, None, 0.0)
        return entry

    def refuse(self, error: GenealogError) -> None:
        """Refuse the request for a reason that is known before its body."""
        self._began = True
        self._refuse(error)

    def _refuse(self, error: GenealogError, *, aim: Aim | None = None, binding: Binding | None = None) -> None:
        entry = self._record("refused", error.code, aim=aim, binding=binding)
        if entry is not None:
            self._tell(entry, error, aim, binding)

    def _tell(self, entry: Entry, error: GenealogError, aim: Aim | None, binding: Binding | None) -> None:
        """Say why there is no answer, once that is on record."""
        ours = self.ours(entry.call.id, aim, binding)

        def told(failed: StoreError | None) -> None:
            if failed is not None:
                self._unrecorded(unwritable(failed))
            else:
                self._answer(error, ours)
                self.over()

        entry.settle(told)

    def _unrecorded(self, error: GenealogError) -> None:
        if isinstance(error, StoreError):
            self.plane.counters.add("unwritable")
        self.fail(error, None)

    def _give_up(self, error: MalformedError) -> None:
        """Refuse a request in its middle."""
        exchange = self._exchange
        if exchange is not None:
            exchange.break_off("client_abandoned", error.code)
            self.fail(error, exchange)
            return
        self._stop_waiting()
        self._body = b""
        self._more = False
        self.refuse(error)

    def _answer(self, error: GenealogError, extra: list[tuple[bytes, bytes]]) -> None:
        status, headers, body = refusal(error)
        self.reply.start(status, [*headers, *extra], len(body), whole=True)
        self.reply.end(body)

    def _asked(self) -> Found:
        found = self._found
        if found is None:
            raise AssertionError("a call goes nowhere")
        return found

    def _live(self) -> Live:
        live = self._asked().live
        if live is None:
            raise AssertionError("a call goes nowhere")
        return live

    # Waiting

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self.plane.spawn(work, self.crashed)

    def _waited(self) -> bool:
        """Say whether what was waited for is still wanted."""
        self._task = None
        return not self._over

    def _stop_waiting(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
