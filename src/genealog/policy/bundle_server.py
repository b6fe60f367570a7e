"""What an Open Policy Agent asks of its control plane, as one ASGI application.

    GET  /bundles/genealog.tar.gz   the bundle; If-None-Match; `Prefer: wait=N` answers when there is another one
    POST /logs, /logs/NAME          decision events, a JSON list, gzip or not; 200 once they are in the registry log
    POST /status, /status/NAME      what the agent says of itself: counted, and not kept
    GET  /healthz                   whether the store can be read

With a token, every path but `/healthz` wants it (`Authorization: Bearer`). Uploads are read up to `MAX_ZIPPED` bytes,
and unpacked up to `MAX_UNZIPPED`. A new state of the registry reaches an agent that waits within `EVERY` seconds. Only
snapshots are served, also to agents that would take a delta: an agent does not check a signature on a delta.

The store is asked by one thread, one question after the other. Source: openpolicyagent.org, Bundles (HTTP long polling)
and Decision Logs.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from genealog import listening
from genealog.core.dsse import Signer
from genealog.errors import GenealogError, MalformedError, StoreError
from genealog.policy.bundling import Bundles, Packed
from genealog.policy.decision_logs import DecisionLogs
from genealog.registry import Registry
from genealog.store.home import Home

PATH: Final = "/bundles/genealog.tar.gz"
LONG_POLL: Final = "application/vnd.openpolicyagent.bundles"  # how a server says that it knows long polling
MAX_ZIPPED = 4 * 1024 * 1024
MAX_UNZIPPED = 32 * 1024 * 1024
MAX_STATUS = 1024 * 1024
LONGEST = 300  # seconds that an agent may wait for a bundle
EVERY = 0.1  # seconds between looks at the registry while somebody waits
READ_WITHIN = 30.0  # seconds for a whole request body
_WAIT = re.compile(r"(?:^|[;,\s])wait=(\d{1,6})(?:$|[;,\s])")
_UPLOAD = re.compile(r"/(logs|status)(?:/[^/]{0,200})?")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("genealog.policy")


class BundleApp:
    """An ASGI 3 application for `http` scopes. `token`: what agents show. `signer` signs bundles, `stating` entries."""

    def __init__(
        self, home: Home, signer: Signer | None, *, token: str | None = None, stating: Signer | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._bundles = Bundles(home, signer)
        self._logs = DecisionLogs(Registry(home), stating)
        self._token = None if token is None else f"Bearer {token}".encode()
        self._work = ThreadPoolExecutor(1, "policy")
        self._waiting = 0
        self._watcher: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._seen: Packed | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        try:
            if path == "/healthz" and method in ("GET", "HEAD"):
                await self._run(self._bundles.newest)
                await _reply(send, 200, {"status": "ok"})
                return
            self._admit(headers)
            upload = _UPLOAD.fullmatch(path)
            if path == PATH and method in ("GET", "HEAD"):
                await self._bundle(headers, receive, send)
            elif upload and method == "POST":
                await self._upload(upload[1], headers, receive, send)
            elif path == PATH or upload or path == "/healthz":
                await _reply(send, 405, {"code": "method-not-allowed", "title": "another method"})
            else:
                await _reply(send, 404, {"code": "not-found", "title": "nothing is here"})
        except GenealogError as error:
            status = {"policy-token": 401, "upload-too-big": 413}.get(error.code, error.http_status)
            if status >= 500:
                log.error("%s", error)
            await _reply(send, status, {**error.problem(), "status": status}, close=status in (401, 413))

    def _admit(self, headers: Mapping[bytes, bytes]) -> None:
        if self._token is None or hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            return
        raise StoreError("policy-token", "this is not the token that agents of this server show")

    async def _bundle(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        packed = await self._run(self._bundles.newest)
        known = [
            each.strip().removeprefix("W/") for each in headers.get(b"if-none-match", b"").decode("latin-1").split(",")
        ]
        wait = _WAIT.search(headers.get(b"prefer", b"").decode("latin-1"))
        if packed.etag in known and wait:
            packed = await self._wait(packed, min(int(wait[1]), LONGEST), receive)
        told = {"etag": packed.etag, "content-type": LONG_POLL if wait else "application/gzip", "vary": "prefer"}
        same = packed.etag in known
        self.counts["unchanged" if same else "bundles"] += 1
        await _send(send, 304 if same else 200, b"" if same else packed.data, told)

    async def _wait(self, packed: Packed, seconds: int, receive: Receive) -> Packed:
        """Return the next bundle, or the same one after so many seconds or when the agent has gone."""
        await receive()  # the request, which has no body
        self._waiting += 1
        if self._watcher is None or self._watcher.done():
            self._seen = packed
            self._watcher = asyncio.create_task(self._watch())
        gone, news = asyncio.create_task(_gone(receive)), asyncio.create_task(self._news(packed))
        try:
            await asyncio.wait((gone, news), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return news.result() if news.done() else packed
        finally:
            self._waiting -= 1
            for task in (gone, news):
                task.cancel()
            await asyncio.gather(gone, news, return_exceptions=True)

    async def _news(self, packed: Packed) -> Packed:
        async with self._changed:
            while self._seen is None or self._seen.number <= packed.number:
                await self._changed.wait()
            return self._seen

    async def _watch(self) -> None:
        """Look at the registry while anybody waits."""
        while self._waiting:
            try:
                found = await self._run(self._bundles.newest)
            except GenealogError as error:
                log.error("%s", error)
            else:
                if self._seen is None or found.number > self._seen.number:
                    async with self._changed:
                        self._seen = found
                        self._changed.notify_all()
            await asyncio.sleep(EVERY)

    async def _upload(self, kind: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        limit = MAX_ZIPPED if kind == "logs" else MAX_STATUS
        try:
            body = await asyncio.wait_for(_body(receive, limit), READ_WITHIN)
        except TimeoutError:
            raise MalformedError("upload-broken-off", "the upload did not come to an end") from None
        if kind == "status":
            self.counts["status"] += 1
            await _reply(send, 200, {})
            return
        taken = await self._run(self._take, body, headers.get(b"content-encoding", b"").decode("latin-1").lower())
        self.counts["events"] += taken.new
        self.counts["again"] += taken.events - taken.new
        await _reply(send, 200, {"events": taken.events, "new": taken.new})

    def _take(self, body: bytes, encoding: str) -> Any:
        return self._logs.take(unzipped(body) if encoding == "gzip" or body.startswith(b"\x1f\x8b") else body)

    async def _run(self, step: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._work, step, *given)

    def close(self) -> None:
        """Finish what is being done."""
        self._work.shutdown()


def unzipped(body: bytes) -> bytes:
    """Unpack gzip up to `MAX_UNZIPPED` bytes. Raises: MalformedError `decision-log-malformed`, `upload-too-big`."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(body, MAX_UNZIPPED + 1)
    except zlib.error as error:
        raise MalformedError("decision-log-malformed", "this is no gzip", got=str(error)) from None
    if len(data) > MAX_UNZIPPED:
        raise _too_big(MAX_UNZIPPED)
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedError("decision-log-malformed", "this is no whole gzip", expected="one member, to its end")
    return data


async def _body(receive: Receive, limit: int) -> bytes:
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedError("upload-broken-off", "the upload did not come to an end")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_big(limit)
        if not message.get("more_body"):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_big(limit: int) -> MalformedError:
    return MalformedError(
        "upload-too-big", "an upload of this size is not read", expected=f"at most {limit} bytes",
        hint="set decision_logs.reporting.upload_size_limit_bytes of the agent lower",
    )  # fmt: skip


async def _reply(send: Send, status: int, answer: object, *, close: bool = False) -> None:
    headers = {"content-type": "application/json"} | ({"connection": "close"} if close else {})
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    await _send(send, status, msgspec.json.encode(answer), headers)


async def _send(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    fields = dict(headers) if status == 304 else {**headers, "content-length": str(len(body))}
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def serve(
    home: Home,
    signer: Signer | None,
    *,
    listen: str,
    announce: Callable[[str], None],
    token: str | None = None,
    stating: Signer | None = None,
    certificate: str | None = None,
    key: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the URL once requests are taken. Port 0 is any free one.

    Raises: MalformedError `bad-listen`; StoreError `cannot-listen`, `bundle-key-unfit`.
    """
    app = BundleApp(home, signer, token=token, stating=stating)
    try:
        with listening.listen_at(listen, backlog=256) as listener:
            url = listening.url_of(listener)
            url = url if certificate is None else url.replace("http:", "https:")
            listening.serve_until_signal(
                listener, app, lambda: announce(url), within=READ_WITHIN, ssl_certfile=certificate, ssl_keyfile=key,
                limit_concurrency=2048,
            )  # fmt: skip
    finally:
        app.close()
