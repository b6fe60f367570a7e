"""One connection of a client: reads requests, asks an `Application` for a `Handler` of each, writes what comes back.

    head → Application(request, reply) → handler.body… → handler.body_end     ⇄     reply.start → write… → end

One request at a time: what a client sends ahead waits in a buffer with a limit, then in the kernel's. All that is
written in one turn of the event loop leaves in one piece. Reading and writing slow each other down (`pause`). No
connection has a task or a timer: a sweep of the server looks at all deadlines.

Long because a connection and its reply are one state machine, and each half of it must see the other.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from genealog.gateway.http1 import tls
from genealog.gateway.http1.chunks import Chunked
from genealog.gateway.http1.head import (
    END,
    PeerCertificate,
    RefusedError,
    Request,
    read_request,
    write_response,
)  # fmt: skip

if TYPE_CHECKING:
    from genealog.gateway.http1.server import Server

_HEAD, _BODY, _CHUNKS, _ANSWER, _LAST, _GONE = range(6)  # _LAST: the last word is said, what still comes is not read
_HIGH = 256 * 1024  # bytes that a client did not take yet, at which we stop to produce more
_JOIN = 64 * 1024  # larger pieces are not copied together
_IN_BODY = (_BODY, _CHUNKS)
_NEVER = math.inf
_NO_BODY = frozenset((204, 304))


class Handler(Protocol):
    """What an application does with one request. None of its methods is called after `lost` or the reply's end."""

    def body(self, data: bytes) -> None:
        """Take bytes of the request's body."""

    def body_end(self) -> None:
        """Know that the body is complete; comes once, without a body too."""

    def lost(self) -> None:
        """Know that the client went away, or broke the rules, before the reply ended."""

    def pause(self) -> None:
        """Write no more for now: the client reads slower."""

    def resume(self) -> None:
        """Write on."""


class Reply:
    """The answer to one request. After `ended` and after the client is lost, everything here does nothing."""

    __slots__ = ("_chunked", "_left", "_link", "_silent", "ended", "started")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._chunked = False
        self._silent = False  # HEAD, 204, 304: no body, whatever is written
        self._left = -1  # bytes until the length; below 0: it has none
        self.started = False
        self.ended = False

    def start(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], length: int | None, *, whole: bool = False
    ) -> None:
        """Send a final status and headers. `length` None: in chunks (to HTTP/1.0: until the connection closes).
        `whole`: `end` is called next, so that nothing needs to leave before.

        Content-Length, Transfer-Encoding, Connection and Keep-Alive among `headers` are left out: they are the
        server's. Raises: GenealogError if a header holds a line break or NUL.
        """
        if self.ended or self.started:
            return
        link = self._link
        request = link.request
        if not link.keep or link.server.draining:
            link.keep = False
            last = b"connection: close\r\n"
        else:
            last = b""
        if status in _NO_BODY:
            self._silent = True
        elif length is not None:
            last = b"content-length: %d\r\n%b" % (length, last)
            self._left = length
        elif request.old:
            link.keep = False
            last = b"connection: close\r\n"
        else:
            last = b"transfer-encoding: chunked\r\n" + last
            self._chunked = True
        head = write_response(status, headers, last)
        if request.method == "HEAD":
            self._silent = True
        self.started = True
        link.head_at = len(link.pending)
        link.pending.append(head)
        if not whole:
            link.send_soon()

    def write(self, data: bytes) -> None:
        """Send bytes of the body at the end of this turn of the loop."""
        if self._add(data):
            self._link.send_soon()

    def _add(self, data: bytes) -> bool:
        """Put bytes of the body behind what is pending; say whether there is something to send."""
        if self.ended or self._silent or not data:
            return False
        if not self.started:
            self.cut()  # a body without a head is nothing
            return False
        link = self._link
        if self._chunked:
            link.pending += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            if self._left >= 0:
                self._left -= len(data)
                if self._left < 0:
                    self.cut()  # more than was said: a client would take it for the next answer
                    return False
            link.pending.append(data)
        return True

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes and the end, now. An answer shorter than its length is cut instead."""
        self._add(data)
        if self.ended:
            return
        if (self._left > 0 and not self._silent) or not self.started:
            self.cut()
            return
        self.ended = True
        link = self._link
        if self._chunked and not self._silent:
            link.pending.append(b"0\r\n\r\n")
        link.replied()

    def cut(self) -> None:
        """Close without an end: what was sent before is all that the client gets, and it can tell."""
        if self.ended:
            return
        self.ended = True
        told = self._left > 0 or self._chunked or self._silent or not self.started
        self._link.drop(told=told)

    def pause_body(self) -> None:
        """Read no more of the request's body for now. What was read already still comes."""
        if not self.ended:
            self._link.pause_body()

    def resume_body(self) -> None:
        """Read on."""
        if not self.ended:
            self._link.resume_body()


Application = Callable[[Request, Reply], Handler]


class Link(asyncio.Protocol):
    """One connection of a client. An application has its `Reply`, never this."""

    __slots__ = (
        "_ahead", "_certificate", "_chunked", "_floor", "_handler", "_left", "_limits", "_loop", "_paused", "_peer",
        "_reply", "_scanned", "_sending", "_state", "_stopped", "_transport", "deadline", "head_at", "keep", "pending",
        "request", "server", "stalled",
    )  # fmt: skip

    _transport: asyncio.Transport
    request: Request

    def __init__(self, server: Server) -> None:
        self.server = server
        self.keep = True
        self.pending: list[bytes] = []
        self.head_at = -1  # place in `pending` of the reply's head, if it is there
        self.deadline = _NEVER  # until when something must come from the client
        self.stalled = _NEVER  # until when it must have read something
        self._loop = server.loop
        self._limits = server.limits
        self._state = _HEAD
        self._ahead = bytearray()  # what came and is not read yet: part of a head, or the next requests
        self._scanned = 0  # bytes of it in which no head ends
        self._left = 0  # bytes of the body to come
        self._floor = 0  # bytes of it to come until the deadline
        self._chunked: Chunked | None = None
        self._handler: Handler | None = None
        self._reply: Reply | None = None
        self._sending = False  # at the end of this turn
        self._stopped = False  # reading, because too much came ahead
        self._paused = False  # reading, because the application wants that
        self._peer = ""
        self._certificate: PeerCertificate | None = None

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH)
        address = transport.get_extra_info("peername")
        self._peer = str(address[0]) if isinstance(address, tuple) else ""
        server = self.server
        server.links.add(self)
        if server.closed or len(server.links) > self._limits.connections:
            self._state = _GONE
            transport.close()
            return
        self._certificate = tls.of_peer(transport)
        self.deadline = server.now + self._limits.head_time

    @property
    def busy(self) -> bool:
        """Whether a request is not answered completely."""
        return self._reply is not None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the application, if it still works for this client."""
        self._state = _GONE
        self.server.links.discard(self)
        self._lose()
        self.server.left()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        state = self._state
        if state == _HEAD:
            if self._ahead:
                self._ahead += data
                self._more_head()
            else:
                self._read(data, 0)
        elif state <= _CHUNKS:
            self._read(data, 0)
        elif state == _ANSWER:
            self._ahead += data
            if len(self._ahead) > self._limits.ahead and not self._stopped:
                self._stopped = True
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Know that the client reads slower than we write."""
        self.stalled = self.server.now + self._limits.stall_time
        if self._handler is not None:
            self._handler.pause()

    def resume_writing(self) -> None:
        """Know that it caught up."""
        self.stalled = _NEVER
        if self._handler is not None:
            self._handler.resume()
        elif self._reply is None and self._state == _ANSWER:
            self._ready()

    # Reading

    def _more_head(self) -> None:
        """Look whether the head that came in pieces is complete now."""
        ahead = self._ahead
        stop = ahead.find(END, max(0, self._scanned - 3))
        if stop >= 0:
            self._read(self._take_ahead(), 0)
            return
        since = max(0, self._scanned - 1)
        if ahead.count(b"\n", since) != ahead.count(b"\r\n", since) + (since > 0 and ahead[since] == 10):
            self._refuse(RefusedError("control characters"))
        elif len(ahead) > self._limits.head + 3 + (2 if ahead[:2] == b"\r\n" else 0):
            self._refuse(RefusedError("head size", 431, expected=f"at most {self._limits.head} bytes"))
        self._scanned = len(ahead)

    def _read(self, data: bytes, at: int) -> None:
        """Read `data` from `at`: what is left of a body, or a head and what follows it."""
        if self._state == _HEAD:
            stop = data.find(END, at)
            if stop < 0:
                if not self._ahead and self.deadline != _NEVER:
                    self.deadline = self.server.now + self._limits.head_time
                self._ahead += data[at:] if at else data
                self._more_head()
                return
            if not self._begin(data[at:stop]):
                return
            at = stop + 4
        if at < len(data) and self._state in _IN_BODY:
            at = self._read_body(data, at)
        if at < len(data) and self._state <= _ANSWER:
            self._ahead += data[at:]
            if self._state == _HEAD:  # it is answered already
                self._loop.call_soon(self._next)

    def _begin(self, head: bytes) -> bool:
        """Make the handler of a request; say whether what follows the head is to be looked at."""
        try:
            request = read_request(head, self._limits, self._peer, self._certificate)
        except RefusedError as error:
            self._refuse(error)
            return False
        server = self.server
        server.requests += 1
        self.request = request
        self.keep = request.keep
        self._reply = reply = Reply(self)
        length = request.length
        if length == 0:
            self._state = _ANSWER
            self.deadline = _NEVER
        else:
            self.deadline = server.now + self._limits.body_time
            self._floor = self._limits.body_floor
            if length is None:
                self._state = _CHUNKS
                self._chunked = Chunked(self._limits)
                self._left = -1 if self._limits.body is None else self._limits.body
            else:
                self._state = _BODY
                self._left = length
        handler = server.application(request, reply)
        if reply.ended:
            return self._state < _LAST
        self._handler = handler
        if length == 0:
            handler.body_end()
            return True
        if request.expects and not reply.started and not self._paused:
            self.pending.append(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.send_soon()
            request.expects = False
        return True

    def _read_body(self, data: bytes, at: int) -> int:
        """Give what is body of `data` from `at` to the handler; return the place where it ends."""
        handler, reply = cast("Handler", self._handler), cast("Reply", self._reply)
        if self._state == _BODY:
            stop = min(len(data), at + self._left)
            piece = data[at:stop]
            at = stop
            self._left -= len(piece)
            complete = not self._left
            refused = None
        else:
            chunked = cast("Chunked", self._chunked)
            pieces: list[bytes] = []
            at = chunked.feed(data, at, pieces)
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            complete, refused = chunked.done, chunked.refused
            if self._left >= 0:
                self._left -= len(piece)
                if self._left < 0:
                    self._left = 0
                    self._refuse(RefusedError("body size", 413, expected=f"at most {self._limits.body} bytes"))
                    return len(data)
        if complete:
            self._state = _ANSWER
            self._chunked = None
            self.deadline = _NEVER
        else:
            self._floor -= len(piece)
            if self._floor <= 0:
                self._floor = self._limits.body_floor
                self.deadline = self.server.now + self._limits.body_time
        if piece:
            handler.body(piece)
        if refused is not None:
            if self._reply is reply:
                self._refuse(refused)
            return len(data)
        if complete and self._reply is reply and not reply.ended:
            if self._paused:
                self.resume_body()
            handler.body_end()
        return at

    def _next(self) -> None:
        """Read the request that came before the one before it was answered."""
        if self._state == _HEAD and self._ahead:
            self.deadline = self.server.now + self._limits.head_time
            self._read(self._take_ahead(), 0)

    def _take_ahead(self) -> bytes:
        data = bytes(self._ahead)
        self._ahead.clear()
        self._scanned = 0
        if self._stopped:
            self._stopped = False
            self._resume_reading()
        return data

    # Writing

    def send_soon(self) -> None:
        """Send what is pending when this turn of the loop is over."""
        if not self._sending:
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        pending = self.pending
        if pending:
            self.pending = []
            self.head_at = -1
            if self._state != _GONE:
                transport = self._transport
                if len(pending) == 1:
                    transport.write(pending[0])
                elif sum(map(len, pending)) <= _JOIN:
                    transport.write(b"".join(pending))
                else:
                    transport.writelines(pending)

    def replied(self) -> None:
        """Send the end of the reply and be ready for the next request, or close."""
        self._handler = self._reply = None
        if self._state == _ANSWER and self.keep:
            self._flush()
            if self.stalled == _NEVER:
                self._ready()
            return
        if self.keep and self.head_at >= 0:  # nobody reads the rest of the body: the client shall know
            self.pending[self.head_at] = self.pending[self.head_at][:-2] + b"connection: close\r\n\r\n"
        self._say_last()

    def _ready(self) -> None:
        """Read the next request: the last one is answered, and the client took most of the answer."""
        self._state = _HEAD
        self.deadline = self.server.now + self._limits.idle_time
        if self._ahead:
            self._loop.call_soon(self._next)
        elif self.server.draining:
            self._close()

    def _flush(self) -> None:
        """Send what is pending, now."""
        sending = self._sending
        self._send()
        self._sending = sending  # a call of it may be under way: it will find nothing

    def _say_last(self) -> None:
        """Send what is pending and close, in a way that the client gets to read it."""
        whole = self._state == _ANSWER and not self._ahead
        self._state = _LAST
        self._ahead.clear()
        self._flush()
        if whole or self._transport.is_closing() or not self._transport.can_write_eof():
            self._close()
            return
        self._transport.write_eof()  # a reset, because we do not read on, would take our words from the client
        self.deadline = self.server.now + self._limits.linger_time
        self._stopped = self._paused = False
        self._resume_reading()

    def drop(self, *, told: bool) -> None:
        """Close in the middle of an answer. `told`: the client can see from its bytes that it has no end."""
        self._handler = self._reply = None
        if told:
            self._flush()
            self._close()
        else:
            self.pending.clear()
            self._state = _GONE
            self._transport.abort()

    def _close(self) -> None:
        self._state = _GONE
        self.deadline = _NEVER
        self.stalled = min(self.stalled, self.server.now + self._limits.stall_time)
        self._transport.close()

    def _refuse(self, error: RefusedError) -> None:
        """Answer that these bytes are no request, if there is still a way to answer, and close."""
        self.server.refused += 1
        reply = self._reply
        started = reply is not None and reply.started
        self._lose()
        if started:
            self.drop(told=True)
            return
        body = json.dumps(error.problem()).encode()
        headers = [(b"content-type", b"application/problem+json")]
        last = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        self.pending += (write_response(error.status, headers, last), body)
        self._say_last()

    def _lose(self) -> None:
        handler, reply = self._handler, self._reply
        self._handler = self._reply = None
        if reply is not None:
            reply.ended = True
        if handler is not None:
            handler.lost()

    # Time and flow

    def sweep(self, now: float) -> None:
        """Act on a deadline that is over."""
        if self.stalled < now:
            self._transport.abort()
        elif self.deadline < now:
            if self._state == _LAST or (self._state == _HEAD and not self._ahead):
                self._close()
            elif self._state <= _CHUNKS:
                if self._paused:
                    self.deadline = now + self._limits.body_time
                else:
                    self._refuse(RefusedError("too slow", 408))
            else:
                self._transport.abort()

    def drain(self) -> None:
        """Close if nothing is under way."""
        if self._state == _HEAD and not self._ahead:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_body(self) -> None:
        """Stop reading."""
        if self._state in _IN_BODY and not self._paused:
            self._paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def resume_body(self) -> None:
        """Read on, and say so to a client that waits for it."""
        if self._paused:
            self._paused = False
            self.deadline = self.server.now + self._limits.body_time if self._state < _ANSWER else _NEVER
            reply = self._reply
            if self.request.expects and self._state < _ANSWER and reply is not None and not reply.started:
                self.request.expects = False
                self.pending.append(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.send_soon()
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._stopped and not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
