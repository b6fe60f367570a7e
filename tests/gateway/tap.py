"""A wire tap between a client and the gateway: what a client got, byte for byte, whatever the client makes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Self

import httptools


@dataclass
class Got:
    """One response as it came to the client."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def call(self) -> str:
        """The ID of the call."""
        return self.headers["genealog-call"]


class _Reading:
    """Reads the responses of one connection."""

    def __init__(self, into: list[Got]) -> None:
        self._into = into
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._into.append(Got())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._into[-1].headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._into[-1].status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._into[-1].body += data

    def on_message_complete(self) -> None:
        self._into[-1].ended = True


class Tap:
    """Listens on a free port and passes everything on. `got` holds every response, in the order they began."""

    def __init__(self, port: int) -> None:
        self.got: list[Got] = []
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients go."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        near, far = await asyncio.open_connection("127.0.0.1", self._port)
        reading = _Reading(self.got)
        ways = [asyncio.create_task(_pass(reader, far, None)), asyncio.create_task(_pass(near, writer, reading))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far.close()
            writer.close()
            self._tasks.discard(task)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, reading: _Reading | None) -> None:
    try:
        while data := await source.read(65536):
            if reading is not None:
                reading.feed(data)
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
