"""The other processes of `benchmarks.gateway`: `python -m benchmarks._gateway_roles upstream|plain|load …`.

    upstream PORT                              answers at once with fixed bytes, whole or as a stream
    plain PORT UPSTREAM_PORT                   the proxy that keeps nothing, on uvicorn and aiohttp
    load PORT CONNECTIONS CALLS whole|stream   asks, and prints the median latency in microseconds

Light to start: only `plain` imports more than the standard library.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
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
    """Serve as the proxy that keeps nothing: the same server, the same client, the same settings."""
    import aiohttp
    import uvicorn
    from multidict import CIMultiDict

    url = f"http://127.0.0.1:{upstream_port}{PATH}"
    hop = {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"content-length",
    }
    session: list[aiohttp.ClientSession] = []

    async def app(
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if not session:
            made = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=None),
            )
            session.append(made)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in scope["headers"] if name not in hop)
        async with session[0].post(url, data=body, headers=headers) as response:
            passed = [(n, v) for n, v in response.raw_headers if n.lower() not in hop or n.lower() == b"content-length"]
            await send({"type": "http.response.start", "status": response.status, "headers": passed})
            async for data in response.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    uvicorn.run(app, port=port, http="httptools", ws="none", lifespan="off", log_level="critical", access_log=False,
                server_header=False, date_header=False)  # fmt: skip


class _Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes, left: list[int], took: list[float]) -> None:
        self._request = request
        self._left = left
        self._took = took
        self._got = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if not self._left[0]:
            self._transport.close()
            self.done.set_result(None)
            return
        self._left[0] -= 1
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if (len(body) < int(length)) if length else not body.endswith(b"0\r\n\r\n"):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._got[:400].decode())
        self._took.append(time.perf_counter() - self._began)
        self._got = b""
        self._ask()


def load(port: int, connections: int, calls: int, *, streaming: bool) -> None:
    """Make `calls` calls over so many connections; print the median latency in microseconds."""
    words = ("lorem ipsum dolor " * 400)[:600]
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": words}]
    body = {"model": MODEL, "messages": messages, "temperature": 0.2, "max_tokens": 64, "stream": streaming}
    data = json.dumps(body).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\naccept: application/json\r\n"
    head += f"authorization: Bearer sk-bench\r\ncontent-length: {len(data)}\r\n\r\n"

    async def all_of_them() -> list[float]:
        took: list[float] = []
        left = [calls]
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(connections):
            made = await loop.create_connection(lambda: _Client(head.encode() + data, left, took), "127.0.0.1", port)
            clients.append(made[1].done)
        await asyncio.gather(*clients)
        return took

    sys.stdout.write(f"{statistics.median(asyncio.run(all_of_them())) * 1e6}\n")


def main() -> None:
    """Be one of the other processes."""
    role, *arguments = sys.argv[1:]
    if role == "upstream":
        upstream(int(arguments[0]))
    elif role == "plain":
        plain(int(arguments[0]), int(arguments[1]))
    elif role == "load":
        load(int(arguments[0]), int(arguments[1]), int(arguments[2]), streaming=arguments[3] == "stream")


if __name__ == "__main__":
    main()
