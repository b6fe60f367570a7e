"""The engine's HTTP face: chat completions in OpenAI's shape, and the evidence that goes with them. Pure ASGI.

    POST /v1/chat/completions     GET /v1/models     GET /healthz
    GET /genealog/v1/load?nonce=HEX             the load statement, and a signature over the nonce
    GET /genealog/v1/signatures/{call}          the signature and report of a finished call

An answer is signed over exactly the bytes received and sent, before its last bytes leave. One that was cut has no
signature. Errors under /v1 have OpenAI's shape, under /genealog RFC 9457's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from genealog.core.call import call_id
from genealog.core.ids import sha256_hex
from genealog.core.records import EngineReport
from genealog.engine.events import Ended, Job, Piece, Started
from genealog.engine.http import Disconnected, Outlet, Receive, Scope, Send, header, read_body
from genealog.engine.reply import Reply, event, failure
from genealog.engine.request import ChatRequest, parse_chat, spelling
from genealog.engine.sampling import NAME, Sampler
from genealog.engine.signing import LoadKey, SignatureStore, derive_seed
from genealog.engine.worker import Answer, Worker
from genealog.errors import GenealogError, MalformedError, MissingError

_CALL = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_NONCE = re.compile(r"[0-9a-fA-F]{32,128}")
STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served: the artifact IDs that were loaded (the one that answers last), and the key for it, if any."""

    models: tuple[str, ...]
    numerics: Mapping[str, str]
    key: LoadKey | None
    created: int

    @property
    def model(self) -> str:
        """The artifact ID of what answers: the adapter, or the model."""
        return self.models[-1]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call as far as it is known when its request was read."""

    call: str
    seed_source: str
    request: ChatRequest
    request_sha256: str
    job: Job


class EngineApp:
    """The ASGI application. `now` gives Unix time in seconds, `entropy` random bytes."""

    def __init__(
        self,
        serving: Serving,
        worker: Worker,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._serving = serving
        self._worker = worker
        self._now = now
        self._entropy = entropy
        self._signatures = SignatureStore(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError("the engine speaks HTTP only")
        path, outlet = scope["path"], Outlet(send)
        if path == "/v1/chat/completions":
            return await self._chat(scope, receive, send)
        if scope["method"] != "GET":
            allowed = {"allow": "GET"}
            error = MalformedError("method-not-allowed", "this address is for reading", got=scope["method"])
            return await outlet.whole(405, failure(error), headers=allowed)
        try:
            body = self._read(path, scope)
        except GenealogError as error:
            if path.startswith("/genealog/"):
                return await outlet.problem(error)
            return await outlet.whole(error.http_status, failure(error))
        return await outlet.whole(200, body)

    def _read(self, path: str, scope: Scope) -> Mapping[str, object]:
        if path == "/healthz":
            return {"status": "ok", "model": self._serving.model}
        if path == "/v1/models":
            model = {"id": self._serving.model, "object": "model", "created": self._serving.created}
            base = {"parent": self._serving.models[0]} if len(self._serving.models) > 1 else {}
            return {"object": "list", "data": [model | {"owned_by": "genealog"} | base]}
        if path == "/genealog/v1/load":
            nonces = parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])
            return self._load(nonces[0])
        if path.startswith("/genealog/v1/signatures/"):
            return self._signature(path.rpartition("/")[2])
        raise MissingError("no-such-address", "there is nothing here", got=path[:200])

    def _load(self, nonce: str) -> Mapping[str, object]:
        key = self._key()
        if not _NONCE.fullmatch(nonce):
            raise MalformedError("bad-nonce", "not a nonce", got=ascii(nonce)[:80], expected="32 to 128 hex digits")
        return {"load": key.load, "challenge": base64.b64encode(key.challenge(nonce)).decode()}

    def _signature(self, call: str) -> Mapping[str, object]:
        self._key()
        signed = self._signatures.get(call)
        if signed is None:
            raise MissingError(
                "no-signature", "no signature for this call", got=ascii(call)[:80],
                hint="an answer that was cut has none, and old ones are forgotten after ten minutes",
            )  # fmt: skip
        return {
            "signature": base64.b64encode(signed.signature).decode(),
            "report": base64.b64encode(signed.report).decode(),
        }

    def _key(self) -> LoadKey:
        if self._serving.key is None:
            raise MissingError(
                "unsigned-engine", "this engine runs without a key: it has no load statement and signs nothing",
                hint="start it without --unsigned, in a store that has its key",
            )  # fmt: skip
        return self._serving.key

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = Outlet(send)
        try:
            if scope["method"] != "POST":
                error = MalformedError("method-not-allowed", "chat completions are posted", got=scope["method"])
                return await outlet.whole(405, failure(error), headers={"allow": "POST"})
            exchange = self._exchange(scope, await read_body(scope, receive))
            outlet = Outlet(send, {"genealog-call": exchange.call})
            answer = self._worker.submit(exchange.job)
            watcher = asyncio.create_task(_cancel_on_disconnect(receive, answer))
            try:
                await self._answer(exchange, answer, outlet)
            finally:
                answer.cancel()
                watcher.cancel()
        except Disconnected:
            return None
        except GenealogError as error:
            if outlet.started:  # the status is out; the stream itself has to say it
                return await outlet.write(event(failure(error)), last=True)
            retry = {"retry-after": "5"} if error.http_status == 503 else {}
            return await outlet.whole(error.http_status, failure(error), headers=retry)

    def _exchange(self, scope: Scope, body: bytes) -> Exchange:
        request = parse_chat(body)
        call, source = header(scope, "genealog-call"), "derived"
        if call is None:
            call, source = call_id(int(self._now() * 1000), self._entropy(10)), "local"
        elif not _CALL.fullmatch(call):
            raise MalformedError("bad-call-id", "Genealog-Call is not a ULID", got=ascii(call)[:80])
        if request.seed is None:
            seed = derive_seed(call, self._serving.key.load if self._serving.key else "")
        else:
            seed, source = request.seed, "client"
        job = Job(
            messages=request.messages,
            sampler=Sampler(seed=seed, temperature=request.temperature, top_p=request.top_p),
            max_tokens=request.max_tokens,
            stop=request.stop,
            top=request.logprobs or 0,
        )
        return Exchange(call, source, request, sha256_hex(body), job)

    async def _answer(self, exchange: Exchange, answer: Answer, outlet: Outlet) -> None:
        key, request = self._serving.key, exchange.request
        reply = Reply(
            call=exchange.call, created=int(self._now()), model=self._serving.model,
            fingerprint=f"gl-{key.load[:16]}" if key else None,
            logprobs=request.logprobs is not None, include_usage=request.include_usage,
        )  # fmt: skip
        started = Started((), 0)
        pieces: list[Piece] = []
        async for step in answer:
            if isinstance(step, Started):
                started = step
                if request.stream:
                    await outlet.start(200, STREAM, {"cache-control": "no-cache"})
                    await outlet.write(reply.opening())
            elif isinstance(step, Piece):
                if request.stream:
                    await outlet.write(reply.piece(step))
                else:
                    pieces.append(step)
            elif request.stream:
                tail = reply.ending(step, len(started.prompt))
                self._sign(exchange, started, step, outlet.digest_with(tail))
                await outlet.write(tail, last=True)
            else:
                body = reply.whole(pieces, step, len(started.prompt))
                self._sign(exchange, started, step, outlet.digest_with(body))
                await outlet.whole(200, body)

    def _sign(self, exchange: Exchange, started: Started, ended: Ended, response_sha256: str) -> None:
        key, sampler = self._serving.key, exchange.job.sampler
        if key is None:
            return
        report = EngineReport(
            call=exchange.call,
            sampler={
                "name": NAME, "temperature": spelling(sampler.temperature), "top_p": spelling(sampler.top_p),
                "max_tokens": str(started.limit), "seed": str(sampler.seed), "seed_source": exchange.seed_source,
            },
            prompt_tokens=len(started.prompt),
            prompt_sha256=token_digest(started.prompt),
            tokens=ended.tokens,
            logprobs=base64.b64encode(ended.logprobs.astype("<f4").tobytes()).decode(),
            finish_reason=ended.finish_reason,
            numerics=dict(self._serving.numerics),
        )  # fmt: skip
        self._signatures.put(
            exchange.call, key.sign_call(report, request=exchange.request_sha256, response=response_sha256)
        )


def token_digest(tokens: tuple[int, ...]) -> str:
    """Return the hex SHA-256 over token IDs, each as 4 little-endian bytes."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in tokens)).hexdigest()


async def _cancel_on_disconnect(receive: Receive, answer: Answer) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.cancel()
