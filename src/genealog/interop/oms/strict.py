"""JSON of others, read strictly: no key twice, no depth or size without end. Their bytes and odd spelling stay theirs.

Two readers of one document must not see two documents: a key that stands twice is read by some as the first and by
some as the last. Nothing here knows what a document means.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from genealog.errors import MalformedError

MAX_DEPTH = 64


def read_json(data: bytes, what: str, *, limit: int) -> dict[str, Any]:
    """Return a JSON object. Raises: MalformedError `oms-malformed`, `oms-too-big` beyond `limit` bytes."""
    if len(data) > limit:
        raise MalformedError("oms-too-big", f"{what} is too big", got=f"{len(data)} bytes", expected=f"≤ {limit}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # a number of a million digits is a ValueError too
        raise malformed(what, str(error)[:120]) from None
    if not isinstance(value, dict):
        raise malformed(what, "not a JSON object")
    _check_depth(value, what)
    return value


def unbase64(text: object, what: str) -> bytes:
    """Read base64 of either alphabet, padded or not, as DSSE and protobuf JSON allow. Raises: `oms-malformed`."""
    if not isinstance(text, str):
        raise malformed(what, "no base64 text")
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed(what, f"not base64: {error}") from None


def member(value: dict[str, Any], key: str, kind: type, what: str) -> Any:
    """Return a member that has to be there, of this type. Raises: MalformedError `oms-malformed`."""
    found = value.get(key)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise malformed(what, f"{key!r} is missing or no {kind.__name__}")
    return found


def malformed(what: str, got: str) -> MalformedError:
    """Return the one error for what is no document of this kind."""
    return MalformedError("oms-malformed", f"{what} cannot be read", got=got)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"a key stands twice: {twice[:80]!r}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Any, what: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below = (item.values() if isinstance(item, dict) else item for item in level)
        level = [inner for items in below for inner in items if isinstance(inner, dict | list)]
        if not level:
            return
    raise malformed(what, f"nested deeper than {MAX_DEPTH} levels")
