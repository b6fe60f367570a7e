"""The witness as one ASGI application.

    POST /add-checkpoint                    a log asks for a cosignature
    GET  /<hex SHA-256 of origin>/checkpoint   anybody reads what was cosigned last
    GET  /healthz                           whether the state can be read

A request is refused before its state is touched unless a key of a known log signed it, so strangers cost one signature
check and no write. Updates of one log beyond its rate get 429; so do repeats of its newest head, which everybody can
send, and they have an allowance of their own. A list of logs that cannot be read keeps the one before in force.

Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genealog.core.witness import MAX_REQUEST, TEXT, KnownLog, Refusal, admit
from genealog.errors import GenealogError
from genealog.store.witness_state import Cosigned, WitnessState

ADD = "/add-checkpoint"
DAY = 86_400
READ_WITHIN = 30.0  # seconds for a whole request body
_MONITOR = re.compile(r"/([0-9a-f]{64})/checkpoint")
_BURST = 300  # seconds' worth of a day's allowance that may come at once, and at least `_LEAST`
_LEAST = 8

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("genealog.witness")


class Allowance:
    """A bucket: so many a day, evenly, and a few at once."""

    def __init__(self, per_day: int, now: float) -> None:
        self._room = max(_LEAST, per_day * _BURST / DAY)
        self._rate = per_day / DAY
        self._left = self._room
        self._seen = now

    def wait(self, now: float) -> float:
        """Return the seconds until there is one to take, 0 if there is one now."""
        self._left = min(self._room, self._left + max(0.0, now - self._seen) * self._rate)
        self._seen = now
        return max(0.0, (1 - self._left) / self._rate)

    def take(self) -> None:
        """Take one."""
        self._left -= 1


class WitnessApp:
    """An ASGI 3 application for `http` scopes. `per_day` is the rate of a log whose list says none."""

    def __init__(
        self,
        state: WitnessState,
        logs: Path | None = None,
        *,
        per_day: int = DAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._list = logs
        self._per_day = per_day
        self._clock = clock
        self._allowed: dict[tuple[str, bool], Allowance] = {}
        self._known: Mapping[str, KnownLog] = state.logs(logs)
        self._work = ThreadPoolExecutor(1, "witness")  # SQLite takes one writer at a time anyhow

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        monitor = _MONITOR.fullmatch(path)
        try:
            if path == ADD and method == "POST":
                await self._add(receive, send)
            elif monitor and method in ("GET", "HEAD"):
                note = await self._run(self._state.checkpoint, monitor[1])
                await _reply(send, *((200, note) if note else (404, b"nothing cosigned for this log\n")))
            elif path == "/healthz" and method in ("GET", "HEAD"):
                await self._run(self._state.head, "")
                await _reply(send, 200, b"ok\n")
            elif path == ADD or monitor or path == "/healthz":
                await _reply(send, 405, b"another method\n")
            else:
                await _reply(send, 404, b"no such path\n")
        except GenealogError as error:
            log.error("%s", error.code)
            await _reply(send, 503 if error.http_status >= 500 else 400, f"{error.message} [{error.code}]\n".encode())

    async def _add(self, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(_read(receive), READ_WITHIN)
        except TimeoutError:
            return await _reply(send, 408, b"the request did not come to an end\n", close=True)
        if body is None:
            return await _reply(send, 413, b"a request of this size is not read\n", close=True)
        done = await self._run(self._decide, body)
        if isinstance(done, float):
            wait = str(int(done) + 1)
            return await _reply(send, 429, b"too many updates of this log\n", headers={"retry-after": wait})
        if isinstance(done, Cosigned):
            return await _reply(send, 200, done.lines)
        if done.fork is not None:
            log.error("a log has forked: the evidence is kept")
        return await _reply(send, done.status, done.body, content_type=done.content_type)

    def _decide(self, body: bytes) -> Cosigned | Refusal | float:
        """Return the cosignature, a refusal, or the seconds to wait. Runs in the one worker thread."""
        admitted = admit(body, self._logs())
        if isinstance(admitted, Refusal):
            return admitted
        last = self._state.head(admitted.log.origin)
        allowance = self._allowance(admitted.log, again=last is not None and last.root == admitted.checkpoint.root)
        if admitted.old == (last.size if last else 0) and (wait := allowance.wait(self._clock())):
            return wait
        done = self._state.add(admitted, int(self._clock()))
        if isinstance(done, Cosigned):
            allowance.take()  # nobody else can use it up with heads that he found and proofs that he made up
        return done

    def _allowance(self, known: KnownLog, *, again: bool) -> Allowance:
        key = known.origin, again
        if key not in self._allowed:
            self._allowed[key] = Allowance(known.per_day or self._per_day, self._clock())
        return self._allowed[key]

    def _logs(self) -> Mapping[str, KnownLog]:
        try:
            self._known = self._state.logs(self._list)
        except GenealogError as error:
            log.error("the list of logs cannot be used, the one before stays: %s", error)
        return self._known

    async def _run(self, step: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._work, step, *given)

    def close(self) -> None:
        """Finish what is being decided, and close the state."""
        self._work.shutdown()
        self._state.close()


async def _read(receive: Receive) -> bytes | None:
    """Return the request body, None if it is too big. A client that goes away has sent what it has sent."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_REQUEST:
            return None
    return bytes(body)


async def _reply(
    send: Send, status: int, body: bytes, *, content_type: str = TEXT, close: bool = False,
    headers: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    fields = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    if close:
        fields["connection"] = "close"
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
