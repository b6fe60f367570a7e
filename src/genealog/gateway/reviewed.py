"""GET /genealog/v1/answers/CALL: an answer that was held, for whoever asked for it, once a person has released it.

Only the principal and tenant that made the call learn that there is such an answer: anybody else gets what they would
get for a call that never was. What is given out is the body as it came from upstream.
"""

from __future__ import annotations

import re

from genealog.errors import GenealogError, MissingError, StoreError
from genealog.gateway.admission import Who
from genealog.gateway.http1 import Reply, Request
from genealog.gateway.parts import Parts
from genealog.gateway.policing import Court
from genealog.gateway.refusal import refusal
from genealog.policy.release import BY_AI, FLAGS, LABEL, standing
from genealog.policy.review import Reviews

_PATH = re.compile(r"/genealog/v1/answers/([0-7][0-9A-HJKMNP-TV-Z]{25})\Z")
Content = tuple[int, list[tuple[bytes, bytes]], bytes]


def reviewed(request: Request, reply: Reply, parts: Parts) -> bool:
    """Answer it, if it is asked for; say whether it is."""
    found = _PATH.match(request.path)
    if found is None or request.method != "GET":
        return False
    who = parts.admission.authenticate(request)
    if isinstance(who, GenealogError):
        _say(reply, refusal(who))
        return True
    failed = StoreError("gateway-failed", "the gateway made a mistake", hint="its log says where; please report it")
    parts.spawn(_answer(found[1], who, reply, parts), lambda: _say(reply, refusal(failed)))
    return True


async def _answer(call: str, who: Who, reply: Reply, parts: Parts) -> None:
    policing = parts.policing
    if policing is None:
        _say(reply, refusal(_nothing(call)))
        return
    try:
        content = await policing.ask(lambda court: _fetch(court, call, who))
    except GenealogError as error:
        content = refusal(error)
    _say(reply, content)


def _fetch(court: Court, call: str, who: Who) -> Content:
    """Read it, on the thread of the court. Raises: GenealogError."""
    reviews = Reviews(court.home)
    try:
        found = reviews.find(call)
    except MissingError:
        raise _nothing(call) from None
    if (found.principal, found.tenant) != (who.facts.get("principal"), who.facts.get("tenant")):
        raise _nothing(call)
    body = reviews.body(call)
    response = found.response
    told = {
        "content-type": response.content_type, "content-encoding": response.content_encoding, "genealog-call": call,
        FLAGS.lower(): ", ".join(found.flags),
        LABEL.lower(): BY_AI if standing(court.policies.set, found.deployment).labels else None,
    }  # fmt: skip
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in told.items() if value]
    return response.status or 200, [*headers, (b"content-length", b"%d" % len(body))], body


def _nothing(call: str) -> MissingError:
    return MissingError("not-held", "no answer of this call is held for review", got=call)


def _say(reply: Reply, content: Content) -> None:
    status, headers, body = content
    reply.start(status, headers, len(body), whole=True)
    reply.end(body)
