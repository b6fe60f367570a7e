"""A client for an ASGI application without a socket, and a scripted model: what app tests talk to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genealog.engine.events import Drawn, Ended, Event, Job, Piece, Started


@dataclass
class Response:
    """What came back. `chunks` are the body as it was sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    done: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Return the server-sent events, parsed but for `[DONE]`."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Request:
    """One request under way. `hang_up` is the client going away."""

    def __init__(
        self, app: Any, scope: dict[str, Any], body: bytes, on_send: Callable[[Response], None] | None
    ) -> None:
        self.response = Response()
        self.first_chunk = asyncio.Event()
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._on_send = on_send
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.response.status = message["status"]
            self.response.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.response.chunks.append(message["body"])
        self.response.done = not message["more_body"]
        self.first_chunk.set()
        if self._on_send:
            self._on_send(self.response)


class Client:
    """Speaks to one application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def start(
        self, method: str, target: str, body: Any = b"", *, headers: Mapping[str, str] | None = None,
        on_send: Callable[[Response], None] | None = None,
    ) -> Request:  # fmt: skip
        path, _, query = target.partition("?")
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-length": str(len(data))} | dict(headers or {})
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
        }  # fmt: skip
        return Request(self._app, scope, data, on_send)

    async def request(self, method: str, target: str, body: Any = b"", **options: Any) -> Response:
        request = self.start(method, target, body, **options)
        await request.task
        return request.response

    async def get(self, target: str) -> Response:
        return await self.request("GET", target)

    async def chat(self, text: str = "hello", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        body = {"messages": [{"role": "user", "content": text}]} | fields
        return await self.request("POST", "/v1/chat/completions", body, headers=headers)


class Script:
    """A model that says what it is told. `hold` makes it wait inside the answer until it is released."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces or ("Hel", "lo")
        self.jobs: list[Job] = []
        self.stopped: list[str] = []
        self.running = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def hold(self) -> None:
        self.go_on.clear()

    def __call__(self, job: Job, cancelled: Callable[[], bool]) -> Iterator[Event]:
        self.jobs.append(job)
        yield Started((1, 2, 3), job.max_tokens or 100)
        for number, text in enumerate(self.pieces):
            yield Piece(text, (Drawn(number, text, -0.5, ((text, -0.5),) if job.top else ()),))
            self.running.set()
            while not self.go_on.wait(0.001) and not cancelled():
                pass
            if cancelled():
                self.stopped.append(job.messages[-1]["content"])
                return
        if self.error is not None:
            raise self.error
        count = len(self.pieces)
        yield Ended("stop", tuple(range(count + 1)), np.full(count + 1, -0.5, dtype=np.float32))
