"""The other processes of `benchmarks.gateway`: `python -m benchmarks._gateway_roles upstream|plain …`.

    upstream PORT                              answers at once with fixed bytes, whole or as a stream
    plain PORT UPSTREAM_PORT                   the proxy that keeps nothing, on the gateway's own HTTP/1.1

Light to start: only `plain` imports more than the standard library.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

MODEL = "prod/bot"
PATH = "/v1/chat/completions"
EVENTS = 20  # of one stream, plus first, last, usage and [DONE]

_HEAD = {
    "id": "chatcmpl-bench",
    "created": 1_790_000_000,
    "model": "bench-2026-01-01",
    "system_fingerprint": "fp_bench",
}
_USAGE = {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180}


def _answer() -> bytes:
    message = {"role": "assistant", "content": " ".join(["word"] * 60)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _chunks() -> list[bytes]:
    def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return b"data: " + json.dumps({**_HEAD, "choices": choices, **more}).encode() + b"\n\n"

    events = [event({"role": "assistant", "content": ""}), *[event({"content": " word word word"})] * EVENTS]
    events += [event({}, "stop"), event({}, choices=[], usage=_USAGE), b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(item), item) for item in events), b"0\r\n\r\n"]


class _Upstream(asyncio.Protocol):
    """Answers every POST with the same bytes, a stream piece by piece; anything else is not there."""

    whole = _answer()
    pieces = _chunks()
    missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

    def __init__(self) -> None:
        self._got = b""
        self._streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if not end or len(body) < length:
            return
        self._got = b""
        if not head.startswith(b"POST"):
            self._transport.write(self.missing)
        elif b'"stream": true' in body:
            task = asyncio.ensure_future(self._stream())
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        else:
            self._transport.write(self.whole)

    async def _stream(self) -> None:
        for piece in self.pieces:
            self._transport.write(piece)
            await asyncio.sleep(0)


def upstream(port: int) -> None:
    """Serve as the upstream, forever."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    asyncio.run(forever())


def plain(port: int, upstream_port: int) -> None:
    """Serve as the proxy that keeps nothing: the same server, the same client, the same event loop."""
    import socket

    from genealog.gateway.http1 import Origin, Pool, Reply, Request, Response, Server, write_request
    from genealog.gateway.worker import event_loop

    origin = Origin("http", "127.0.0.1", upstream_port)
    drop = {b"host", b"connection", b"content-length", b"transfer-encoding"}

    class Passing:
        """One request: a handler of the server and a sink of the client."""

        def __init__(self, pool: Pool, request: Request, reply: Reply) -> None:
            self.pool, self.request, self.reply = pool, request, reply
            self.parts: list[bytes] = []

        def body(self, data: bytes) -> None:
            self.parts.append(data)

        def body_end(self) -> None:
            connection = self.pool.take(origin)
            if connection is None:
                waiting.add(task := asyncio.ensure_future(self.pool.open(origin)))
                task.add_done_callback(lambda done: self.ask(done.result()))
                task.add_done_callback(waiting.discard)
            else:
                self.ask(connection)

        def ask(self, connection: Any) -> None:
            body = b"".join(self.parts)
            headers = [(b"host", b"upstream"), *(pair for pair in self.request.headers if pair[0] not in drop)]
            head = write_request(self.request.method, self.request.target, headers, len(body))
            connection.ask(head, body, self)

        def head(self, response: Response) -> None:
            self.reply.start(response.status, response.headers, response.length)

        def data(self, data: bytes) -> None:
            self.reply.write(data)

        def end(self) -> None:
            self.reply.end()

        def lost(self) -> None: ...
        def failed(self, _error: Exception) -> None: ...
        def pause(self) -> None: ...
        def resume(self) -> None: ...

    waiting: set[Any] = set()

    async def forever() -> None:
        pool = Pool()
        server = Server(lambda request, reply: Passing(pool, request, reply))
        await server.start(socket.create_server(("127.0.0.1", port), backlog=1024))
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(forever())


def main() -> None:
    """Be one of the other processes."""
    role, *arguments = sys.argv[1:]
    if role == "upstream":
        upstream(int(arguments[0]))
    elif role == "plain":
        plain(int(arguments[0]), int(arguments[1]))


if __name__ == "__main__":
    main()
