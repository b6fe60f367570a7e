"""The request side of a call: its body as it comes, held until it is whole or passed on piece by piece.

A request that is small, or that only its body names, is held until it is whole. One that is named before, by its path,
a header or the start of a form, and is bigger than `[gateway] hold`, streams through: what comes before an attempt has
been sent waits here, and the client with it. What is done with a request is said in `asking`.
"""

from __future__ import annotations

from genealog.capture.dialects.multipart import Form
from genealog.core.frames import StreamedPart
from genealog.errors import MalformedError
from genealog.gateway.exchange import Exchange
from genealog.gateway.http1 import Reply, Request
from genealog.gateway.judged import header
from genealog.gateway.parts import Parts
from genealog.gateway.routes import Route
from genealog.gateway.said import malformed_form

_DEPLOYMENT = b"genealog-deployment"


class Taking:
    """A request that comes."""

    __slots__ = (
        "_began", "_body", "_exchange", "_form", "_given", "_more", "_over", "_paused", "_pieces", "_sent", "_size",
        "_stated", "_whole", "parts", "plane", "reply", "request", "route",
    )  # fmt: skip

    def __init__(self, plane: Parts, request: Request, reply: Reply, route: Route) -> None:
        self.plane = plane
        self.request = request
        self.reply = reply
        self.route = route
        self.parts: tuple[StreamedPart, ...] = ()
        self._given = header(request, _DEPLOYMENT)  # the name, where a header says it
        self._form = Form(header(request, b"content-type")) if route.named_by == "multipart" else None
        self._pieces: list[bytes] = []
        self._size = 0
        self._body = b""
        self._stated = request.length
        self._whole = False  # all of the body is here
        self._more = False  # it streams through
        self._began = False
        self._sent = False  # an attempt has the request, so that what comes next goes after it
        self._paused = False
        self._over = False
        self._exchange: Exchange | None = None

    def expect(self) -> None:
        """Look at the length that the request states: what is too large is refused before it comes."""
        settings = self.plane.settings
        held = self._given is None and self.route.named_by == "json"
        limit = settings.max_body if held else settings.max_upload
        if self._stated is not None and self._stated > limit:
            self._too_large(limit)

    def body(self, data: bytes) -> None:
        """Take more of the request."""
        if self._over:
            return
        self._size += len(data)
        if self._form is not None:
            self._form.feed(data)
            if self._more and self._form.malformed:
                self._give_up(malformed_form(self._form))
                return
        settings = self.plane.settings
        if self._more:
            if self._size > settings.max_upload:
                self._too_large(settings.max_upload)
            elif self._exchange is not None and self._sent:
                self._exchange.upload(data)
            else:
                self._pieces.append(data)
                self._hold_on()
            return
        self._pieces.append(data)
        if not self._began:
            if self._size > settings.hold and self._size != self._stated and self._streamable():
                self._begin(more=True)
            elif self._size > settings.max_body:
                self._too_large(settings.max_body)

    def body_end(self) -> None:
        """Know that the request is complete."""
        if self._over:
            return
        self._whole = True
        if self._form is not None:
            self._form.end()
            if self._more:
                if self._form.malformed:
                    self._give_up(malformed_form(self._form))
                    return
                self.parts = tuple(part.streamed() for part in self._form.parts)
        if not self._began:
            self._begin(more=False)
        elif self._exchange is not None and self._sent and self._more:
            self._exchange.upload_end()

    # What a request says

    def _streamable(self) -> bool:
        """Say whether it is known, before its end, where this request goes and what it is."""
        by = self.route.named_by
        if self._given is None and (by == "json" or (by == "header" and not self.plane.settings.default)):
            return False
        found = self.plane.directory.look(self._given or self.route.name or self._form_model() or "")
        live = found.live if found is not None else None
        renamed = live is not None and any(target.served_as is not None for target in live.body.targets)
        if self._form is not None:
            return self._form.model is not None or (self._given is not None and not renamed)
        return not renamed or by != "json"

    def _form_model(self) -> str | None:
        return self._form.model if self._form is not None else None

    def _length(self, body: bytes) -> int | None:
        """Return the length of the body upstream; None where it is not known."""
        if not self._more:
            return len(body)
        return None if self._stated is None else self._stated + len(body) - len(self._body)

    def _too_large(self, limit: int) -> None:
        self._give_up(MalformedError("body-too-large", "the request body is too large", expected=f"≤ {limit} bytes"))

    def _hold_on(self) -> None:
        """Let the client wait with its body until somebody takes it."""
        if not self._paused:
            self._paused = True
            self.reply.pause_body()

    # What is done with it

    def _begin(self, *, more: bool) -> None:
        """Find out what is asked for; `more` of the body follows."""
        raise NotImplementedError

    def _give_up(self, error: MalformedError) -> None:
        """Refuse it in its middle."""
        raise NotImplementedError
