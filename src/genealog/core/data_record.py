"""One record of a dataset as bytes, and the digest of it: what makes two records the same record.

    json   a JSON value: RFC 8785 bytes, but that an integer keeps every digit. {"b": 1.0, "a": "é"} → {"a":"é","b":1}
    text   a line, as it is, without its line end

    digest = SHA-256("genealog/data-record/v1" ‖ 00 ‖ reading ‖ 00 ‖ bytes)

Unlike our own signed values (`core.canonical`), data has floats and any text as keys. 1.0, 1e0 and 1 are one number, as
in RFC 8785; an integer beyond 2^53 stays what it is, for two keys of 64 bits that differ in the last one are two.
What RFC 8785 cannot say is refused: a name that stands twice in an object, NaN, a number beyond all floats, a lone
surrogate. Rows of tables become JSON values where they are read (`capture.data`). No file is opened here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal

import msgspec

from genealog.errors import MalformedError

Reading = Literal["json", "text"]
READINGS: tuple[Reading, ...] = ("json", "text")
MAX_DEPTH = 200
_TAG = b"genealog/data-record/v1\x00"
_PREFIX = {reading: sha256(_TAG + reading.encode() + b"\x00") for reading in READINGS}
_ESCAPES = {ord(c): e for c, e in zip('"\\\b\t\n\f\r', ('\\"', "\\\\", "\\b", "\\t", "\\n", "\\f", "\\r"), strict=True)}
_ESCAPE = {n: f"\\u{n:04x}" for n in range(32)} | _ESCAPES


def record_digest(reading: Reading, data: bytes) -> bytes:
    """Return the 32-byte digest of a record: of `json_record` bytes, or of a line of text."""
    state = _PREFIX[reading].copy()
    state.update(data)
    return state.digest()


def json_record(text: bytes) -> bytes:
    """Return the one spelling of a JSON text.

    Raises: MalformedError `bad-record`: not JSON, not UTF-8, a name twice in one object, a number that no float holds,
    nested too deeply.   Source: RFC 8785, RFC 7493 §2.
    """
    try:
        value = _DECODER.decode(text)
        data = msgspec.json.encode(value, order="sorted")
        once = b"\\u003" not in text and data.count(b":") == text.count(b":")  # no name was dropped, no colon escaped
        if once and not _odd_order(data) and data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
            return data
        return spell(_slowly(text)).encode()
    except MalformedError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise _bad("not a record", str(error)[:120] or type(error).__name__) from None


def spell(value: Any) -> str:
    """Return the one spelling of a Python value: None, bool, int, float, str, lists, and mappings with text as keys.

    Raises: MalformedError `bad-record`.
    """
    parts: list[str] = []
    _spell(value, parts, 0)
    text = "".join(parts)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad("a record holds a lone surrogate") from None
    return text


def number(value: float) -> str:
    """Return a double as ECMAScript prints it. Raises: MalformedError `bad-record` for NaN and infinities.

    Source: RFC 8785 §3.2.2.3, ECMA-262 Number::toString.
    """
    if not math.isfinite(value):
        raise _bad("a number that JSON cannot hold", repr(value))
    if value == 0:
        return "0"
    mantissa, _, power = f"{value!r}".partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))  # where the point is, from the left
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _float_token(token: str) -> msgspec.Raw:
    return msgspec.Raw(number(float(token)).encode())


_DECODER = msgspec.json.Decoder(float_hook=_float_token)


def _odd_order(data: bytes) -> bool:
    """Say whether sorting names by UTF-8 could differ from sorting them by UTF-16, as RFC 8785 wants it."""
    return not data.isascii() and any(byte in data for byte in _ASTRAL) and (b"\xee" in data or b"\xef" in data)


_ASTRAL = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")


def _slowly(text: bytes) -> Any:
    return json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _bad("a name stands twice in one object")
    return found


def _constant(token: str) -> float:
    raise _bad("a number that JSON cannot hold", token)


def _spell(value: Any, parts: list[str], depth: int) -> None:
    if depth >= MAX_DEPTH and isinstance(value, list | tuple | Mapping):
        raise _bad("a record nested too deeply", f"more than {MAX_DEPTH} levels")
    match value:
        case str():
            parts.append(_quote(value))
        case None | True | False:
            parts.append({None: "null", True: "true", False: "false"}[value])
        case int():
            parts.append(int.__repr__(value))
        case float():
            parts.append(number(value))
        case list() | tuple():
            for count, item in enumerate(value):
                parts.append("," if count else "[")
                _spell(item, parts, depth + 1)
            parts.append("]" if value else "[]")
        case Mapping():
            if not all(isinstance(name, str) for name in value):
                raise _bad("a name in an object is no text")
            for count, name in enumerate(sorted(value, key=_utf16)):
                parts.append(("," if count else "{") + _quote(name) + ":")
                _spell(value[name], parts, depth + 1)
            parts.append("}" if value else "{}")
        case _:
            raise _bad("a value without a spelling", type(value).__name__)


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPE)}"'


def _bad(message: str, got: str | None = None) -> MalformedError:
    return MalformedError("bad-record", message, got=got, expected="a JSON value as RFC 8785 can spell it")
