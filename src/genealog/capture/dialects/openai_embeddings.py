"""OpenAI's embeddings: texts or tokens in, vectors out, as numbers or as base64 of little-endian float32.

Both encodings of the same vector have the same digest: over its float32 values, where the numbers that came say exactly
that; else over float64 values, so that no two vectors that differ as such share one. `content` names which it is.

Source: platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from typing import Any

from genealog.capture.dialects import media
from genealog.capture.dialects.foreign import Number, Unreadable, as_count, as_dict, as_list, as_word, read_object
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    error_code,
    not_understood,
    parameters,
    prompt_parts,
    subject,
    usage_counts,
)
from genealog.core.call_groups import RequestFacts, ResponseFacts
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex

_FLOAT32_DIGITS = 9  # that many name each float32 apart (IEEE 754 §5.12.2)
_NOT_DIGITS = re.compile(r"[eE].*|[-.]")


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    try:
        request = read_object(body)
        parts, texts = prompt_parts(request.get("input"))
        return RequestFacts(
            parameters=parameters(request, "input"), sampler={}, parts=parts, last_texts=texts, subject=subject(request)
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,  # noqa: ARG001
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`."""
    return answered(_Answer(), body, status=status, content_type="application/json", content_encoding=content_encoding)


class _Answer:
    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def take(self, item: dict[str, Any]) -> None:
        """Take the response."""
        self.known["model"] = as_word(item.get("model")) or None
        if usage := as_dict(item.get("usage")):
            counts = usage_counts(usage)
            if "prompt_tokens" not in counts and (total := as_count(usage.get("total_tokens"))) is not None:
                counts["prompt_tokens"] = total  # some say no more than this
            self.known["usage"] = counts
        if (error := item.get("error")) is not None:
            self.known["error"] = error_code(error)
        if vectors := as_list(item.get("data")):
            self.known["content"] = encode({"embeddings": _vectors(vectors), "t": CONTENT})

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected."""
        return ResponseFacts(**self.known, malformed=malformed)


def _vectors(items: list[Any]) -> list[dict[str, Any]]:
    found = {}
    for position, item in enumerate(items):
        given = as_count(as_dict(item).get("index"))
        at = position if given is None else given
        if at in found:
            raise not_understood()
        found[at] = {"index": at, **_vector(as_dict(item).get("embedding"))}
    return [found[at] for at in sorted(found)]


def _vector(value: object) -> dict[str, Any]:
    if isinstance(value, str) and not isinstance(value, Number):
        found = media.of_base64(value)
        if found is None or found.size is None or found.size % 4:
            raise not_understood()
        return {"dimensions": found.size // 4, "sha256": found.sha256, "type": "float32"}
    numbers = as_list(value)
    if not all(isinstance(number, Number) for number in numbers):
        raise not_understood()
    wide = array("d", map(float, numbers))
    if not all(map(math.isfinite, wide)):
        raise not_understood()  # beyond float64
    try:
        narrow = array("f", wide)
    except OverflowError:
        narrow = array("f")
    exact = len(narrow) == len(wide) and (array("d", narrow) == wide or all(map(_same, numbers, wide, narrow)))
    vector: array[float] = narrow if exact else wide
    if sys.byteorder == "big":
        vector.byteswap()
    kind = "float32" if exact else "float64"
    return {"dimensions": len(vector), "sha256": sha256_hex(vector.tobytes()), "type": kind}


def _same(token: str, wide: float, narrow: float) -> bool:
    """Say whether a number is how a float32 is printed: its value, or a rounding that only it has."""
    if wide == narrow:
        return True
    digits = len(_NOT_DIGITS.sub("", token).lstrip("0"))
    return digits <= _FLOAT32_DIGITS and float(f"{narrow:.{digits}g}") == wide
