"""Canonical bytes: they are RFC 8785's, and nothing else is read back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from genealog.core import canonical
from genealog.core.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    Record,
    decimal,
    decode,
    decode_typed,
    encode,
    encode_made,
    encode_typed,
    parse_timestamp,
    timestamp,
)
from genealog.errors import MalformedError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text(st.characters(max_codepoint=127), max_size=6)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(names, values, max_size=5)


class Point(Record):
    """What the tests read back."""

    x: int
    label: str = ""
    more: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"


def refused(data: bytes, kind: type[Any], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode(data, kind)
    assert caught.value.code == code


@given(values)
def test_the_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert encode(value) == rfc8785.dumps(value)


@given(values)
def test_what_is_encoded_is_read_back(value: Any) -> None:
    assert decode(encode(value), object) == value


def test_escapes_are_the_shortest() -> None:
    assert (
        encode('"\\/\b\f\n\r\t\x00\x1f\x7f é😀\u2028')
        == '"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f é😀\u2028"'.encode()
    )


@given(objects, st.data())
def test_no_other_spelling_is_read(value: dict[str, Any], data: st.DataObject) -> None:
    good = encode(value)
    spelled = data.draw(
        st.sampled_from(
            [
                json.dumps(value, sort_keys=True).encode(),
                json.dumps(value, sort_keys=True, separators=(",", ":")).encode(),
                json.dumps(
                    dict(sorted(value.items(), reverse=True)), separators=(",", ":"), ensure_ascii=False
                ).encode(),
                good + b"\n",
                b" " + good,
                good.replace(b"0", b"-0"),
                good.replace(b":", b":  "),
                good.replace(b"1", b"1.0"),
                good.replace(b"a", b"\\u0061"),
                good.replace(b"/", b"\\/"),
            ]
        )
    )
    try:
        read = decode(spelled, dict)
    except MalformedError:
        assert spelled != good
    else:  # a replacement inside a string makes another value, which has its own one spelling
        assert (read == value) is (spelled == good)


@given(objects, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_another_value(value: dict[str, Any], place: int, flip: int) -> None:
    data = bytearray(encode(value))
    data[place % len(data)] ^= flip
    try:
        read = decode(bytes(data), object)
    except MalformedError:
        return
    assert encode(read) == bytes(data)
    assert read != value or type(read) is not type(value)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b'{"x":1}\x00', "not-json"),
        (b'{"label":"\xff","x":1}', "not-json"),
        (b'{"label":"\\ud800","x":1}', "not-json"),
        (b'{"x":NaN}', "not-json"),
        (b'{"x":1}{"x":1}', "not-json"),
        (b"[1]", "schema-mismatch"),
        (b'{"x":"1"}', "schema-mismatch"),
        (b'{"x":true}', "schema-mismatch"),
        (b'{"x":1.5}', "schema-mismatch"),
        (b'{"label":"a"}', "schema-mismatch"),
        (b'{"kind":"c","x":1}', "schema-mismatch"),
        (b'{"x":1,"y":2}', "schema-mismatch"),
        (b'{"x":1,"x":1}', "not-canonical"),
        (b'{"x":2,"x":1}', "not-canonical"),
        (b'{"x":1,"label":"a"}', "not-canonical"),
        (b'{"label":"","x":1}', "not-canonical"),
        (b'{"more":[],"x":1}', "not-canonical"),
        (b'{"kind":"a","x":1}', "not-canonical"),
        (b'{"x":-0}', "not-canonical"),
        (b'{"x":1} ', "not-canonical"),
        (b'{"label":"\\u0061","x":1}', "not-canonical"),
    ],
)
def test_what_a_record_refuses(data: bytes, code: str) -> None:
    refused(data, Point, code)


def test_a_record_has_one_spelling_for_an_absent_field() -> None:
    assert encode(Point(x=1)) == b'{"x":1}'
    assert encode(Point(x=1, label="a", more=("b",), kind="b")) == b'{"kind":"b","label":"a","more":["b"],"x":1}'
    assert decode(b'{"kind":"b","x":1}', Point) == Point(x=1, kind="b")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (1.5, "not-canonical-type"),
        ({"a": [0.0]}, "not-canonical-type"),
        (2**53, "integer-too-big"),
        ({"a": {"b": -(2**53)}}, "integer-too-big"),
        ({"é": 1}, "key-not-ascii"),
        ("\ud800", "text-not-unicode"),
    ],
)
def test_what_has_no_canonical_bytes(value: Any, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        encode(value)
    assert caught.value.code == code


def test_an_error_says_where() -> None:
    with pytest.raises(MalformedError) as caught:
        encode({"a": [{"b": 2**60}]})
    assert "$.a[0].b" in caught.value.message


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 5_000, 200_000])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_ends_before_the_stack_does(depth: int, left: bytes, right: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode(left * depth + b"0" + right * depth, object)
    assert caught.value.code in ("too-deep", "not-json")


def test_nesting_up_to_the_limit_is_read() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert encode(decode(data, list)) == data


def test_a_value_that_was_built_too_deep_is_an_error_of_ours() -> None:
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    with pytest.raises(MalformedError) as caught:
        encode(value)
    assert caught.value.code == "too-deep"
    while value:  # CPython unwinds this without recursion only if we do
        value = value[0]


moments = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1 < moment.year < 9999)


@given(moments, st.integers(-12 * 60, 12 * 60))
def test_times_go_and_come_back_to_the_millisecond(moment: datetime, minutes: int) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = timestamp(moment)
    assert len(text) == 24
    assert parse_timestamp(text) == moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


@given(moments, moments)
def test_the_order_of_times_is_the_order_of_their_texts(one: datetime, other: datetime) -> None:
    first, second = sorted((timestamp(one), timestamp(other)))
    assert parse_timestamp(first) <= parse_timestamp(second)


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.0Z", "2026-01-01T00:00:00.000", "2026-01-01 00:00:00.000Z",
        "2026-01-01T00:00:00.000+00:00", "2026-02-30T00:00:00.000Z", "2026-01-01T24:00:00.000Z",
        "2026-01-01T00:00:60.000Z", "2026-01-01T00:00:00.000Z\n", "٢٠٢٦-01-01T00:00:00.000Z",
    ],
)  # fmt: skip
def test_no_other_time_is_read(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_timestamp(text)
    assert caught.value.code == "bad-time"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_decimal_reads_back_as_the_same_float(value: float) -> None:
    assert float(decimal(value)) == value


class _Typed(Record):
    name: str
    keys: dict[str, str] = {}  # noqa: RUF012
    count: int = 0
    more: tuple[str, ...] = ()


@given(
    name=st.text(),
    keys=st.dictionaries(st.text(st.characters(max_codepoint=300)), st.text(st.characters(exclude_categories=()))),
    count=st.integers(-MAX_INTEGER, MAX_INTEGER),
    more=st.lists(st.text()).map(tuple),
)
def test_the_quick_spelling_is_the_careful_one(
    name: str, keys: dict[str, str], count: int, more: tuple[str, ...]
) -> None:
    value = _Typed(name=name, keys=keys, count=count, more=more)
    try:
        careful: bytes | str = encode(value)
    except MalformedError as error:
        careful = error.code
    try:
        quick: bytes | str = encode_typed(value)
    except MalformedError as error:
        quick = error.code
    assert quick == careful
    if isinstance(careful, bytes):
        assert decode_typed(careful, _Typed) == value


def test_what_is_read_sooner_is_read_as_strictly() -> None:
    for data in (b'{"name": "a"}', b'{"name":"a","name":"a"}', b'{"count":0,"name":"a"}', b'{"name":"\\u0061"}'):
        for read in (decode, decode_typed):
            with pytest.raises(MalformedError) as caught:
                read(data, _Typed)
            assert caught.value.code == "not-canonical"


@given(objects, st.text(st.characters(exclude_categories=())))
def test_what_we_put_together_is_spelled_as_carefully(value: dict[str, object], text: str) -> None:
    value["text"] = text
    try:
        careful: bytes | str = encode(value)
    except MalformedError as error:
        careful = error.code
    try:
        quick: bytes | str = encode_made(value)
    except MalformedError as error:
        quick = error.code
    assert quick == careful


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    )
)
def test_what_looks_sound_is_sound(value: object) -> None:
    if canonical._sound(value, canonical.MAX_DEPTH):
        canonical._check(value, ())
