"""Servers, pools and raw clients on real sockets, under asyncio's loop and under uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvloop

from genealog.errors import UpstreamError
from genealog.gateway.http1 import (
    Application,
    Connection,
    Limits,
    Origin,
    Pool,
    Reply,
    Request,
    Response,
    Server,
    write_request,
)

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Run = Callable[[Coroutine[Any, Any, None]], None]


def runner(loop: str) -> Run:
    """Return what runs a coroutine under that loop, for 30 seconds at most."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as made:
            made.run(asyncio.wait_for(main, 30))

    return run


@contextlib.asynccontextmanager
async def serving(
    application: Application, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, int]]:
    """Give a server that listens, and its port."""
    server = Server(application, limits=limits, tls=tls)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await server.start(sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.drain(0)
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def pooling(**options: Any) -> AsyncIterator[Pool]:
    """Give a pool."""
    pool = Pool(**options)
    try:
        yield pool
    finally:
        await pool.close()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def scripted(
    script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Give the port of an upstream that does to each connection what the script says."""
    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Raw:
    """A client that sends bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
        )
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one answer with a length or in chunks. Raises: asyncio.IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"content-length" in headers:
            body = await self.reader.readexactly(int(headers[b"content-length"]))
        else:
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        return int(first.split(b" ")[1]), headers, body

    async def rest(self) -> bytes:
        """Read to the end, however it ends."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await self.reader.read(65536):
                data += more
        return data


class Echo:
    """Answers with what was sent, as it comes: in chunks if it came in chunks."""

    def __init__(self, request: Request, reply: Reply) -> None:
        self.reply = reply
        reply.start(200, [(b"x-method", request.method.encode())], request.length)

    def body(self, data: bytes) -> None:
        self.reply.write(data)

    def body_end(self) -> None:
        self.reply.end()

    def lost(self) -> None:
        pass

    def pause(self) -> None:
        self.reply.pause_body()

    def resume(self) -> None:
        self.reply.resume_body()


@dataclass
class Proxy:
    """An application that passes every request on, as it comes, and every answer back."""

    pool: Pool
    origin: Origin
    lost: int = 0
    errors: list[UpstreamError] = field(default_factory=list)
    slow_clients: int = 0
    slow_upstreams: int = 0

    def __call__(self, request: Request, reply: Reply) -> Passing:
        return Passing(self, request, reply)


class Passing:
    """One request on its way through a `Proxy`: its body streams, both ways slow each other down."""

    def __init__(self, proxy: Proxy, request: Request, reply: Reply) -> None:
        self.proxy = proxy
        self.request = request
        self.reply = reply
        self.early: list[bytes] = []
        self.complete = False
        self.connection: Connection | None = proxy.pool.take(proxy.origin)
        if self.connection is not None:
            self.ask(self.connection)
        else:
            reply.pause_body()
            self.task = asyncio.get_running_loop().create_task(self.dial())

    async def dial(self) -> None:
        try:
            connection = await self.proxy.pool.open(self.proxy.origin)
        except UpstreamError as error:
            Returning(self).failed(error)
            return
        if self.reply.ended:
            connection.abort()
            return
        self.connection = connection
        self.ask(connection)
        for data in self.early:
            connection.write(data)
        if self.complete:
            connection.end_body()
        self.reply.resume_body()

    def ask(self, connection: Connection) -> None:
        request = self.request
        head = write_request(request.method, request.target, request.headers, request.length)
        connection.ask(head, b"", Returning(self), more=request.length != 0, chunked=request.length is None)

    def body(self, data: bytes) -> None:
        if self.connection is None:
            self.early.append(data)
        else:
            self.connection.write(data)

    def body_end(self) -> None:
        if self.connection is None:
            self.complete = True
        else:
            self.connection.end_body()

    def lost(self) -> None:
        self.proxy.lost += 1
        if self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        self.proxy.slow_clients += 1
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class Returning:
    """The answer to one request, on its way back."""

    def __init__(self, passing: Passing) -> None:
        self.passing = passing
        self.reply = passing.reply

    def head(self, response: Response) -> None:
        self.reply.start(response.status, response.headers, response.length)

    def data(self, data: bytes) -> None:
        self.reply.write(data)

    def end(self) -> None:
        self.reply.end()

    def failed(self, error: UpstreamError) -> None:
        self.passing.proxy.errors.append(error)
        if self.reply.started:
            self.reply.cut()
        else:
            self.reply.start(502, [], len(error.code))
            self.reply.end(error.code.encode())

    def pause(self) -> None:
        self.passing.proxy.slow_upstreams += 1
        self.reply.pause_body()

    def resume(self) -> None:
        self.reply.resume_body()
