"""Another model name in a request, and not a byte else: for a target that knows the model by another name.

The value of `model` at the top of a JSON object is replaced where it stands (each, where it stands twice: readers
differ on which counts); so is the segment of a path, or the field of a form. Nothing is parsed and written again, so
numbers, order and white space stay as the client wrote them.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from genealog.gateway.routes import name_span

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_FIELD = re.compile(
    rb'(\r\ncontent-disposition:[^\r\n]*;[ ]?name="?model"?(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n)'
    rb"([^\r\n]*)(?=\r\n--)",
    re.IGNORECASE,
)


def in_json(body: bytes, name: str) -> bytes:
    """Return a JSON object with `name` for its top-level `model`; the same bytes where it has none."""
    value = msgspec.json.encode(name)
    parts: list[bytes] = []
    copied = depth = 0
    found = _TOKEN.search(body)
    while found is not None:
        token, end = found[0], found.end()
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and (colon := _COLON.match(body, end)) is not None:
            end = colon.end()
            if _is_model(token) and (old := _TOKEN.match(body, end)) is not None and old[0][:1] == b'"':
                parts += (body[copied:end], value)
                copied = end = old.end()
        found = _TOKEN.search(body, end)
    return b"".join((*parts, body[copied:]))


def in_path(path: bytes, name: str) -> bytes:
    """Return a path (as sent) with `name` where it names a deployment."""
    # Bedrock: an ARN is one segment
    safe = "-._~:@!$&'()*+,;=" if path.startswith(b"/model/") else "/-._~:@!$&'()*+,;="
    span = name_span(path.decode("latin-1"))
    if span is None:
        return path
    return path[: span[0]] + quote(name, safe=safe).encode() + path[span[1] :]


def in_form(start: bytes, name: str) -> bytes:
    """Return the start of a form with `name` for its field `model`, which must have ended in it."""
    return _FIELD.sub(lambda found: found[1] + name.encode(), start, count=1)


def _is_model(token: bytes) -> bool:
    if b"\\" not in token:
        return token == b'"model"'
    try:
        return bool(msgspec.json.decode(token) == "model")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
