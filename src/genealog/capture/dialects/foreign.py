"""Foreign JSON, read so that nothing of it is lost or guessed: what every dialect shares.

Numbers keep the exact token that was received. An object with a repeated key is not read, because two readers of it may
disagree about what it says. `Unreadable` never leaves the dialects: its text is the code that stands in `malformed`.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, NoReturn

from genealog.core.frames import MAX_BODY

LONGEST = 256  # characters of a value that is spelled out
_MEMBERS = 64  # of a gzip body: one may follow another
_MOST_NESTED = 1 << 20  # objects and arrays of a body: up to 240 bytes of memory each
_MOST_VALUES = 1 << 22  # commas of it: up to 80 bytes each
_DIGITS = 15  # so that a count fits 53 bits


class Number(str):
    """A JSON number as its exact token."""

    __slots__ = ()


class Unreadable(Exception):  # noqa: N818 - never leaves the dialects
    """A body says nothing that two readers would agree on."""


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises: Unreadable `not-json`, `not-an-object`, `repeated-key`, `json-too-many-values`."""
    if body.count(b"[") + body.count(b"{") > _MOST_NESTED or body.count(b",") > _MOST_VALUES:
        raise Unreadable("json-too-many-values")
    try:
        value = _decoder.decode(body.decode().removeprefix("\N{BYTE ORDER MARK}"))
    except (ValueError, UnicodeDecodeError):
        raise Unreadable("not-json") from None
    if not isinstance(value, dict):
        raise Unreadable("not-an-object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("repeated-key")
    return found


_decoder = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=_no_constant, object_pairs_hook=_unique
)


def decoded(body: bytes, encoding: str) -> bytes:
    """Undo a content encoding. Raises: Unreadable `content-encoding-unknown`, `content-encoding-broken`,
    `decoded-body-too-big`.
    """
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable("content-encoding-unknown")
    data = b""
    for _ in range(_MEMBERS):
        inflate = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, as the header says
        try:
            data += inflate.decompress(body, MAX_BODY - len(data) + 1)
        except zlib.error:
            raise Unreadable("content-encoding-broken") from None
        if len(data) > MAX_BODY:
            raise Unreadable("decoded-body-too-big")
        body = inflate.unused_data
        if not body:
            return data
    raise Unreadable("content-encoding-broken")


def spelled(value: object) -> bytes:
    """Return JSON without white space, keys sorted by code point, numbers as received: one spelling to commit to."""
    if isinstance(value, Number):
        return value.encode()
    if isinstance(value, dict):
        items = (spelled(key) + b":" + spelled(value[key]) for key in sorted(value))
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join([spelled(item) for item in value]) + b"]"
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def joined(pieces: list[str]) -> str:
    """Join pieces of a text; a surrogate pair may have been cut in two between them.

    Raises: Unreadable `text-not-unicode`.
    """
    text = "".join(pieces)
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise Unreadable("text-not-unicode") from None


def ascii_key(key: str) -> str:
    """Return an ASCII spelling of a foreign key. Two keys never share one."""
    return key if key.isascii() and key.isidentifier() else key.encode("unicode_escape").decode("ascii")


def as_word(value: object) -> str | None:
    """Return a string, cut to 256 characters; None for anything else."""
    if type(value) is not str:  # but a Number
        return None
    return value[:LONGEST] if value.isascii() else joined([value])[:LONGEST]


def as_strings(value: object) -> list[str]:
    """Return a string that says something as a list of one."""
    return [value] if type(value) is str and value else []


def as_count(value: object) -> int | None:
    """Return a whole number that is not negative; None for anything else."""
    return int(value) if isinstance(value, Number) and value.isdecimal() and len(value) <= _DIGITS else None


def as_dict(value: object) -> dict[str, Any]:
    """Return an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return an array, or an empty one."""
    return value if isinstance(value, list) else []
