"""Fields of protobuf messages: what was written is read, what is cut or odd is refused, nothing is gathered."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.cursor import Cursor
from genealog.core.protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, signed
from genealog.errors import MalformedError

NUMBERS = st.integers(1, (1 << 29) - 1)
FIELDS = st.one_of(
    st.tuples(NUMBERS, st.just(VARINT), st.integers(0, (1 << 64) - 1)),
    st.tuples(NUMBERS, st.just(FIXED64), st.integers(0, (1 << 64) - 1)),
    st.tuples(NUMBERS, st.just(FIXED32), st.integers(0, (1 << 32) - 1)),
    st.tuples(NUMBERS, st.just(BYTES), st.binary(max_size=300)),
)


def over(data: bytes) -> Cursor:
    return Cursor(lambda at, count: data[at : at + count], 0, len(data), format_="onnx")


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))


def written(number: int, wire: int, value: int | bytes) -> bytes:
    tag = varint(number << 3 | wire)
    if isinstance(value, bytes):
        return tag + varint(len(value)) + value
    return tag + (varint(value) if wire == VARINT else struct.pack("<Q" if wire == FIXED64 else "<I", value))


@given(st.lists(FIELDS, max_size=8))
def test_what_was_written_is_read(given_: list[tuple[int, int, int | bytes]]) -> None:
    data = b"".join(written(*field) for field in given_)
    found = [
        (f.number, f.wire, data[f.start : f.stop] if f.wire == BYTES else f.value) for f in fields(over(data))
    ]  # fmt: skip
    assert found == given_


@given(st.binary(max_size=200))
def test_random_bytes_give_fields_inside_them_or_our_error(data: bytes) -> None:
    try:
        for field in fields(over(data)):
            assert 0 <= field.start <= field.stop <= len(data)
    except MalformedError as error:
        assert error.code in ("onnx-header", "onnx-truncated")  # noqa: PT017 - either outcome will do


@pytest.mark.parametrize("data", [b"\x0b", b"\x0c", b"\x0e", b"\x0f", b"\x02\0", b"\x08" + b"\xff" * 9 + b"\x02"])
def test_groups_unknown_wires_field_zero_and_long_numbers_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        list(fields(over(data)))
    assert caught.value.code == "onnx-header"


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_below_zero(value: int) -> None:
    assert signed(value & (1 << 64) - 1) == value


def test_a_length_beyond_the_message_is_not_believed() -> None:
    with pytest.raises(MalformedError) as caught:
        list(fields(over(b"\x0a" + varint(1 << 60) + b"abc")))
    assert caught.value.code == "onnx-truncated"
    with pytest.raises(MalformedError) as caught:  # nor is one value taken that is too big to hold
        Cursor(lambda _, count: bytes(count), 0, 1 << 40, format_="onnx").take(1 << 30)
    assert caught.value.code == "onnx-header"
