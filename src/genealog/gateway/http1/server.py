"""Listens for clients, and knows all their connections."""

from __future__ import annotations

import asyncio
import socket
import ssl

from genealog.gateway.http1.head import Limits
from genealog.gateway.http1.link import Application, Link


class Server:
    """Gives each request to the application. One sweep a second looks at the deadlines of all connections."""

    def __init__(self, application: Application, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None):
        self.application = application
        self.limits = limits or Limits()
        self.links: set[Link] = set()
        self.requests = 0  # heads that were taken
        self.refused = 0
        self.draining = False
        self.closed = False
        self.loop: asyncio.AbstractEventLoop
        self.now = 0.0  # the loop's time at the last sweep
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        times = (self.limits.head_time, self.limits.idle_time, self.limits.body_time, self.limits.linger_time)
        self._interval = min(1.0, min(times) / 4)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self.links)

    @property
    def busy(self) -> int:
        """Connections with a request that is not answered completely."""
        return sum(link.busy for link in self.links)

    def begin(self) -> None:
        """Get ready for connections without listening: for one that somebody else accepts."""
        self.loop = asyncio.get_running_loop()
        self._sweep()

    async def start(self, sock: socket.socket) -> None:
        """Listen on a socket that is bound."""
        self.begin()
        self._listener = await self.loop.create_server(
            self.link, sock=sock, backlog=1024, ssl=self._tls,
            ssl_handshake_timeout=self.limits.head_time if self._tls else None,
        )  # fmt: skip

    def link(self) -> Link:
        """Return the protocol of a new connection."""
        return Link(self)

    def close(self) -> None:
        """Take no new connections and close those on which nothing is under way."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in list(self.links):
            link.drain()

    async def drain(self, seconds: float) -> None:
        """Close; wait for the answers under way; after `seconds` break off those that are left."""
        self.close()
        if self.links:
            self._empty = self.loop.create_future()
            await asyncio.wait((self._empty,), timeout=seconds)
        self.closed = True
        for link in list(self.links):
            link.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def left(self) -> None:
        """Know that a connection is gone."""
        if not self.links and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _sweep(self) -> None:
        self.now = now = self.loop.time()
        for link in [link for link in self.links if link.deadline < now or link.stalled < now]:
            link.sweep(now)
        self._sweeper = self.loop.call_later(self._interval, self._sweep)
