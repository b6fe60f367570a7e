"""The little HTTP that the engine needs, over ASGI: a bounded body, and a response whose bytes are hashed as they go.

Source: ASGI specification 3.0, HTTP connection scope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from genealog.errors import GenealogError, MalformedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

MAX_BODY = 8 << 20  # bytes


class BodyTooLarge(MalformedError):  # noqa: N818 - the name of the HTTP status
    """A request body over the limit."""

    http_status = 413


class Disconnected(Exception):  # noqa: N818 - it is nobody's error
    """The client went away before its request was complete."""


def header(scope: Scope, name: str) -> str | None:
    """Return the first header called `name` (lower case)."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), None)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the request body. Raises: BodyTooLarge `body-too-large`; Disconnected."""
    too_large = BodyTooLarge("body-too-large", "the request body is too big", expected=f"≤ {MAX_BODY} bytes")
    announced = header(scope, "content-length") or ""
    if announced.isdecimal() and int(announced) > MAX_BODY:
        raise too_large
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


class Outlet:
    """One response. `started` tells whether its head is out."""

    def __init__(self, send: Send, headers: Mapping[str, str] | None = None) -> None:
        self._send = send
        self._headers = dict(headers or {})
        self._sent = hashlib.sha256()
        self.started = False

    def digest_with(self, rest: bytes) -> str:
        """Return the hex SHA-256 of the whole body, if `rest` is all that is still to come."""
        digest = self._sent.copy()
        digest.update(rest)
        return digest.hexdigest()

    async def start(self, status: int, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Send the head."""
        fields = {"content-type": content_type} | self._headers | dict(headers or {})
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send body bytes."""
        self._sent.update(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def whole(self, status: int, body: Any, *, content_type: str = "application/json",
                    headers: Mapping[str, str] | None = None) -> None:  # fmt: skip
        """Send a complete response: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self.start(status, content_type, {"content-length": str(len(data))} | dict(headers or {}))
        await self.write(data, last=True)

    async def problem(self, error: GenealogError) -> None:
        """Send an error as RFC 9457 has it."""
        await self.whole(error.http_status, error.problem(), content_type="application/problem+json")
