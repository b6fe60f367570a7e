"""Records of data: what makes two of them one, held to RFC 8785 and to a library that spells it."""

import json
import math

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from genealog.core.data_record import json_record, number, record_digest, spell
from genealog.errors import MalformedError

SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | SAFE | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@example({"\U0001f600": 1, "\uff0c": 2})  # sorted by UTF-16, not by UTF-8
@example({"a:": 1, "b": '":'})
def test_a_record_is_spelled_as_rfc_8785_wants_it(value: object) -> None:
    wanted = rfc8785.dumps(value)
    for ascii_only in (True, False):
        for indent in (None, 1):
            assert json_record(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == wanted
    assert spell(value).encode() == wanted
    assert json_record(wanted) == wanted


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e21)
@example(-0.0)
@example(5e-324)
@example(9.999999999999999e-7)
def test_numbers_are_those_of_ecmascript(value: float) -> None:
    assert number(value).encode() == rfc8785.dumps(value)


def test_integers_keep_every_digit() -> None:
    assert json_record(b"9007199254740993") == b"9007199254740993"  # a double would have made it …992
    assert json_record(b"-123456789012345678901234567890") == b"-123456789012345678901234567890"
    assert json_record(b"[1.0,1e0,1,-0,-0.0]") == b"[1,1,1,0,0]"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"{}{}", b"NaN", b"[Infinity]", b"1e400", b"01", b'"\\ud800"', b'"\xff"', b'{"a":1,"a":2}',
        b'{"a":1,"a":"\\u003a"}', b'{"x":{"a":1,"\\u0061":2}}', b"[" * 201 + b"]" * 201, b"[" * 5000 + b"]" * 5000,
        b"9" * 5000, b"'a'", b"{a:1}", b"[1,]",
    ],
)  # fmt: skip
def test_what_has_no_one_spelling_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        json_record(text)
    assert caught.value.code == "bad-record"


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, b"bytes", "\ud800", {"\ud800": 1}])
def test_values_without_a_spelling_are_refused(value: object) -> None:
    with pytest.raises(MalformedError):
        spell(value)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        found = json_record(data)
    except MalformedError:
        return
    assert json_record(found) == found


def test_a_text_is_not_the_json_that_is_spelled_alike() -> None:
    assert record_digest("json", b'"a"') != record_digest("text", b'"a"')
    assert record_digest("json", b'{"a":1}').hex() == (
        "3ee057b57a11643f9591e32a69ea957379b4e0544530d13d86426a468eb7c619"
    )
