"""Another model name in a request, and not a byte else: for a target that knows the model by another name.

The value of `model` at the top of a JSON object is replaced where it stands; so is the segment of a path, or the field
of a form. Nothing is parsed and written again, so numbers, order and white space stay as the client wrote them. Where a
name stands twice, readers differ on which counts: such a request came no further than `said`.
"""

from __future__ import annotations

import re
from itertools import islice
from urllib.parse import quote

import msgspec

from genealog.gateway.routes import name_span

_KEY = b"".join(rb"(?:%c|\\u00(?i:%02x))" % (letter, letter) for letter in b"model")  # as JSON may spell it
_NAMED = re.compile(rb'"' + _KEY + rb'"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")', re.DOTALL)
_PROBE = "\ufffc"
_MOST = 64  # places in a body that look like `model`: tools have parameters of that name too


class _Model(msgspec.Struct):
    model: str | None = None


_model = msgspec.json.Decoder(_Model)


def in_json(body: bytes, name: str) -> bytes:
    """Return a JSON object with `name` for its top-level `model`; the same bytes where it has none that can be found.

    Which of several places it is, is seen by changing one and reading the whole again: no bracket is counted here, so
    a body of a million brackets costs no more than another.
    """
    if _read(body) is None:
        return body
    for found in islice(_NAMED.finditer(body), _MOST):
        start, end = found.span(1)
        if _read(b"".join((body[:start], msgspec.json.encode(_PROBE), body[end:]))) == _PROBE:
            return b"".join((body[:start], msgspec.json.encode(name), body[end:]))
    return body


def names_none(body: bytes) -> bool:
    """Say whether a body is a JSON object without a `model`."""
    try:
        return _model.decode(body).model is None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _read(body: bytes) -> str | None:
    try:
        return _model.decode(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def in_path(path: bytes, name: str) -> bytes:
    """Return a path (as sent) with `name` where it names a deployment."""
    # Bedrock: an ARN is one segment
    safe = "-._~:@!$&'()*+,;=" if path.startswith(b"/model/") else "/-._~:@!$&'()*+,;="
    span = name_span(path.decode("latin-1"))
    if span is None:
        return path
    return path[: span[0]] + quote(name, safe=safe).encode() + path[span[1] :]


def in_form(start: bytes, place: tuple[int, int], name: str) -> bytes:
    """Return the start of a form with `name` for the value at `place`, that of its field `model`."""
    return b"".join((start[: place[0]], name.encode(), start[place[1] :]))
