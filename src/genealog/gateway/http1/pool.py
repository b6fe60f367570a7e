"""Connections to upstreams, kept while they are idle for a short time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

from genealog.errors import UpstreamError
from genealog.gateway.http1 import tls
from genealog.gateway.http1.client import Connection
from genealog.gateway.http1.head import Limits, Origin

_ALIVE = (60, 15, 4)  # seconds of silence before asking whether the peer is alive, then between asks, and how many
_NAMES_TIME = 30.0  # seconds that an answer of DNS is good for
_Address = tuple[int, int, int, object]  # family, kind, protocol, address


class Pool:
    """All connections of one event loop. `take` at once, else `open`; a connection comes back by itself."""

    def __init__(
        self, limits: Limits | None = None, *, idle_time: float = 4.0, idle_limit: int = 256, connect_time: float = 5.0
    ) -> None:
        self.opened = 0  # connections ever
        self.reused = 0  # times that one was taken
        self._limits = limits or Limits()
        # An engine on uvicorn drops idle connections after 5 s: not to lose that race, we drop them before.
        self._idle_time = idle_time
        self._idle_limit = idle_limit  # for each origin
        self._connect_time = connect_time
        self._idle: dict[str, list[Connection]] = {}  # the one idle for the longest time first
        self._all: set[Connection] = set()
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self._names: dict[tuple[str, int], tuple[float, list[_Address]]] = {}
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time()  # at the last sweep
        self._sweeper: asyncio.TimerHandle | None = None
        self._interval = min(1.0, idle_time / 4)
        self._closed = False
        self._sweep()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._all)

    @property
    def idle(self) -> int:
        """Connections that wait to be taken."""
        return sum(map(len, self._idle.values()))

    def take(self, origin: Origin) -> Connection | None:
        """Return a connection that stands and is healthy, if there is one."""
        idle = self._idle.get(origin.label)
        while idle:
            connection = idle.pop()
            if connection.healthy:
                self.reused += 1
                return connection
            connection.abort()
        return None

    async def open(self, origin: Origin) -> Connection:
        """Return a new connection.

        Raises: UpstreamError (upstream-unreachable, -tls, -key-mismatch), UsageError (tls-files).
        """
        secure = origin.scheme == "https"
        context = self._context(origin) if secure else None
        sock = await self._connect(origin)
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(origin, self._limits, self._give, self._all.discard),
                sock=sock, ssl=context, server_hostname=origin.host if secure else None,
                ssl_handshake_timeout=self._connect_time if secure else None,
            )  # fmt: skip
        except (OSError, TimeoutError) as error:
            sock.close()
            if not secure:
                raise _unreachable(error) from None
            got = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
            raise UpstreamError(
                "upstream-tls", "no TLS connection with the upstream could be agreed on", got=got,
                hint="does its certificate name this host, and is its authority among the trusted ones?",
            ) from None  # fmt: skip
        except BaseException:
            sock.close()
            raise
        if origin.pins and connection.spki not in origin.pins:
            connection.abort()
            raise UpstreamError(
                "upstream-key-mismatch", "the upstream has another key than the one that is pinned",
                got=connection.spki, expected=" or ".join(sorted(origin.pins)),
                hint="if its key was changed on purpose, deploy it again with the new pin",
            )  # fmt: skip
        if self._closed:
            connection.abort()
            raise UpstreamError("upstream-unreachable", "the gateway is stopping")
        self._all.add(connection)
        self.opened += 1
        return connection

    async def close(self) -> None:
        """Close all connections, those in use too."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._all):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _give(self, connection: Connection) -> None:
        idle = self._idle.get(connection.origin.label)
        if idle is None:
            idle = self._idle[connection.origin.label] = []
        if self._closed or len(idle) >= self._idle_limit:
            connection.abort()
            return
        connection.idle_since = self._now
        idle.append(connection)

    def _sweep(self) -> None:
        self._now = now = self._loop.time()
        oldest = now - self._idle_time + self._interval  # `idle_since` is up to a sweep too early, this one too late
        for label, idle in list(self._idle.items()):
            count = 0
            while count < len(idle) and idle[count].idle_since < oldest:
                idle[count].abort()
                count += 1
            del idle[:count]
            if not idle:
                del self._idle[label]
        self._sweeper = self._loop.call_later(self._interval, self._sweep)

    async def _connect(self, origin: Origin) -> socket.socket:
        error: Exception = OSError("no address")
        for family, kind, protocol, address in await self._addresses(origin):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in zip(
                    (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), _ALIVE, strict=True
                ):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                async with asyncio.timeout(self._connect_time):
                    await self._loop.sock_connect(sock, address)  # type: ignore[arg-type]
            except (OSError, TimeoutError) as raised:
                sock.close()
                error = raised
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        self._names.pop((origin.host, origin.port), None)
        raise _unreachable(error) from None

    async def _addresses(self, origin: Origin) -> list[_Address]:
        key = (origin.host, origin.port)
        known = self._names.get(key)
        if known is not None and known[0] > self._now:
            return known[1]
        try:
            async with asyncio.timeout(self._connect_time):
                found = await self._loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise _unreachable(error) from None
        addresses: list[_Address] = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
        self._names[key] = (self._now + _NAMES_TIME, addresses)
        return addresses

    def _context(self, origin: Origin) -> ssl.SSLContext:
        """Return the context for an origin, a new one if one of its files was changed."""
        key = tuple((name, _changed(name)) for name in (origin.ca, origin.certificate, origin.key))
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = tls.client_context(origin)
        return context


def _changed(name: str | None) -> int:
    try:
        return 0 if name is None else Path(name).stat().st_mtime_ns
    except OSError:
        return 0


def _unreachable(error: Exception) -> UpstreamError:
    return UpstreamError(
        "upstream-unreachable", "the upstream of this deployment did not answer", got=type(error).__name__,
        hint="is the engine running, and is the deployment's upstream its address?",
    )  # fmt: skip
