"""HTTP for a witness that strangers talk to: a connection that asks nothing, or sends without end, is cut.

uvicorn waits for a request's headers as long as it takes and keeps as many of them as come, and every connection counts
against the number that a witness serves. So a few hundred idle ones would silence it. How long a request's body may
take, and how long it may be, is the application's own limit (`app`).
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 15.0  # seconds from the connection, or the last reply, to a whole request header
MOST = 2 * 1024 * 1024  # bytes of one request as they come: chunks, headers and trailers too


class ImpatientProtocol(HttpToolsProtocol):
    """One connection. `patience` is in seconds."""

    patience = PATIENCE
    _waiting: asyncio.TimerHandle | None = None
    _taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, up to a limit."""
        self._taken += len(data)
        if self._taken > MOST:
            self.transport.abort()
        else:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        """Leave the rest to the application's limit."""
        self._stop()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._taken = 0
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        self._stop()
        self._waiting = self.loop.call_later(self.patience, self._cut)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _cut(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it is the application's turn
            self.transport.abort()
