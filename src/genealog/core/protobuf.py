"""A small strict reader of the protobuf wire format: the fields of one message, without a schema.

Nested messages and bytes are given as places in the file, never read: a graph of gigabytes is walked by its tags.
Groups (wire types 3 and 4, gone since proto2) and field number 0 are refused. What a field means is the caller's.

Source: protobuf.dev "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from genealog.core.cursor import Cursor

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it stands. `value` is a varint (unsigned, 64 bits) or a fixed number; of bytes, their length.

    `start` and `stop` are offsets in the file of the value's own bytes.
    """

    number: int
    wire: int
    value: int
    start: int
    stop: int


def fields(cursor: Cursor) -> Iterator[Field]:
    """Yield the fields of the message that `cursor` covers. The caller may not move it.

    Raises: MalformedError `…-truncated`, `…-header`.
    """
    while cursor.left:
        tag = cursor.varint()
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise cursor.bad("header", "a protobuf field has no such number", got=number)
        start = cursor.at
        if wire == VARINT:
            value = cursor.varint()
        elif wire == FIXED64:
            value = cursor.unsigned(8)
        elif wire == FIXED32:
            value = cursor.unsigned(4)
        elif wire == BYTES:
            value = cursor.varint()
            start = cursor.at
            cursor.skip(value)
        else:
            raise cursor.bad("header", "a protobuf field has an unknown wire type", got=wire)
        yield Field(number, wire, value, start, cursor.at)


def signed(value: int) -> int:
    """Return an int32 or int64 field as the number that it means: two's complement in 64 bits."""
    return value - (1 << 64) if value >> 63 else value
