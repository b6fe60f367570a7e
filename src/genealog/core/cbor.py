"""The part of CBOR that COSE receipts need, read strictly: one value has one encoding.

    integers of 64 bits · byte and text strings · arrays · maps with integer or text keys · a tag around a value · null

No floats, no booleans, no indefinite lengths, no longer form of a number than needed, no key twice, nothing behind the
value: bytes that break one of these rules are refused, so two files never mean the same. Keys in another order are read
where the caller allows it, because COSE does not ask for an order. Lengths are checked against what is there before
anything is made of that length, and nesting ends at eight.

A decoder for all of CBOR makes dates, fractions and regular expressions out of hostile bytes; none of that is wanted.

Source: RFC 8949 §3 and §4.2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genealog.errors import MalformedError

MAX_DEPTH = 8
_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL = 0xF6
_SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # the smallest number that needs so many bytes


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag number."""

    tag: int
    value: Cbor


Cbor = int | bytes | str | Sequence["Cbor"] | Mapping[int | str, "Cbor"] | Tagged | None


def encode_cbor(value: Cbor) -> bytes:
    """Return the one deterministic encoding (RFC 8949 §4.2.1). Raises: ValueError for what the module does not hold."""
    match value:
        case None:
            return bytes([_NULL])
        case bool():
            raise ValueError("no booleans here")
        case int():
            return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case Tagged():
            return _head(_TAG, value.tag) + encode_cbor(value.value)
        case Mapping():
            pairs = sorted((encode_cbor(key), encode_cbor(item)) for key, item in value.items())
            return _head(_MAP, len(pairs)) + b"".join(key + item for key, item in pairs)
        case _:
            return _head(_ARRAY, len(value)) + b"".join(encode_cbor(item) for item in value)


def decode_cbor(data: bytes, *, ordered: bool = True) -> Cbor:
    """Read one value, all of `data`; arrays come as tuples, maps as dicts. `ordered=False` allows any order of keys.

    Raises: MalformedError `cbor-malformed`.
    """
    reader = _Reader(data, ordered)
    value = reader.value(0)
    if reader.at != len(data):
        raise _malformed("bytes behind the value", got=f"{len(data) - reader.at} bytes")
    return value


class _Reader:
    def __init__(self, data: bytes, ordered: bool) -> None:
        self.data = data
        self.ordered = ordered
        self.at = 0

    def value(self, depth: int) -> Cbor:
        if depth > MAX_DEPTH:
            raise _malformed("nested too deeply", expected=f"≤ {MAX_DEPTH}")
        major, number = self.head()
        match major:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self.take(number)
            case 3:
                try:
                    return self.take(number).decode()
                except UnicodeDecodeError:
                    raise _malformed("a text that is not UTF-8") from None
            case 4:
                self.check_room(number)
                return tuple([self.value(depth + 1) for _ in range(number)])
            case 5:
                return self.map(number, depth)
            case 6:
                return Tagged(number, self.value(depth + 1))
            case _:
                return None

    def map(self, count: int, depth: int) -> dict[int | str, Cbor]:
        self.check_room(2 * count)
        found: dict[int | str, Cbor] = {}
        before = b""
        for _ in range(count):
            start = self.at
            key = self.value(depth + 1)
            if not isinstance(key, int | str):
                raise _malformed("a key that is neither number nor text")
            if key in found:
                raise _malformed("a key twice", got=key)
            spelled = self.data[start : self.at]
            if self.ordered and spelled < before:
                raise _malformed("keys out of order", got=key)
            before = spelled
            found[key] = self.value(depth + 1)
        return found

    def head(self) -> tuple[int, int]:
        """Read major type and number of an item."""
        first = self.take(1)[0]
        major, short = first >> 5, first & 31
        if major == _SIMPLE:
            if first != _NULL:
                raise _malformed("a float or a simple value", got=f"0x{first:02x}")
            return major, 0
        if short < 24:
            return major, short
        if short not in _SHORTEST:
            raise _malformed("an indefinite length", got=f"0x{first:02x}")
        number = int.from_bytes(self.take(1 << short - 24), "big")
        if number < _SHORTEST[short]:
            raise _malformed("a number that is not in its shortest form", got=number)
        return major, number

    def take(self, count: int) -> bytes:
        self.check_room(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def check_room(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise _malformed("it ends too early", got=f"{len(self.data) - self.at} bytes", expected=f"≥ {count}")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for short, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | short]) + number.to_bytes(size, "big")
    raise ValueError("a number of more than 64 bits")


def _malformed(message: str, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError("cbor-malformed", f"not strict CBOR: {message}", got=got, expected=expected)
