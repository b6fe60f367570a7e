"""The request as it goes upstream: the client's bytes, but for what a target needs otherwise.

Another name of the model, the gateway's own credentials instead of the client's, and the two headers by which a call
and its way are known. The rest of a head is the same for the next call of a client, so it is written once and kept.
"""

from __future__ import annotations

from typing import Protocol

from genealog.capture.dialects.multipart import Form
from genealog.errors import MalformedError
from genealog.gateway import headers as rules
from genealog.gateway import rewrite
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.http1 import Request, write_request
from genealog.gateway.parts import Parts
from genealog.gateway.principals import upstream_query
from genealog.gateway.routes import Route

_LENGTH_ONE = b"content-length: 1\r\n\r\n"


class Asking(Protocol):
    """What is known of a request (`asking.Asking`)."""

    plane: Parts
    request: Request
    route: Route
    who: Who
    streams: bool


def forwarded(
    route: Route, body: bytes, name: str, aim: Aim, *, form: Form | None = None, given: bool = False
) -> tuple[bytes, tuple[str, ...]]:
    """Return the body as it goes to a target, and what was changed in the request. `given`: a header named it, so
    that the request itself may name anything. Raises: MalformedError `malformed-json`.
    """
    served_as = aim.target.served_as
    if served_as is None or (served_as == name and not given):
        return body, ()
    if route.named_by == "path" and route.name is not None:
        return body, ("model",)
    if form is not None:
        return (body, ()) if form.model_at is None else (rewrite.in_form(body, form.model_at, served_as), ("model",))
    if route.named_by == "json":
        changed = rewrite.in_json(body, served_as)
        if changed is body and not rewrite.names_none(body):
            raise MalformedError(
                "malformed-json", "the model that this request names cannot be found, so it cannot be replaced",
                expected="a JSON object, uncompressed, in UTF-8",
            )  # fmt: skip
        return changed, () if changed is body else ("model",)
    return body, ()


def head_of(asking: Asking, aim: Aim, call: str, body: bytes, length: int | None, changed: tuple[str, ...]) -> bytes:
    """Return the head of the upstream request; `length` None: in chunks. Raises: GenealogError."""
    request, plane = asking.request, asking.plane
    credentials = aim.credentials
    if credentials is not None or not length:
        headers = _headers(asking, aim)
        headers.append((b"genealog-call", call.encode()))
        target = _target(asking, aim, changed)
        if credentials is not None:
            credentials.put(headers)
            credentials.sign(request.method, aim.host.decode("latin-1"), target, headers, body)
        return write_request(request.method, target, headers, length)
    same = tuple([pair for pair in request.headers if pair[0] != b"content-length"])
    served_as = aim.target.served_as
    key = (aim.key, served_as, request.method, request.target, asking.streams, asking.who.withheld, same)
    head = plane.heads.get(key)
    if head is None:
        written = write_request(request.method, _target(asking, aim, changed), _headers(asking, aim), 1)
        head = plane.keep_head(key, written[: -len(_LENGTH_ONE)])
    return b"%bgenealog-call: %b\r\ncontent-length: %d\r\n\r\n" % (head, call.encode(), length)


def _headers(asking: Asking, aim: Aim) -> list[tuple[bytes, bytes]]:
    """Return the headers for upstream, but for those that every call has its own of."""
    without = asking.who.withheld
    if aim.credentials is not None:
        without |= aim.credentials.replaces
    headers = asking.request.headers
    passed = rules.to_upstream(headers, streaming=asking.streams, without=without)
    return [(b"host", aim.host), *passed, rules.via_of(headers, asking.plane.mark)]


def _target(asking: Asking, aim: Aim, changed: tuple[str, ...]) -> bytes:
    """Return path and query for upstream: those of the client, but for another model's name and for keys."""
    request, route = asking.request, asking.route
    target = request.target
    if changed and route.named_by == "path" and route.name is not None:
        path, mark, query = target.partition(b"?")
        target = rewrite.in_path(path, aim.target.served_as or "") + mark + query
    if request.query:
        query = upstream_query(request.query, asking.who)
        if aim.credentials is not None and aim.credentials.replaces:
            query = b"&".join(part for part in query.split(b"&") if not part.startswith(b"key="))
        path = target.partition(b"?")[0]
        target = path + b"?" + query if query else path
    return aim.base + target
