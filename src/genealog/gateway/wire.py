"""The server's side of a connection: uvicorn's HTTP protocol, with a few things changed.

It says when the client has gone: ASGI tells of that by `receive`, and waiting for it takes a task for each call; the
protocol knows anyway, and `Hangup` is told through `scope["extensions"][HANGUP]`.

It sends once a turn: uvicorn writes head and body of a response one by one, each a system call and a packet of its own.
Here what is written in one turn of the event loop leaves at its end in one piece. No byte waits longer than that.

It refuses a head that does not end, in bytes or in time: uvicorn would collect it until the memory is full, and keep
a connection open for each client that sends one byte and waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HANGUP = "genealog.hangup"
HEAD_S = 30.0  # from the first byte of a request, or of a connection, to the end of its head
MAX_HEAD = 256 * 1024  # bytes of a request before its body, about; what comes in one read may exceed it


class Line:
    """One connection of a client. `on_lost` is called when it is lost, if somebody waits for that then."""

    __slots__ = ("lost", "on_lost")

    def __init__(self) -> None:
        self.lost = False
        self.on_lost: Callable[[], None] | None = None


class OneWrite:
    """A transport like the one that it is made over, but for `write` and `close`."""

    __slots__ = ("_loop", "_pending", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send `data` when this turn of the loop is over."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        """Close when everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pending:
            if not self._transport.is_closing():
                self._transport.write(b"".join(self._pending))
            self._pending.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._extensions = {HANGUP: Line()}
        self._head = 0  # bytes that came since the last request or its head was complete
        self._in_body = False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, over a transport that sends once a turn."""
        self._patience = self.loop.call_later(HEAD_S, self._give_up)
        super().connection_made(cast("asyncio.Transport", OneWrite(cast("asyncio.Transport", transport))))

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head has no end: the parser would keep all of it."""
        if not self._in_body:
            self._head += len(data)
            if self._head - len(data) > MAX_HEAD:
                self.send_400_response("The request head is too large.")
                return
        super().data_received(data)
        if self._head and not self._in_body and self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self._give_up)

    def on_headers_complete(self) -> None:
        """Know that what follows is a body, which has its own limit."""
        self._in_body = True
        self._be_patient()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Know that what follows is another head."""
        self._in_body, self._head = False, 0
        super().on_message_complete()

    def on_message_begin(self) -> None:
        """Begin a request, whose scope knows its connection."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = self._extensions

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and tell whoever works for this client."""
        self._be_patient()
        super().connection_lost(exc)
        line = self._extensions[HANGUP]
        line.lost = True
        if line.on_lost is not None:
            line.on_lost()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.close()
