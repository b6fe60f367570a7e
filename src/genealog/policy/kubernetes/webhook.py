"""The webhook: answers AdmissionReviews by the policies of one store, and never with a yes that nobody decided.

    POST /v1/admit   an AdmissionReview; 200 with the answer, 400 where it is none, 413 over 8 MiB
    GET  /healthz    200 while the store can be read and the engine answers, else 503

An error, a store that cannot be read and a decision that comes too late are answered with no. A yes is on record before
it is said, unless the request is a dry run: then nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from genealog import listening
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied
from genealog.policy.kubernetes import review
from genealog.policy.kubernetes.judging import Admission, Answer

Message = MutableMapping[str, Any]
PATH = "/v1/admit"
TIMEOUT = 4.0  # seconds for one answer: the API server gives up after 5
WAITING = 64  # requests at once; more are told no
log = logging.getLogger("genealog.policy.kubernetes")


class Webhook:
    """An ASGI 3 application for `http` scopes.

    `opened` makes what decides. It is called, asked and let go of on one thread: engines belong to the one that made
    them. Raises: what `opened` does.
    """

    def __init__(self, opened: Callable[[], Admission], *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="admission")
        self._admission: Admission | None = None
        try:
            self._worker.submit(self._open, opened).result()
        except BaseException:
            self._worker.shutdown()
            raise

    def close(self) -> None:
        """Let go of the engine."""
        self._worker.submit(self._end).result()
        self._worker.shutdown()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        status, answer = await self._answer(scope, receive)
        body = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @property
    def _decider(self) -> Admission:
        if self._admission is None:
            raise PolicyDenied("policy-engine-missing", "this webhook is stopping")
        return self._admission

    def _open(self, opened: Callable[[], Admission]) -> None:
        self._admission = opened()

    def _end(self) -> None:
        if self._admission is not None:
            self._admission.policies.close()
            self._admission = None

    async def _answer(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> tuple[int, object]:
        place = scope["method"], scope["path"]
        if place == ("GET", "/healthz"):
            return await self._health()
        if place != ("POST", PATH):
            return 404, {"code": "not-found", "message": "nothing is here"}
        body = await _body(receive)
        if body is None:
            return 413, {"code": "bad-admission-review", "message": f"no review is bigger than {review.LIMIT} bytes"}
        try:
            request = review.read_review(body)
        except MalformedError as error:
            log.warning("%s", error)
            return error.http_status, error.problem()
        if self._waiting >= WAITING:
            return 200, review.denied(request.uid, "too-many-reviews", "too many requests wait for an answer")
        self._waiting += 1
        try:
            return 200, await self._decide(request)
        finally:
            self._waiting -= 1

    async def _decide(self, request: review.Request) -> object:
        until = time.monotonic() + self._timeout
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._worker, self._judge, request, until)
        except TimeoutError:
            return review.denied(request.uid, "policy-timeout", "there was no decision in time")
        except GenealogError as error:
            log.warning("%s", error)
            return review.refused(request.uid, error)
        except Exception as error:  # noqa: BLE001 - whatever failed, nobody has said yes
            log.error("a review failed: %s", type(error).__name__)
            return review.denied(request.uid, "unexpected", "this is a fault of Genealog")

    def _judge(self, request: review.Request, until: float) -> object:
        if why := request.passing():
            return review.allowed(request.uid, audit={"code": "not-judged", "why": why})
        workload = request.workload()
        _in_time(until)
        answer = self._decider.judge(workload, actor=request.actor)
        if not request.dry_run:
            _in_time(until)
            self._decider.record(answer)
        return respond(request.uid, answer)

    async def _health(self) -> tuple[int, object]:
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.get_running_loop().run_in_executor(self._worker, self._look)
        except (GenealogError, OSError, TimeoutError):
            return 503, {"status": "the store cannot be read"}
        return 200, found

    def _look(self) -> object:
        policies, state = self._decider.policies, self._decider.facts.registry_state()
        return {"status": "ok", "policy": policies.set.id, "engine": policies.engine.name, "registry": state.size}


def _in_time(until: float) -> None:
    if time.monotonic() > until:
        raise PolicyDenied("policy-timeout", "there was no decision in time")


def respond(uid: str, answer: Answer) -> dict[str, Any]:
    """Return the review that an answer makes."""
    if answer.judged is None:
        return review.allowed(uid, warnings=answer.details, audit={"code": answer.code})
    verdict = answer.judged.verdict
    audit = {
        "code": answer.code, "policy": answer.judged.policy,
        "models": " ".join(each.id for each in answer.judged.document.models),
    }  # fmt: skip
    noted = [f"{reason.policy}: {reason.message}" for _, reason in verdict.noted]
    if verdict.allow:
        put_aside = [f"put aside by a break-glass: {name}" for name in verdict.waived]
        return review.allowed(uid, warnings=[*put_aside, *noted, *answer.details], audit=audit)
    said = "; ".join(dict.fromkeys(f"{reason}: {reason.message}" for reason in verdict.reasons))
    return review.denied(
        uid, answer.code, "; ".join((said, *answer.details)), warnings=[*answer.details, *noted], audit=audit
    )


def serve(
    opened: Callable[[], Admission], *, listen: str, announce: Callable[[str], None], certificate: Path | None = None,
    key: Path | None = None, client_ca: Path | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT; `announce` gets the URL. With `client_ca` only clients with its certificates.

    Raises: as `opened`; MissingError `no-such-file`; MalformedError `bad-listen`; StoreError `cannot-listen`.
    """
    options: dict[str, Any] = {"limit_concurrency": 2 * WAITING}
    files = (("ssl_certfile", certificate), ("ssl_keyfile", key), ("ssl_ca_certs", client_ca))
    for name, path in files:
        if path is not None and not path.is_file():
            raise MissingError("no-such-file", "a file of the certificates is not there", got=str(path))
        options[name] = None if path is None else str(path)
    if client_ca is not None:
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    app = Webhook(opened)
    try:
        with listening.listen_at(listen, backlog=128) as listener:
            url = listening.url_of(listener)
            url = url if certificate is None else url.replace("http:", "https:")
            listening.serve_until_signal(listener, app, lambda: announce(url), within=TIMEOUT, **options)
    finally:
        app.close()


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > review.LIMIT:
            return None
        if not message.get("more_body"):
            return b"".join(parts)
