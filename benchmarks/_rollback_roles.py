"""The other processes of `benchmarks.rollback`: `python -m benchmarks._rollback_roles engines|load …`.

engines LOG PORT…                 scripted engines, one a port: answers carry the port's number; each arrival of a
                                  call is one record (port's number, CLOCK_MONOTONIC in ns) in the file LOG
load MODEL CONNECTIONS TOKENS URL…  asks again and again until SIGTERM, every other connection for a stream, and
                                  prints {"calls", "failed", "mixed", "first"} as JSON: `mixed` are answers that
                                  come from two engines
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
import time
from functools import partial
from typing import Any

ARRIVAL = struct.Struct("<Bq")
PATH = "/v1/chat/completions"
REST = 0.01  # seconds that a connection rests between two calls: a machine under load, and not one that is full
PIECES, PAUSE = 20, 0.004  # of one stream, so that streams are under way whenever a deployment moves


class _Engine(asyncio.Protocol):
    """Answers a POST with its number as the model's name; anything else is not there."""

    def __init__(self, number: int, log: int) -> None:
        self._number = number
        self._log = log
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
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        os.write(self._log, ARRIVAL.pack(self._number, time.monotonic_ns()))
        if b'"stream": true' in body:
            task = asyncio.ensure_future(self._stream())
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
            return
        answer = json.dumps(self._said({"message": {"role": "assistant", "content": "word"}}, "stop")).encode()
        kind = b"content-type: application/json\r\n"
        self._transport.write(b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (kind, len(answer), answer))

    async def _stream(self) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        events = [self._said({"delta": {"content": "word "}}, None)] * PIECES + [self._said({"delta": {}}, "stop")]
        chunks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]
        self._transport.write(head)
        for chunk in chunks:
            self._transport.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await asyncio.sleep(PAUSE)
        self._transport.write(b"0\r\n\r\n")

    def _said(self, what: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {
            "id": "c",
            "model": f"engine-{self._number}",
            "choices": [{"index": 0, **what, "finish_reason": finish}],
        }


def engines(log: str, ports: list[int]) -> None:
    """Serve, forever."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        for number, port in enumerate(ports):
            await loop.create_server(partial(_Engine, number, handle), "127.0.0.1", port, backlog=1024)
        await asyncio.Event().wait()

    asyncio.run(forever())


def load(model: str, connections: int, tokens: int, urls: list[str]) -> None:
    """Ask until SIGTERM; print what came of it."""
    import aiohttp

    seen: dict[str, Any] = {"calls": 0, "failed": 0, "mixed": 0, "first": None}

    async def ask(session: aiohttp.ClientSession, url: str, *, streaming: bool, stop: asyncio.Event) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}
        while not stop.is_set():
            seen["calls"] += 1
            try:
                async with session.post(url + PATH, json={**body, "stream": streaming}) as response:
                    answer = await response.read()
                whole = b"[DONE]" in answer if streaming else b'"choices"' in answer
                problem = None if response.status == 200 and whole else f"{response.status} {answer[:300]!r}"
            except (aiohttp.ClientError, OSError) as error:
                problem, answer = repr(error)[:300], b""
            names = {part.split(b'"', 1)[0] for part in answer.split(b'"model": "')[1:]}
            seen["mixed"] += len(names) > 1
            if problem is not None:
                seen["failed"] += 1
                seen["first"] = seen["first"] or problem
            await asyncio.sleep(REST)

    async def all_of_them() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        limits = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=60)) as session:
            await asyncio.gather(*(
                ask(session, urls[number % len(urls)], streaming=number // len(urls) % 2 == 0, stop=stop)
                for number in range(connections)
            ))  # fmt: skip

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(all_of_them())
    sys.stdout.write(json.dumps(seen) + "\n")


def main() -> None:
    """Be one of the other processes."""
    role, *arguments = sys.argv[1:]
    if role == "engines":
        engines(arguments[0], [int(port) for port in arguments[1:]])
    elif role == "load":
        load(arguments[0], int(arguments[1]), int(arguments[2]), arguments[3:])


if __name__ == "__main__":
    main()
