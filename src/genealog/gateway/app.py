"""The data plane as one ASGI application: which call goes where, and which does not go at all.

    POST /v1/chat/completions   passed on verbatim, both ways, streaming or not
    GET  /v1/models             what is deployed
    GET  /healthz               whether calls can be recorded

A call is let in when its deployment is live, every model of it is registered and unrevoked, the upstream is bound as
strongly as the deployment demands, and the spool takes its intent. A call that is refused is on record too. Of the
request only `model` and `stream` are read here; what a body says is read by whoever sequences.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
import msgspec

from genealog.core.frames import MAX_BODY, Assurance, Durability, Finish
from genealog.deploy import Live
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied, StoreError, UpstreamError
from genealog.gateway import headers as rules
from genealog.gateway.directory import Directory, Found
from genealog.gateway.exchange import Exchange, Send, answer, ours, target
from genealog.gateway.handshake import Binding, Handshakes
from genealog.gateway.hangup import ClientGone
from genealog.gateway.record import Context
from genealog.gateway.recording import Recording
from genealog.gateway.refusal import refusal
from genealog.gateway.wire import HANGUP

CHAT = "/v1/chat/completions"
DIALECT = "openai-chat"
_CONTEXTS = 256  # kept for one deployment: as many clients as there may be that differ
_ROUTES = {CHAT: "POST", "/v1/models": "GET", "/healthz": "GET"}
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]

log = logging.getLogger("genealog.gateway")


class _Asked(msgspec.Struct):
    model: str
    stream: bool | None = None


_asked = msgspec.json.Decoder(_Asked)


class Gateway:
    """An ASGI 3 application for `http` scopes of `wire.Protocol`."""

    def __init__(
        self,
        *,
        recording: Recording,
        directory: Directory,
        handshakes: Handshakes,
        session: aiohttp.ClientSession,
        max_body: int = MAX_BODY,
    ) -> None:
        self._recording = recording
        self._directory = directory
        self._handshakes = handshakes
        self._session = session
        self._max_body = max_body
        self._mark = secrets.token_hex(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            route = (scope["method"], scope["path"])
            if route == ("POST", CHAT):
                await self._chat(scope, receive, send)
            elif route == ("GET", "/v1/models"):
                await answer(send, _json(self._models()))
            elif route == ("GET", "/healthz"):
                await self._health(send)
            else:
                await answer(send, refusal(_no_such_route(*route)))
        except Exception as error:  # the message of a foreign error may quote a header, so it is not logged
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("unexpected %s\n%s", type(error).__name__, where)
            raise

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(scope["headers"], receive)
        except ClientGone:
            return None  # it never finished asking
        except MalformedError as error:
            return await self._refuse(send, error, _context(scope, "", None), b"")
        try:
            asked = _asked.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return await self._refuse(send, _malformed(error), _context(scope, "", None), body)

        found = self._directory.look(asked.model) or await self._directory.find(asked.model)
        live = found.live
        if found.refusal is not None or live is None:
            refused = found.refusal or MissingError("unknown-deployment", "no deployment has this name")
            return await self._refuse(send, refused, _context(scope, asked.model, found), body, live)
        if self._mark in rules.via(scope["headers"]):
            return await self._refuse(send, _loop(live), _context(scope, asked.model, found), body, live)
        try:
            binding = self._handshakes.known(live) or await self._handshakes.bind(live)
        except UpstreamError as error:
            return await self._refuse(
                send, error, _context(scope, asked.model, found), body, live, finish="upstream_error"
            )
        context = _context(scope, asked.model, found, binding.level)
        if denied := _too_low(live, binding):
            return await self._refuse(send, denied, context, body, live, binding)
        try:
            entry = await self._recording.open(body, context)
        except StoreError as error:
            return await answer(send, refusal(error))
        exchange = Exchange(entry, live, binding, self._handshakes, asked=asked.model, send=send)
        url = target(live.body.upstream, CHAT, scope["query_string"])
        headers = rules.to_upstream(scope["headers"], entry.call.id, self._mark, streaming=bool(asked.stream))
        return await exchange.run(self._session, scope["extensions"][HANGUP], url, body, headers)

    async def _read(self, headers: rules.Headers, receive: Receive) -> bytes:
        """Return the request body. Raises: MalformedError `body-too-large`; ClientGone."""
        stated = int(next((value for name, value in headers if name == b"content-length"), b"0"))
        parts: list[bytes] = []
        size, more = 0, stated <= self._max_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message["body"])
            size += len(parts[-1])
            more = message["more_body"] and size <= self._max_body
        if max(size, stated) > self._max_body:
            raise MalformedError(
                "body-too-large", "the request body is too large", expected=f"≤ {self._max_body} bytes"
            )
        return b"".join(parts)

    async def _refuse(
        self,
        send: Send,
        error: GenealogError,
        context: Context,
        body: bytes,
        live: Live | None = None,
        binding: Binding | None = None,
        *,
        finish: Finish = "refused",
    ) -> None:
        """Put a call that is not made on record, and say why."""
        try:
            entry = await self._recording.open(body, context)
            entry.call.close(finish=finish, assurance="A0", error=error.code)
            await entry.settle()
        except StoreError as unwritable:
            await answer(send, refusal(unwritable))
        else:
            await answer(send, refusal(error), ours(entry.call.id, live, binding))

    def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [_model(live) for live in self._directory.serving()]}

    async def _health(self, send: Send) -> None:
        try:
            self._recording.check()
        except StoreError as error:
            return await answer(send, refusal(error))
        state = {"emitter": self._recording.emitter, "boot": self._recording.boot, "epoch": self._directory.epoch}
        return await answer(send, _json({"status": "ok", **state}))


def _context(scope: Scope, name: str, found: Found | None, bound: Assurance = "A0") -> Context:
    """Return what is on record of a call besides its bytes. Calls of one client to one deployment share it."""
    kept = rules.kept(scope["headers"])
    live = found.live if found is not None else None
    if found is None or live is None:
        return Context(
            deployment=name, operation=CHAT, dialect=DIALECT, who=rules.who(kept), headers=rules.on_record(kept)
        )
    context = found.contexts.get((bound, kept))
    if context is None:
        if len(found.contexts) >= _CONTEXTS:
            found.contexts.clear()
        context = found.contexts[bound, kept] = Context(
            deployment=name,
            operation=CHAT,
            dialect=DIALECT,
            spec=live.spec,
            models=live.body.models,
            bound=bound,
            durability=cast("Durability", live.body.durability),
            capture=live.body.body_capture,
            who=rules.who(kept),
            headers=rules.on_record(kept),
        )
    return context


def _too_low(live: Live, binding: Binding) -> PolicyDenied | None:
    """Say no where the demanded level can no longer be reached. A1 can: it is only known once the answer is there."""
    wanted = live.body.minimum_assurance
    if max(binding.level, "A1") >= wanted:
        return None
    return PolicyDenied(
        "assurance-too-low",
        f"{live.name} demands {wanted}; its upstream is bound at {binding.level} ({binding.reason})",
        got=binding.level,
        expected=wanted,
        hint="serve the registered models with genealog engine, or deploy with a lower minimum",
    )


def _loop(live: Live) -> UpstreamError:
    return UpstreamError(
        "upstream-loop", f"the upstream of {live.name} leads back to this gateway", got=live.body.upstream,
        hint="deploy it again with the address of its engine",
    )  # fmt: skip


def _model(live: Live) -> dict[str, Any]:
    facts = {"spec": live.spec, "models": live.body.models, "minimum_assurance": live.body.minimum_assurance}
    if live.tainted:
        facts["tainted"] = live.tainted
    return {"id": live.name, "object": "model", "created": 0, "owned_by": "genealog", "genealog": facts}


def _malformed(error: Exception) -> MalformedError:
    return MalformedError(
        "malformed-json",
        "the request body is not a JSON object that names a model",
        got=str(error)[:120],
        expected='{"model": "DEPLOYMENT", "messages": […]}, uncompressed',
    )


def _no_such_route(method: str, path: str) -> GenealogError:
    if path in _ROUTES:
        return MalformedError("method-not-allowed", f"{path} wants {_ROUTES[path]}", got=method)
    return MissingError("no-such-route", "the gateway does not serve this path", got=path[:200], hint=f"POST {CHAT}")


def _json(value: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    body = msgspec.json.encode(value)
    return 200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body
