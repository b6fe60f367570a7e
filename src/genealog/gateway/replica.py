"""The replica as a process: takes frames over HTTP, and says so when they are on its disk.

    GET  /v1/NODE/EMITTER                                              how far the copy is
    POST /v1/NODE/EMITTER/BOOT/SEGMENT/OFFSET?oldest&keep&previous     frames; answered after fdatasync
    GET  /healthz

Whoever has the secret may write; nobody can read a frame back. 401: not the secret; 409: a gap, other bytes, an older
boot; 400: no frames. Answers are JSON: a `Place`, or `code` and `message`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from genealog import listening
from genealog.errors import GenealogError, MalformedError, StoreError
from genealog.store.replica_spool import Batch, ReplicaSpool
from genealog.store.spool import HEADER, MAX_PAYLOAD

Message = MutableMapping[str, Any]
log = logging.getLogger("genealog.replica")


class ReplicaApp:
    """An ASGI 3 application for `http` scopes over `spool`."""

    def __init__(self, spool: ReplicaSpool, secret: bytes) -> None:
        self._spool = spool
        self._secret = b"Bearer " + secret

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        status, answer = await self._answer(scope, receive)
        body = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> tuple[int, object]:
        path = str(scope["path"])
        if path == "/healthz":
            return 200, {"status": "ok"}
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._secret):
            wrong = StoreError("replica-secret", "this is not the secret of the replica")
            return 401, {"code": wrong.code, "message": wrong.message}
        try:
            match (scope["method"], path.split("/")[1:]):
                case ("GET", ["v1", node, emitter]):
                    return 200, self._spool.place(node, emitter)
                case ("POST", ["v1", node, emitter, boot, segment, offset]):
                    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
                    batch = _batch({**query, "emitter": emitter, "boot": boot, "segment": segment, "offset": offset})
                    data = await _body(receive)
                    return 200, await asyncio.to_thread(self._spool.take, node, batch, data)
        except MalformedError as error:
            return 400, {"code": error.code, "message": error.message}
        except GenealogError as error:
            log.error("%s", error)
            return 409, {"code": error.code, "message": error.message}
        return 404, {"code": "not-found", "message": "nothing is here"}


def _batch(words: dict[str, str]) -> Batch:
    try:
        return msgspec.convert(words, Batch, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedError("bad-batch", f"this does not say where frames belong: {error}") from None


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedError("bad-batch", "the batch broke off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > HEADER.size + MAX_PAYLOAD:
            raise MalformedError("bad-batch", "no batch is this big", expected=f"≤ {HEADER.size + MAX_PAYLOAD}")
        if not message.get("more_body"):
            return b"".join(parts)


def serve(
    spool: ReplicaSpool,
    secret: bytes,
    *,
    listen: str,
    announce: Callable[[str], None],
    certificate: str | None = None,
    key: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the URL once frames are taken. Port 0 is any free one.

    Raises: MalformedError `bad-listen`; StoreError `cannot-listen`.
    """
    try:
        with listening.listen_at(listen, backlog=128) as listener:
            url = listening.url_of(listener)
            url = url if certificate is None else url.replace("http:", "https:")
            listening.serve_until_signal(
                listener, ReplicaApp(spool, secret), lambda: announce(url), ssl_certfile=certificate, ssl_keyfile=key
            )
    finally:
        spool.close()
