"""One call between its two frames: ask the upstream, pass bytes on as they come, keep the end until it is on record.

    intent on record → request → … chunks … → upstream's end → engine signature → outcome on record → last byte

However it ends, it ends on record: complete, abandoned by the client, failed by the upstream. If the outcome cannot be
put on record, the client does not see an end either: a broken connection is the honest answer then. Whatever is on its
way in one direction is bounded by flow control in the other.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypedDict

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from genealog.core.frames import Assurance, EngineEvidence, Finish
from genealog.deploy import Live
from genealog.errors import GenealogError, MalformedError, StoreError, UpstreamError
from genealog.gateway.handshake import Binding, Handshakes
from genealog.gateway.hangup import ClientGone, Hangup
from genealog.gateway.headers import to_client
from genealog.gateway.hold import Hold, Way
from genealog.gateway.recording import Entry
from genealog.gateway.refusal import refusal
from genealog.gateway.reported import reports_itself
from genealog.gateway.wire import Line

Send = Callable[[dict[str, Any]], Awaitable[None]]

CONNECT = 5.0  # seconds until a connection stands
ALIVE = (60, 15, 4)  # seconds of silence before asking whether the peer is alive, then between asks, and how many
_FINAL = range(200, 600)  # RFC 9110 §15: lower ones go before an answer, higher ones are none
_LARGE = 2**20  # aiohttp writes larger bodies in pieces if it gets a file

log = logging.getLogger("genealog.gateway")


def open_session() -> aiohttp.ClientSession:
    """Return a client that changes nothing: no decompression, no cookies, no redirects followed, no own headers.

    It waits for an answer as long as somebody waits for it and the upstream's machine is there.
    """
    return aiohttp.ClientSession(
        # An engine on uvicorn drops idle connections after 5 s: not to lose that race, we drop them before.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0, ttl_dns_cache=30, socket_factory=_socket),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
        max_line_size=64 * 1024,
        max_field_size=64 * 1024,
        trust_env=False,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), ALIVE, strict=True):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


@lru_cache(maxsize=256)
def target(upstream: str, path: str, query: bytes) -> URL:
    """Return the URL to ask, path and query as they came."""
    return URL(upstream + path + (f"?{query.decode('latin-1')}" if query else ""), encoded=True)


class Exchange:
    """Runs one call whose intent is on record."""

    __slots__ = (
        "_asked", "_binding", "_delivered", "_entry", "_facts", "_handshakes", "_head", "_live", "_parts", "_send",
        "_started",
    )  # fmt: skip

    def __init__(
        self, entry: Entry, live: Live, binding: Binding, handshakes: Handshakes, *, asked: str, send: Send
    ) -> None:
        self._entry = entry
        self._live = live
        self._binding = binding
        self._handshakes = handshakes
        self._asked = asked
        self._send = send
        self._parts: list[bytes] = []
        self._facts: _Facts = {}
        self._head: dict[str, Any] = {}
        self._started = False
        self._delivered = 0

    async def run(
        self, session: aiohttp.ClientSession, line: Line, url: URL, body: bytes, headers: CIMultiDict[str]
    ) -> None:
        """Make the call and answer the client. Raises nothing but a cancellation from outside."""
        try:
            async with Hangup(line):
                rest = await self._relay(session, url, body, headers)
            await self._entry.settle()
        except ClientGone:
            self._give_up("client_abandoned", "client-gone")
        except UpstreamError as error:
            self._handshakes.forget(self._live)
            if self._give_up("upstream_error", error.code):
                await self._refuse(error)
        except StoreError as error:
            log.error("call %s: its outcome could not be recorded: %s", self._entry.call.id, error.code)
            await self._refuse(_withheld(error))
        except asyncio.CancelledError:
            self._give_up("unknown", "gateway-stopped")
            raise
        else:
            await self._start()
            await self._send({"type": "http.response.body", "body": rest, "more_body": False})

    async def _relay(self, session: aiohttp.ClientSession, url: URL, body: bytes, headers: CIMultiDict[str]) -> bytes:
        """Pass the answer on but for its end, put the outcome on record, and return what is still to be sent."""
        response = await _ask(session, url, body, headers)
        try:
            hold = Hold.of(response.headers)
            self._facts = {
                "status": response.status,
                "content_type": response.headers.get("Content-Type"),
                "content_encoding": response.headers.get("Content-Encoding"),
            }
            self._head = _head(response, self._entry.call.id, self._live, self._binding)
            if hold.way is Way.EVENTS and not hold.empty:
                await self._start()
            await self._pump(response, hold)
        finally:
            if not response.content.is_eof():
                response.close()  # stop reading, whatever the upstream still has to say
        await self._end(response.status)
        return hold.rest

    async def _pump(self, response: aiohttp.ClientResponse, hold: Hold) -> None:
        call, content = self._entry.call, response.content
        try:
            while data := await content.readany():
                call.chunk(data)
                self._parts.append(data)
                if free := hold.feed(data):
                    if not self._started:
                        await self._start()
                    await self._send({"type": "http.response.body", "body": free, "more_body": True})
                    self._delivered += len(free)
        except MalformedError as error:
            raise UpstreamError("answer-too-big", "the answer is too big to record", expected=error.expected) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamError(
                "upstream-died", "the upstream broke off in the middle of its answer", got=type(error).__name__
            ) from None

    async def _end(self, status: int) -> None:
        """Put the outcome of an answer that came to its end on record. Raises: StoreError."""
        evidence: EngineEvidence | None = None
        lost: str | None = None
        if self._binding.level == "A3" and status < 500:
            try:
                evidence = await self._handshakes.evidence(self._live, self._binding, self._entry.call)
            except GenealogError as error:
                lost = error.code
                log.warning("call %s is not at A3: %s", self._entry.call.id, lost)
        self._entry.call.close(
            finish="upstream_error" if status >= 500 else "complete",
            assurance="A3" if evidence else self._unsigned(),
            engine=evidence,
            error=lost,
            **self._facts,
        )

    def _give_up(self, finish: Finish, code: str) -> bool:
        """Put on record how the call broke off; say whether that worked."""
        try:
            self._entry.call.close(
                finish=finish, delivered=self._delivered, assurance=self._unsigned(), error=code, **self._facts
            )
        except StoreError as error:  # the sequencer will close the call as unknown
            log.error("call %s: its outcome could not be recorded: %s", self._entry.call.id, error.code)
            return False
        return True

    def _unsigned(self) -> Assurance:
        """Return the level of an answer that no engine vouches for."""
        own = reports_itself(
            self._parts,
            content_type=self._facts.get("content_type") or "",
            content_encoding=self._facts.get("content_encoding") or "",
            asked=self._asked,
        )
        return "A1" if own else "A0"

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(self._head)

    async def _refuse(self, error: GenealogError) -> None:
        """Tell the client, if it has seen nothing yet. Otherwise leave the answer unfinished: the server cuts it."""
        if not self._started:
            await answer(self._send, refusal(error), ours(self._entry.call.id, self._live, self._binding))


class _Facts(TypedDict, total=False):
    status: int
    content_type: str | None
    content_encoding: str | None


async def _ask(
    session: aiohttp.ClientSession, url: URL, body: bytes, headers: CIMultiDict[str]
) -> aiohttp.ClientResponse:
    try:
        data = body if len(body) < _LARGE else io.BytesIO(body)
        response = await session.post(url, data=data, headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpstreamError(
            "upstream-unreachable",
            "the upstream of this deployment did not answer",
            got=type(error).__name__,
            hint="is the engine running, and is the deployment's upstream its address?",
        ) from None
    if response.status not in _FINAL:
        response.close()
        raise UpstreamError(
            "upstream-status", "the upstream's status is none that an answer ends with", got=response.status,
            expected="200 to 599",
        )  # fmt: skip
    return response


def ours(call: str, live: Live | None, binding: Binding | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that the gateway puts on every answer to a call."""
    headers = [(b"genealog-call", call.encode())]
    if live is not None:
        headers.append((b"genealog-model", ",".join(live.body.models).encode()))
    if binding is not None:
        headers.append((b"genealog-assurance", binding.level.encode()))
    return headers


async def answer(
    send: Send, content: tuple[int, list[tuple[bytes, bytes]], bytes], extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send a whole answer of the gateway's own: status, headers, body."""
    status, headers, body = content
    await send({"type": "http.response.start", "status": status, "headers": headers + (extra or [])})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _head(response: aiohttp.ClientResponse, call: str, live: Live, binding: Binding) -> dict[str, Any]:
    headers = to_client(response.raw_headers) + ours(call, live, binding)
    if response.status in (204, 304):  # no body follows, whatever length a 304 speaks of (RFC 9110 §8.6)
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


def _withheld(error: StoreError) -> StoreError:
    return StoreError(
        "spool-unwritable",
        "the answer came but could not be recorded, so it is withheld",
        got=error.code,
        hint="free disk space on the gateway, then try again",
    )
