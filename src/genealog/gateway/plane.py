"""The data plane as one `http1` application: which request is a call, and which the gateway answers itself.

    any dialect (`routes`)   passed on, verbatim both ways, streaming or not: a call, on record
    GET /v1/models …         what is deployed, in the shape that the dialect's clients read, for who may call
    GET /healthz             whether calls can be recorded
    GET /genealog/v1/…       an answer that was held, once a person has released it
    anything else            a call as well (`opaque`), where a header or `[gateway] default` says where to

A call is let in when its deployment is live, every model of it is registered and unrevoked, the target is bound as
strongly as the deployment demands, and the spool takes its intent. A call that is refused is on record too; one that is
turned away because this worker has no room left is not.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from genealog.errors import GenealogError, MalformedError, MissingError, StoreError
from genealog.gateway.admission import Who
from genealog.gateway.asking import Asking
from genealog.gateway.http1 import Handler, Reply, Request
from genealog.gateway.listing import listing
from genealog.gateway.parts import Parts
from genealog.gateway.refusal import refusal
from genealog.gateway.reviewed import reviewed
from genealog.gateway.routes import OPAQUE, Route, route


class _Answered:
    """The handler of a request that has its answer already."""

    def body(self, data: bytes) -> None:
        pass

    def body_end(self) -> None:
        pass

    def lost(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


_ANSWERED = _Answered()


class Plane:
    """Makes the handler of each request: an `http1.Application`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.live: set[Asking] = set()
        self._empty: asyncio.Event | None = None
        parts.directory.watch(self._registry_changed)

    def __call__(self, request: Request, reply: Reply) -> Handler:
        """Take one request at the end of its head."""
        if request.method in ("GET", "HEAD") and self._own(request, reply):
            return _ANSWERED
        parts = self.parts
        found = route(request.method, request.path)
        if found.refused is not None:
            _say(reply, refusal(_unclear(found.refused)))
            return _ANSWERED
        if found.dialect == OPAQUE and not self._addressed(request):
            _say(reply, refusal(_no_such_route(request)))
            return _ANSWERED
        if (full := self._full()) is not None:
            _say(reply, refusal(full))
            return _ANSWERED
        who = parts.admission.authenticate(request)
        if isinstance(who, GenealogError):
            return self._refused(request, reply, found, who)
        asking = Asking(parts, request, reply, found, who, self._over)
        self.live.add(asking)
        asking.expect()
        return asking

    async def idle(self, seconds: float) -> None:
        """Return when no call is under way, or after so many seconds."""
        self._empty = asyncio.Event()
        if self.live:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def _over(self, asking: Asking) -> None:
        self.live.discard(asking)
        if self._empty is not None and not self.live:
            self._empty.set()

    def stop(self) -> None:
        """End every call that runs: the time for that is over."""
        for asking in list(self.live):
            asking.stop()

    def look_at_silence(self) -> None:
        """Break off what has not got a byte from upstream for longer than its `read_timeout`."""
        now = self.parts.now()
        for asking in list(self.live):
            asking.look_at_silence(now)

    def _registry_changed(self) -> None:
        """Cut what still streams from a model that is revoked, where that is wanted."""
        policing = self.parts.policing
        if self.parts.directory.revoked and (policing is None or policing.cuts):
            for asking in list(self.live):
                asking.cut()

    def _refused(self, request: Request, reply: Reply, found: Route, error: GenealogError) -> Handler:
        asking = Asking(self.parts, request, reply, found, Who({}), self._over)
        self.live.add(asking)
        asking.refuse(error)
        return asking

    def _full(self) -> StoreError | None:
        """Say no where another call would take more than this worker has."""
        parts = self.parts
        settings = parts.settings
        if len(self.live) >= settings.max_calls:
            parts.counters.add("busy")
            return StoreError(
                "gateway-busy", "this gateway has as many calls under way as it may", got=len(self.live),
                expected=f"< {settings.max_calls}", hint="try again; [gateway] max_calls and workers say how many",
            )  # fmt: skip
        if parts.behind > settings.max_behind:
            parts.counters.add("behind")
            return StoreError(
                "gateway-behind", "calls come faster than they get into the log", got=f"{parts.behind} bytes",
                expected=f"≤ {settings.max_behind}", hint="try again; does the gateway's parent run, is its disk well?",
            )  # fmt: skip
        return None

    def _addressed(self, request: Request) -> bool:
        if request.first(b"genealog-deployment"):
            return True
        if route("POST", request.path).dialect != OPAQUE:
            return False  # a call of a known dialect with another method is a mistake
        return self.parts.settings.default is not None

    def _own(self, request: Request, reply: Reply) -> bool:
        """Answer what is the gateway's own to answer; say whether it was."""
        path = request.path
        if path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
            self._health(path, reply)
            return True
        if reviewed(request, reply, self.parts):
            return True
        shown = listing(path, request, self.parts.directory)
        if shown is None:
            return False
        who = self.parts.admission.authenticate(request)
        _say(reply, refusal(who) if isinstance(who, GenealogError) else _json(shown))
        return True

    def _health(self, path: str, reply: Reply) -> None:
        recording = self.parts.recording
        if path != "/v2/health/live":
            try:
                recording.check()
            except StoreError as error:
                _say(reply, refusal(error))
                return
        if path != "/healthz":
            _say(reply, (200, [], b""))
            return
        state = {"emitter": recording.emitter, "boot": recording.boot, "epoch": self.parts.directory.epoch}
        _say(reply, _json({"status": "ok", **state}))


def _say(reply: Reply, content: tuple[int, list[tuple[bytes, bytes]], bytes]) -> None:
    status, headers, body = content
    reply.start(status, headers, len(body), whole=True)
    reply.end(body)


def _json(value: object) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return 200, [(b"content-type", b"application/json")], msgspec.json.encode(value)


def _unclear(what: str) -> MalformedError:
    return MalformedError(
        "http-refused", "this path could mean something else to an upstream than to the gateway", got=what,
        expected="the path as its API writes it, without . and .. in it",
    )  # fmt: skip


def _no_such_route(request: Request) -> GenealogError:
    method, path = request.method, request.path
    if route("POST", path).dialect != OPAQUE:
        return MalformedError("method-not-allowed", f"{path[:200]} wants POST", got=method)
    return MissingError(
        "no-such-route", "the gateway does not know this path, and nothing says where to pass it on", got=path[:200],
        hint="POST /v1/chat/completions; or name a deployment in the header Genealog-Deployment",
    )  # fmt: skip
