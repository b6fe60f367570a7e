"""Canonical bytes (RFC 8785 JSON), and the one rule for reading them back.

We accept one of our own objects only if encoding what we decoded gives the bytes that we received. That
single comparison refuses duplicate keys, other key orders, white space, odd escapes, `-0` and loose base64.
Floats never stand in signed bytes: `decimal` turns one into the exact string that Python would print.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, dataclass_transform

import msgspec

from genealog.errors import MalformedError

MAX_DEPTH = 64  # of nested JSON: ours has ten levels, and no reader of ours may run out of stack
MAX_INTEGER = 2**53 - 1  # beyond it JSON numbers lose bits in half of the world's parsers (RFC 8785 §3.2.2.3)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class _RecordMeta(msgspec.StructMeta):
    """Makes every field of every Record keyword-only: msgspec does not inherit that option."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, **{"kw_only": True, **options})


class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every value that we serialise. An optional field that is absent has one spelling: no key."""


R = TypeVar("R", bound=Record)


def encode(value: Any) -> bytes:
    """Return the canonical bytes of `value`: a Record, or JSON values with ASCII keys and no floats.

    Raises: MalformedError for floats, integers beyond ±(2^53 - 1), non-ASCII keys, lone surrogates, > 64 levels.
    Source: RFC 8785.
    """
    try:
        plain = msgspec.to_builtins(value, order="sorted")
    except RecursionError:
        raise MalformedError("too-deep", "JSON nested beyond all measure", expected=f"≤ {MAX_DEPTH} levels") from None
    if not _sound(plain, MAX_DEPTH):
        _check(plain, ())
    try:
        return msgspec.json.encode(plain, order="sorted")
    except UnicodeEncodeError as error:
        raise MalformedError("text-not-unicode", "a string holds a lone surrogate", got=error.reason) from None


def encode_typed(value: Record) -> bytes:
    """Return what `encode` does, in a third of the time, of a Record whose fields hold what their types say.

    Those types have no floats, and whoever made it saw to its integers: what is left are keys and lone surrogates.
    """
    data = encode_made(value)
    return data if data.isascii() else encode(value)  # a key may be what is not ASCII


def encode_made(value: Any) -> bytes:
    """Return what `encode` does, sooner, of JSON values that we put together: no key and no number of them is foreign.

    What is left are lone surrogates. Raises: as `encode`.
    """
    try:
        return msgspec.json.encode(value, order="sorted")
    except (TypeError, UnicodeEncodeError):
        return encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Read one of our objects, refusing every spelling but the canonical one.

    Raises: MalformedError `not-json`, `schema-mismatch` (with the path) or `not-canonical`.
    """
    return _decoded(data, kind, encode)


def decode_typed(data: bytes, kind: type[R]) -> R:
    """Do what `decode` does, in two thirds of the time, for a Record whose types keep its integers within 53 bits.

    Raises: as `decode`.
    """
    return _decoded(data, kind, encode_typed)


def _decoded(data: bytes, kind: type[T], spell: Callable[[T], bytes]) -> T:
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise MalformedError("schema-mismatch", f"not a {kind.__name__}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("not-json", f"not JSON: {error}") from None
    if spell(value) != data:
        raise MalformedError(
            "not-canonical",
            f"this {kind.__name__} is not spelled canonically",
            hint="key order, white space, number or escape differ from RFC 8785; the bytes were altered or re-written",
        )
    return value


def _sound(value: Any, depth: int) -> bool:
    """Say whether `_check` has certainly nothing against a value; cheap, because most have nothing against them."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                return False
            of = type(item)
            if of is str or item is None or of is bool:
                continue
            if of is int:
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    return False
            elif depth <= 1 or not _sound(item, depth - 1):
                return False
        return depth > 0
    if kind is list or kind is tuple:
        return depth > 1 and all(type(item) is str or _sound(item, depth - 1) for item in value)
    return kind is str or value is None or kind is bool or (kind is int and -MAX_INTEGER <= value <= MAX_INTEGER)


def _check(value: Any, path: tuple[str | int, ...]) -> None:
    if isinstance(value, str) or value is None or value is True or value is False:
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            where = _spell(path)
            raise MalformedError("integer-too-big", f"{where} does not fit 53 bits", got=value, hint="write it as text")
    elif isinstance(value, dict | list | tuple) and len(path) == MAX_DEPTH:
        raise MalformedError("too-deep", "JSON nested too deeply", expected=f"≤ {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise MalformedError("key-not-ascii", f"a key in {_spell(path)} is not ASCII text", got=repr(key))
            if not isinstance(item, str):  # most are, and a path costs more than the look
                _check(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, (*path, index))
    else:
        raise MalformedError(
            "not-canonical-type", f"{_spell(path)} has no canonical spelling", got=type(value).__name__
        )


def _spell(path: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def decimal(value: float) -> str:
    """Return the shortest decimal that reads back as `value`: how a learning rate enters signed bytes."""
    return repr(value)


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 UTC with milliseconds. `moment` must know its time zone."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    text: str = msgspec.to_builtins(utc)  # with microseconds, where there are some
    return f"{text[:19]}.{text[20:23] or '000'}Z"


def parse_timestamp(text: str) -> datetime:
    """Read what `timestamp` writes, and nothing else. Raises: MalformedError `bad-time`."""
    if not _TIME.fullmatch(text):
        raise MalformedError("bad-time", "not an RFC 3339 UTC time with milliseconds", got=text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise MalformedError("bad-time", "no such moment", got=text) from None
