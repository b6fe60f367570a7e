"""Both sides of HTTP/1.1 without sockets: what a stream of bytes becomes, however it is cut."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from genealog.errors import UpstreamError
from genealog.gateway.http1 import Connection, Limits, Origin, Reply, Request, Response, Server

ORIGIN = Origin("http", "upstream.test", 80)
_LISTENS_TO_NOTHING, _KEPT_OPEN = socket.socketpair()


class Turns:
    """An event loop as far as a `Link` needs one; `run` makes all turns that are due."""

    def __init__(self) -> None:
        self.due: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.clock = 0.0

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        self.due.append((function, arguments))

    def run(self) -> None:
        while self.due:
            function, arguments = self.due.popleft()
            function(*arguments)


class Transport(asyncio.Transport):
    """In memory. `sent` has one item for each write, as each would be a system call."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__({"socket": _LISTENS_TO_NOTHING, "peername": ("192.0.2.1", 5)})
        self.sent: list[bytes] = []
        self.reading = True
        self.closed = self.aborted = self.eof = False
        self._tls = tls

    @property
    def bytes(self) -> bytes:
        return b"".join(self.sent)

    def write(self, data: Any) -> None:
        assert not self.eof
        self.sent.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.sent.append(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return not self._tls

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Message:
    """What an application got of one request."""

    request: Request
    body: bytes = b""
    complete: bool = False
    lost: bool = False

    @property
    def key(self) -> tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]:
        return self.request.method, self.request.target, tuple(self.request.headers), self.body


class Noting:
    """A handler that notes the request and answers "ok" at its end, if `answers`."""

    def __init__(self, request: Request, reply: Reply, seen: list[Noting], *, answers: bool) -> None:
        self.message = Message(request)
        self.reply = reply
        self.calls: list[str] = []
        self._answers = answers
        seen.append(self)

    def body(self, data: bytes) -> None:
        assert data
        assert not self.message.complete
        assert not self.message.lost
        self.message.body += data

    def body_end(self) -> None:
        assert not self.message.complete
        assert not self.message.lost
        self.message.complete = True
        if self._answers:
            self.reply.start(200, [(b"content-type", b"text/plain")], 2)
            self.reply.end(b"ok")

    def lost(self) -> None:
        assert not self.message.lost
        self.message.lost = True

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class Client:
    """One connection to a server in memory."""

    def __init__(self, limits: Limits | None = None, *, answers: bool = True, tls: bool = False) -> None:
        self.seen: list[Noting] = []
        self.server = Server(lambda *both: Noting(*both, self.seen, answers=answers), limits=limits)
        self.turns = Turns()
        self.server.loop = self.turns  # type: ignore[assignment]
        self.transport = Transport(tls=tls)
        self.link = self.server.link()
        self.link.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.link.data_received(data)
        self.turns.run()

    def pass_time(self, seconds: float) -> None:
        """Let time go by as the server's sweeps see it."""
        self.server.now += seconds
        if min(self.link.deadline, self.link.stalled) < self.server.now:
            self.link.sweep(self.server.now)
        self.turns.run()

    @property
    def messages(self) -> list[Message]:
        return [each.message for each in self.seen]

    @property
    def status(self) -> int | None:
        """The status of the last answer."""
        found = re.findall(rb"HTTP/1\.1 (\d{3}) ", self.transport.bytes)
        return int(found[-1]) if found else None


@dataclass(frozen=True)
class Parsed:
    """The requests that a stream became, and how it ended."""

    messages: tuple[tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes], ...]
    end: str  # refused, open (waits for more), closed (as the client asked)
    rule: str | None


def cut(stream: bytes, at: Sequence[int]) -> list[bytes]:
    """Return `stream` in pieces that begin at `at` (ascending), none of them empty."""
    edges = [0, *at, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges) if a < b]


def parse_requests(pieces: Iterable[bytes], limits: Limits | None = None) -> Parsed:
    """Feed a server; return what its application got complete, and the verdict."""
    client = Client(limits)
    for piece in pieces:
        if client.transport.closed:
            break
        client.send(piece)
    refused = client.server.refused > 0
    if refused:
        assert client.server.refused == 1
        assert client.transport.closed or client.transport.eof
        assert all(message.complete or message.lost for message in client.messages)
    closed = client.transport.closed or client.transport.eof
    return Parsed(
        tuple(message.key for message in client.messages if message.complete),
        "refused" if refused else "closed" if closed else "open",
        _rule(client.transport.bytes) if refused else None,
    )


def _rule(sent: bytes) -> str | None:
    _, mark, rest = sent.rpartition(b'"got": "')
    return rest.partition(b'"')[0].decode() if mark else None


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    while not condition():  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.001)


@dataclass
class Got:
    """A sink that notes everything."""

    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    end_: str = "open"  # end, or the code of the error
    error: UpstreamError | None = None
    calls: list[str] = field(default_factory=list)

    async def over(self) -> None:
        """Wait for the end, of either kind."""
        await until(lambda: self.end_ != "open")

    def head(self, response: Response) -> None:
        assert self.status is None
        assert self.end_ == "open"
        self.status = response.status
        self.headers = tuple(response.headers)
        assert response.names == [name.lower() for name, _ in response.headers]

    def data(self, data: bytes) -> None:
        assert data
        assert self.status is not None
        assert self.end_ == "open"
        self.body += data

    def end(self) -> None:
        assert self.end_ == "open"
        self.end_ = "end"

    def failed(self, error: UpstreamError) -> None:
        assert self.end_ == "open"
        self.end_ = error.code
        self.error = error

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class Upstream:
    """One connection to an upstream in memory."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.given: list[Connection] = []
        self.gone: list[Connection] = []
        self.connection = Connection(ORIGIN, limits or Limits(), self.given.append, self.gone.append)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    def ask(self, method: str = "POST", body: bytes = b"{}", **options: bool) -> Got:
        got = Got()
        self.connection.ask(f"{method} / HTTP/1.1\r\nhost: u\r\n\r\n".encode(), body, got, **options)
        return got

    def send(self, data: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(data)

    def end(self) -> None:
        """The upstream closes its side, in order."""
        if not self.transport.closed:
            self.connection.eof_received()


@dataclass(frozen=True)
class Answered:
    """What a stream became on the side of the one who asked."""

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: str  # open, end, upstream-malformed, upstream-died, upstream-unreachable
    kept: bool  # the connection can be used again


def parse_response(
    pieces: Iterable[bytes], *, method: str = "POST", eof: bool = False, limits: Limits | None = None
) -> Answered:
    """Feed a client's connection; return what its sink got, and the verdict."""
    upstream = Upstream(limits)
    got = upstream.ask(method)
    for piece in pieces:
        upstream.send(piece)
    if eof:
        upstream.end()
    kept = bool(upstream.given) and not upstream.transport.closed
    assert kept or got.end_ == "open" or upstream.transport.closed or eof
    return Answered(got.status, got.headers, got.body, got.end_, kept)
