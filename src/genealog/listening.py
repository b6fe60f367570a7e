"""Where a server of ours listens: the socket that it takes connections at, the URL under which it is reached; and how
one on uvicorn serves there until a signal comes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from genealog.errors import MalformedError, StoreError


def listen(host: str, port: int, *, backlog: int, hint: str, shared: bool = False) -> socket.socket:
    """Take a port of an address (0: any free one) and listen; `shared` lets others of this user take it too.

    Raises: StoreError `cannot-listen` with this hint.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog, reuse_port=shared)
    except OSError as error:
        raise StoreError(
            "cannot-listen", f"cannot listen on {host} port {port}", got=error.strerror or str(error), hint=hint
        ) from None


def listen_at(place: str, *, backlog: int) -> socket.socket:
    """Listen at `HOST:PORT`. Raises: MalformedError `bad-listen`; StoreError `cannot-listen`."""
    host, port = address_of(place)
    return listen(host, port, backlog=backlog, hint="something else may be running there; choose another port")


def address_of(place: str) -> tuple[str, int]:
    """Read `HOST:PORT`, or `[::1]:PORT`. Raises: MalformedError `bad-listen`."""
    host, colon, port = place.rpartition(":")
    numbered = port.isascii() and port.isdecimal() and int(port) <= 65_535
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host.strip("[]") or not numbered or (":" in host) != bracketed:
        raise MalformedError("bad-listen", "not an address to listen on", got=place, expected="HOST:PORT or [::1]:PORT")
    return host.strip("[]"), int(port)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a server that listens here."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_until_signal(
    listener: socket.socket, app: Any, started: Callable[[], None], *, within: float | None = None, **options: Any
) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT, and return then: whoever calls has something to close.

    `started` is called once requests are taken; `options` are uvicorn's. A connection on which no whole request came
    `within` so many seconds is closed: else a few that stay silent take the place of all others.
    """
    import uvicorn

    if within is not None:
        options["http"] = _prompt(within)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Take the signals, and do not raise them again at the end."""
            taken = (signal.SIGTERM, signal.SIGINT)
            before = {number: signal.signal(number, self.handle_exit) for number in taken}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        app, loop="asyncio", ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=5, timeout_keep_alive=30, **options,
    )  # fmt: skip
    Server(config).run(sockets=[listener])


def _prompt(within: float) -> type[Any]:
    """Return uvicorn's protocol with an end in time for each request, from its first byte or the connection's start."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Prompt(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        _late: asyncio.TimerHandle | None = None
        _whole: object = None  # the newest request that came whole

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(within, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._late is None:
                self._late = self.loop.call_later(within, self.transport.abort)
            super().data_received(data)
            if self.cycle is not None and self.cycle is not self._whole and not self.cycle.more_body:
                self._whole = self.cycle
                self._in_time()

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            super().connection_lost(exc)

        def _in_time(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Prompt
