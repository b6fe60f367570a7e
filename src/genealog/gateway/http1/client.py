"""The client's side: one connection to an upstream, which answers one request after the other.

    ask(head, body, sink) → sink.head → sink.data… → sink.end, or at any point sink.failed
    more=True: then write… → end_body, while the answer may already come

The end of an answer is never guessed: it is where its length or its last chunk says, or, where it has neither, where
the upstream closed its side in order. All else is `failed`.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Protocol, cast

from genealog.errors import UpstreamError
from genealog.gateway.http1 import tls
from genealog.gateway.http1.chunks import Chunked
from genealog.gateway.http1.head import END, Limits, Origin, RefusedError, Response, read_response

_IDLE, _HEAD, _BODY, _CHUNKS, _UNTIL_CLOSE, _GONE = range(6)
_HIGH = 256 * 1024  # bytes that an upstream did not take yet, at which a sink is told to pause
_JOIN = 64 * 1024  # a larger body is not copied to stand behind its head


class UpstreamLostError(UpstreamError):
    """The connection broke. Nothing of an answer came if not `answered`: on one that was `reused`, ask again."""

    def __init__(self, got: str, *, reused: bool, answered: bool) -> None:
        self.reused = reused
        self.answered = answered
        if answered:
            super().__init__("upstream-died", "the upstream broke off in the middle of its answer", got=got)
        else:
            super().__init__(
                "upstream-unreachable", "the upstream of this deployment did not answer", got=got,
                hint="is the engine running, and is the deployment's upstream its address?",
            )  # fmt: skip

    @property
    def retriable(self) -> bool:
        """Whether it may just have closed an idle connection while we asked."""
        return self.reused and not self.answered


class Sink(Protocol):
    """Who asked. After `end` and after `failed` the connection is no longer theirs, and nothing more is called."""

    def head(self, response: Response) -> None:
        """Take the head of the final answer."""

    def data(self, data: bytes) -> None:
        """Take bytes of its body."""

    def end(self) -> None:
        """Know that it is complete."""

    def failed(self, error: UpstreamError) -> None:
        """Know that it will not be complete."""

    def pause(self) -> None:
        """Write no more of the request's body for now: the upstream reads slower."""

    def resume(self) -> None:
        """Write on."""


class Connection(asyncio.Protocol):
    """One connection to `origin`, made by a pool."""

    __slots__ = (
        "_ahead", "_answered", "_chunked", "_coded", "_give", "_left", "_limits", "_lost", "_paused", "_poll",
        "_response", "_sink", "_state", "_to_head", "_transport", "_uploading", "idle_since", "origin", "reused",
        "spki",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(
        self, origin: Origin, limits: Limits, give: Callable[[Connection], None], lost: Callable[[Connection], None]
    ) -> None:
        self.origin = origin
        self.spki: str | None = None  # SHA-256 of the upstream's public key, in hex; None: no TLS
        self.reused = False  # it answered before
        self.idle_since = 0.0
        self._limits = limits
        self._give = give
        self._lost = lost
        self._state = _IDLE
        self._sink: Sink | None = None
        self._ahead = b""  # part of a head
        self._left = 0  # bytes of the body to come; of a head: 1xx that may still come
        self._chunked: Chunked | None = None
        self._response: Response | None = None
        self._coded = False  # the request's body goes out in chunks
        self._uploading = False
        self._answered = False
        self._paused = False
        self._to_head = False
        self._poll = select.poll()

    # Of the one who asks

    def ask(self, head: bytes, body: bytes, sink: Sink, *, more: bool = False, chunked: bool = False) -> None:
        """Send a request: its head with the empty line, and its body, or with `more` the first part of it.

        `chunked`: the head says so, and we put the body into chunks. Otherwise the head says a length, and whoever asks
        sends as much.
        """
        self._sink = sink
        self._state = _HEAD
        self._answered = False
        self._uploading = more
        self._coded = chunked
        self._left = self._limits.interim
        self._to_head = head[:5] == b"HEAD "
        transport = self._transport
        if transport.is_closing():
            asyncio.get_running_loop().call_soon(self._fail_asking, sink)
        elif chunked:
            last = b"" if more else b"0\r\n\r\n"
            transport.write(b"%b%x\r\n%b\r\n%b" % (head, len(body), body, last) if body else head + last)
        elif len(body) <= _JOIN:
            transport.write(head + body if body else head)
        else:
            transport.writelines((head, body))

    def write(self, data: bytes) -> None:
        """Send more of the request's body. Does nothing after the answer's end."""
        if self._uploading and data:
            if not self._coded:
                self._transport.write(data)
            elif len(data) <= _JOIN:
                self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def end_body(self) -> None:
        """Send the end of the request's body."""
        if self._uploading:
            self._uploading = False
            if self._coded:
                self._transport.write(b"0\r\n\r\n")

    def pause(self) -> None:
        """Read no more of the answer for now. What was read already still comes."""
        if not self._paused and self._sink is not None:
            self._paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once. The sink is told nothing more."""
        self._sink = None
        self._uploading = False
        self._state = _GONE
        self._transport.abort()

    # Of the pool

    def close(self) -> None:
        """Close at once; tell the sink."""
        self._transport.abort()

    @property
    def healthy(self) -> bool:
        """Whether it can be asked: open, and nothing to read, neither an end nor an answer to no question."""
        return self._state == _IDLE and not self._transport.is_closing() and not self._poll.poll(0)

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH)
        sock: socket.socket = transport.get_extra_info("socket")
        self._poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        self.spki = tls.spki_of(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who asked that there will be no more."""
        self._lost(self)
        self._fail(exc)
        self._state = _GONE

    def eof_received(self) -> None:
        """Know that the upstream closed its side, which ends an answer without a length."""
        if self._state == _UNTIL_CLOSE and tls.ended_cleanly(self._transport):
            self._finish(clean=False)
        else:
            self._fail(None)

    def pause_writing(self) -> None:
        """Know that the upstream reads slower than we write."""
        if self._sink is not None and self._uploading:
            self._sink.pause()

    def resume_writing(self) -> None:
        """Know that it caught up."""
        if self._sink is not None and self._uploading:
            self._sink.resume()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        sink = self._sink
        if sink is None:
            self.abort()  # an answer that nobody asked for
            return
        state = self._state
        if state == _HEAD:
            self._read_head(data, sink)
        elif state == _BODY:
            self._read_length(data, 0, sink)
        elif state == _CHUNKS:
            self._read_chunks(data, 0, sink)
        else:
            sink.data(data)

    def _read_head(self, data: bytes, sink: Sink) -> None:  # noqa: PLR0912  a way for each framing
        at = 0
        since = 0
        self._answered = True
        if self._ahead:
            since = max(0, len(self._ahead) - 3)
            data = self._ahead + data
        while True:
            stop = data.find(END, max(at, since))
            if stop < 0:
                self._ahead = data[at:] if at else data
                self._judge_part(self._ahead)
                return
            try:
                response = read_response(data[at:stop], self._limits, to_head=self._to_head)
                at = stop + 4
                if response.status >= 200:
                    break
                self._left -= 1
                if response.status not in (100, 102, 103) or self._left < 0:
                    raise RefusedError("1xx")
            except RefusedError as error:
                self._refuse(error)
                return
        self._ahead = b""
        self._response = response
        length = response.length
        if length is None:
            if response.until_close:
                self._state = _UNTIL_CLOSE
            else:
                self._state = _CHUNKS
                self._chunked = Chunked(self._limits)
        else:
            self._state = _BODY
            self._left = length
        sink.head(response)
        if self._sink is not sink:
            return
        if length is not None:
            self._read_length(data, at, sink)
        elif response.until_close:
            if at < len(data):
                sink.data(data[at:])
        elif at < len(data):
            self._read_chunks(data, at, sink)

    def _judge_part(self, ahead: bytes) -> None:
        """Refuse the beginning of a head that cannot become one."""
        if ahead.count(b"\n") != ahead.count(b"\r\n"):
            self._refuse(RefusedError("control characters"))
        elif len(ahead) > self._limits.head + 3:
            self._refuse(RefusedError("head size"))

    def _read_length(self, data: bytes, at: int, sink: Sink) -> None:
        left = self._left
        rest = len(data) - at
        if rest < left:
            self._left = left - rest
            if rest:
                sink.data(data[at:] if at else data)
            return
        self._left = 0
        if left:
            sink.data(data[at : at + left])
        if self._sink is sink:
            self._finish(clean=rest == left)

    def _read_chunks(self, data: bytes, at: int, sink: Sink) -> None:
        chunked = cast("Chunked", self._chunked)
        pieces: list[bytes] = []
        at = chunked.feed(data, at, pieces)
        if pieces:
            sink.data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self._sink is not sink:
                return
        if chunked.refused is not None:
            self._refuse(chunked.refused)
        elif chunked.done:
            self._finish(clean=at == len(data))

    def _finish(self, *, clean: bool) -> None:
        """Give the connection back, or close it, and tell who asked."""
        sink, response = cast("Sink", self._sink), cast("Response", self._response)
        self._sink = self._response = self._chunked = None
        if self._paused:
            self.resume()
        if clean and response.keep and not self._uploading and not self._transport.is_closing():
            self._state = _IDLE
            self.reused = True
            self._give(self)
        else:
            self._uploading = False
            self._state = _GONE
            self._transport.abort()
        sink.end()

    def _refuse(self, error: RefusedError) -> None:
        sink = cast("Sink", self._sink)
        self.abort()
        sink.failed(
            UpstreamError(
                "upstream-malformed", "the upstream's answer is no HTTP/1.1 that can be taken", got=error.rule,
                hint="look at the upstream: it, or something before it, breaks RFC 9112",
            )
        )  # fmt: skip

    def _fail(self, exc: Exception | None) -> None:
        sink = self._sink
        self._sink = None
        self._uploading = False
        if sink is not None:
            got = "an end of the connection" if exc is None else type(exc).__name__
            sink.failed(UpstreamLostError(got, reused=self.reused, answered=self._answered))

    def _fail_asking(self, sink: Sink) -> None:
        if self._sink is sink:
            self._fail(None)
