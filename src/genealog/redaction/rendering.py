"""A body as it is kept after masking: a JSON object of ours that holds what is left, and says what was done.

    {"t": "genealog/redacted/v1", "engine", "version", "found": {kind: count}, "form": "json" | "message", "body"}

`form` is `json` where the body was JSON: the same values, texts masked, keys too. A stream is kept as the message that
its events add up to (`message`), because an event may end in the middle of a word. What nobody can look into is left
out and said: media in base64, long lists of numbers (tokens, embeddings), log probabilities, which spell a text letter
by letter. Everything else that is no JSON is not kept at all.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from genealog.redaction.engine import Engine, mask

TAG = "genealog/redacted/v1"
_DEPTH = 100
_NUMBERS = 16  # so many in a row may be a text in disguise
_MOST_NESTED, _MOST_VALUES = 1 << 20, 1 << 22  # of a body: its objects and arrays, its commas
_SPELLED = frozenset(("logprobs", "logprobsresult", "top_logprobs", "token_ids"))
_MEDIA = re.compile(r"(?:data:[\w/+.;=-]{0,100},)?[A-Za-z0-9+/_-]{256,}={0,2}")


class UnreadableError(Exception):
    """A body in which nobody can say what is personal."""


def rendered(engine: Engine, body: bytes, content: bytes | None) -> bytes:
    """Return the rendering of a body; of an answer that is no JSON, that of its canonical message, `content`.

    Raises: UnreadableError; whatever the engine raises.
    """
    value, form = _read(body), "json"
    if value is None:
        value, form = _read(content or b""), "message"
    if value is None:
        raise UnreadableError
    found: Counter[str] = Counter()
    masked = _masked(engine, value[0], found, 0)
    told = {"t": TAG, "engine": engine.name, "version": engine.version, "found": dict(sorted(found.items()))}
    return json.dumps({**told, "form": form, "body": masked}, separators=(",", ":")).encode()


def _read(data: bytes) -> tuple[Any] | None:
    """Return the JSON value of a body in a tuple, None where it is none: compressed, a stream, a form, media; or
    made to fill the memory of whoever reads it."""
    if data.count(b"[") + data.count(b"{") > _MOST_NESTED or data.count(b",") > _MOST_VALUES:
        return None
    try:
        return (json.loads(data.decode(), parse_constant=str),)
    except (ValueError, RecursionError):
        return None


def _masked(engine: Engine, value: Any, found: Counter[str], depth: int) -> Any:
    if depth > _DEPTH:
        raise UnreadableError
    if isinstance(value, str):
        return _text(engine, value, found, depth)
    if isinstance(value, dict):
        return {
            _text(engine, key, found, depth): (
                "[left out]" if key.lower() in _SPELLED and each is not None and not isinstance(each, bool)
                else _masked(engine, each, found, depth + 1)
            )
            for key, each in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        if len(value) >= _NUMBERS and all(isinstance(each, int | float) for each in value):
            return f"[left out: {len(value)} numbers]"
        return [_masked(engine, each, found, depth + 1) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        spelled = str(value)
        masked = mask(engine, spelled, found)
        return value if masked == spelled else masked
    return value


def _text(engine: Engine, text: str, found: Counter[str], depth: int) -> str:
    if len(text) >= 256 and _MEDIA.fullmatch(text):
        return f"[left out: {len(text)} characters of media]"
    if text[:1] in ("{", "[") and (inner := _read(text.encode("utf-8", "surrogatepass"))) is not None:
        return json.dumps(_masked(engine, inner[0], found, depth + 1), separators=(",", ":"))  # arguments of a tool
    return mask(engine, text, found)
