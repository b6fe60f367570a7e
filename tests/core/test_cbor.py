"""The CBOR that COSE receipts need: the same bytes as cbor2 makes, and nothing read that has two spellings."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genealog.core.cbor import Cbor, Tagged, decode_cbor, encode_cbor
from genealog.errors import MalformedError

KEYS = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def as_cbor2(value: Cbor) -> object:
    if isinstance(value, Tagged):
        return cbor2.CBORTag(value.tag, as_cbor2(value.value))
    if isinstance(value, dict):
        return {key: as_cbor2(item) for key, item in value.items()}
    return [as_cbor2(item) for item in value] if isinstance(value, tuple) else value


@given(VALUES)
def test_what_is_written_is_read_and_cbor2_agrees(value: Cbor) -> None:
    data = encode_cbor(value)
    assert decode_cbor(data) == value
    assert cbor2.loads(data) == cbor2.loads(cbor2.dumps(as_cbor2(value)))


@given(st.binary(max_size=60))
@example(bytes.fromhex("d28443a10127a0f640"))
def test_whatever_is_read_has_one_encoding(data: bytes) -> None:
    with suppress(MalformedError):
        assert encode_cbor(decode_cbor(data)) == data


@given(VALUES, st.data())
def test_a_changed_byte_changes_the_value_or_is_refused(value: Cbor, data: st.DataObject) -> None:
    good = encode_cbor(value)
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    with suppress(MalformedError):
        assert decode_cbor(bad) != value


@pytest.mark.parametrize(
    "data",
    [
        "",  # nothing
        "1800",  # 0 in two bytes
        "190017",  # 23 in three
        "1a00000100",  # 256 in five
        "1b00000000ffffffff",
        "5f4100ff",  # indefinite bytes
        "9f00ff",
        "bf0000ff",
        "f4",  # false
        "f5",
        "f7",  # undefined
        "f90000",  # a float
        "fb0000000000000000",
        "f800",
        "61ff",  # text that is not UTF-8
        "a2010001",  # a map that ends
        "a201000100",  # a key twice
        "a202000100",  # keys out of order
        "a1400041",  # a key of bytes
        "a18000",
        "0000",  # two values
        "9bffffffffffffffff",  # a length that nobody has
        "5bffffffffffffffff",
        "bbffffffffffffffff",
        "1c",
        "1f",
        "81" * 9 + "00",  # nine deep
        "c1" * 100 + "00",
    ],
)
def test_other_cbor_is_refused(data: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_cbor(bytes.fromhex(data))
    assert caught.value.code == "cbor-malformed"


def test_order_may_be_left_to_the_caller() -> None:
    assert decode_cbor(bytes.fromhex("a202000100"), ordered=False) == {1: 0, 2: 0}
    with pytest.raises(MalformedError):
        decode_cbor(bytes.fromhex("a201000100"), ordered=False)


def test_what_is_not_held_is_not_written() -> None:
    for value in (True, 1 << 64, -(1 << 64) - 1):
        with pytest.raises(ValueError, match=r"booleans|64 bits"):
            encode_cbor(value)
