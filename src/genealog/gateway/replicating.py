"""Durability D3 in a worker: every frame also goes to a second node, and D3 waits until it is on that disk too.

    soon(done)     D3: `done(None)` once all frames written before are on this disk and on the replica's
    check()        raises before a call of D3 is let in that could not get there now

One connection, one batch at a time: what comes while the replica's disk works goes with the next batch. Frames of other
classes go along, within a second, so that the copy has no holes. While the replica is away calls of D3 are refused, and
those that wait fail; all others go on. What it missed is read from the spool when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from genealog.errors import GenealogError, StoreError
from genealog.store.gateway_settings import Replica
from genealog.store.group_sync import Done, GroupSync
from genealog.store.replica_feed import Feed, Piece
from genealog.store.replica_spool import Place
from genealog.store.signers.secret import from_terminal, read_secret
from genealog.store.spool import SpoolWriter

_AGAIN = 0.5  # seconds between two tries to reach the replica
_IDLE = 1.0  # seconds after which it is asked whether it is there, and gets what nobody waits for
_ANSWER = 64 * 1024
_LOST = (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError, msgspec.MsgspecError)  # no sound answer

log = logging.getLogger("genealog.gateway")


def replicating(
    settings: Replica | None, root: Path, node: str
) -> Callable[[SpoolWriter, GroupSync], Replication] | None:
    """Return how a worker of the store `node` replicates, as `[replica]` says; None where it says nothing.

    Raises: MissingError `no-secret`, and what reading a secret raises; StoreError `replica-tls` for a bad `ca`.
    """
    if settings is None:
        return None
    kind, _, place = settings.secret.partition(":")
    source = settings.secret if kind == "env" else f"file:{(root / place).resolve()}"
    secret = read_secret(source, "secret of the replica", from_terminal).encode()
    tls = None
    if urlsplit(settings.url).scheme == "https":
        try:
            tls = ssl.create_default_context(cafile=str(root / settings.ca) if settings.ca else None)
        except (OSError, ssl.SSLError) as error:
            raise StoreError(
                "replica-tls", "the certificates of [replica] cannot be read", got=error.strerror
            ) from None
    return partial(Replication, settings, secret, tls, node)


class Replication:
    """Sends the frames of one spool writer to the replica. Used by one event loop, in which it must be made."""

    def __init__(
        self,
        settings: Replica,
        secret: bytes,
        tls: ssl.SSLContext | None,
        node: str,
        spool: SpoolWriter,
        sync: GroupSync,
    ) -> None:
        parts = urlsplit(settings.url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls
        self._path = f"{parts.path.rstrip('/')}/v1/{node}/{spool.emitter}"
        self._timeout = float(settings.timeout)
        self._secret = secret
        self._spool = spool
        self._sync = sync
        self._why: str | None = "it was not reached yet"
        self._waiting: deque[tuple[tuple[int, int], Done]] = deque()
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def up(self) -> bool:
        """Whether the replica took or said something when it was asked last."""
        return self._why is None

    def check(self) -> None:
        """Raise StoreError `replica-unreachable` where no frame would get there now."""
        if self._why is not None:
            raise self._unreachable()

    def soon(self, done: Done) -> None:
        """Have `done` called when every frame written before is on both disks, or why that is not known."""
        if self._why is not None:
            done(self._unreachable())
            return
        both = _Both(done)
        self._waiting.append((self._spool.position, both.one))
        self._sync.soon(both.one)
        self._wake.set()

    def stop(self) -> None:
        """Send nothing more; fail who waits."""
        self._task.cancel()
        self._fail("the gateway stops")

    async def _run(self) -> None:
        while True:
            try:
                await self._linked()
            except (*_LOST, GenealogError) as error:
                why = error.code if isinstance(error, GenealogError) else str(error) or type(error).__name__
                if self._why != why:
                    log.error("the replica is not reached, calls of durability D3 are refused: %s", why)
                self._fail(why)
            await asyncio.sleep(_AGAIN)

    async def _linked(self) -> None:
        async with asyncio.timeout(self._timeout):
            link = _Link(*await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=_ANSWER))
        feed: Feed | None = None
        try:
            place = await self._ask(link, "GET", self._path, b"")
            at = (place.segment, place.size) if place.boot == self._spool.boot else (0, 0)
            feed = Feed(self._spool.folder, self._spool.boot, *at)
            if self._why is not None:
                log.info("the replica is reached")
            self._why = None
            while True:
                self._wake.clear()
                while (piece := feed.next(self._spool.position)) is not None:
                    await self._send(link, piece)
                    self._tell(piece.end)
                try:
                    async with asyncio.timeout(_IDLE):
                        await self._wake.wait()
                except TimeoutError:
                    await self._ask(link, "GET", self._path, b"")
        finally:
            if feed is not None:
                feed.close()
            link.close()

    async def _send(self, link: _Link, piece: Piece) -> None:
        query = f"oldest={piece.oldest}&keep={piece.keep}"
        if piece.previous is not None:
            query += f"&previous={piece.previous}"
        place = f"{self._path}/{self._spool.boot}/{piece.segment}/{piece.offset}?{query}"
        found = await self._ask(link, "POST", place, piece.data)
        if (found.boot, (found.segment, found.size)) < (self._spool.boot, piece.end):
            raise StoreError("replica-gap", "the replica took less than it was sent", got=found.size)

    async def _ask(self, link: _Link, method: str, target: str, body: bytes) -> Place:
        async with asyncio.timeout(self._timeout):
            head = (
                f"{method} {target} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n"
                "content-type: application/octet-stream\r\n"
            ).encode()
            status, answer = await link.ask(head + b"authorization: Bearer " + self._secret + b"\r\n\r\n", body)
        if status != 200:
            raise StoreError(_code(answer), "the replica refused", got=status)
        return msgspec.json.decode(answer, type=Place)

    def _tell(self, end: tuple[int, int]) -> None:
        while self._waiting and self._waiting[0][0] <= end:
            self._waiting.popleft()[1](None)

    def _fail(self, why: str) -> None:
        self._why = why
        waiting, self._waiting = self._waiting, deque()
        for _, done in waiting:
            done(self._unreachable())

    def _unreachable(self) -> StoreError:
        return StoreError(
            "replica-unreachable", "the second node cannot be reached, and this deployment's calls wait for it (D3)",
            got=self._why, hint="mend the replica, or deploy at D2",
        )  # fmt: skip


class _Both:
    """Calls `done` once: when two have come, or with the first error."""

    __slots__ = ("_done", "_left")

    def __init__(self, done: Done) -> None:
        self._done: Done | None = done
        self._left = 2

    def one(self, error: StoreError | None) -> None:
        self._left -= 1
        if self._done is not None and (error is not None or self._left == 0):
            done, self._done = self._done, None
            done(error)


class _Link:
    """One connection, one question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        self._writer.write(head + body)
        await self._writer.drain()
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        length = int(headers.get("content-length", "0"))
        if length > _ANSWER:
            raise ValueError("an answer of a replica is short")
        return int(lines[0].split()[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


def _code(answer: bytes) -> str:
    try:
        found = msgspec.json.decode(answer, type=dict[str, str | None])
    except msgspec.MsgspecError:
        return "replica-unreachable"
    return found.get("code") or "replica-unreachable"
