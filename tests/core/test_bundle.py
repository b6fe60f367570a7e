"""Bundles: read back as they were written, and in no other spelling."""

from __future__ import annotations

import json
from typing import Any

import pytest
from golden_story import Story
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.bundle import Evidence, Opened, encode_evidence, parse_file
from genealog.core.canonical import encode
from genealog.core.receipt import Receipt, encode_receipt
from genealog.errors import GenealogError, MalformedError

STORY = Story()
EVIDENCE = STORY.bundle(request=True)
DATA = encode_evidence(EVIDENCE)


def refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_file(data)
    assert error.value.code == code


def test_both_kinds_of_file_say_what_they_are() -> None:
    assert parse_file(DATA) == EVIDENCE
    assert json.loads(DATA)["t"] == "genealog/evidence/v1"
    receipt = STORY.receipt("call")
    assert parse_file(encode_receipt(receipt)) == receipt


def test_what_is_left_out_has_no_key() -> None:
    bare = Evidence(call="0" * 64, receipts=())
    assert encode_evidence(bare) == b'{"call":"' + b"0" * 64 + b'","receipts":[],"t":"genealog/evidence/v1"}'
    for key in ('"groups":{},', '"request":null,'):
        refused(encode_evidence(bare).replace(b'"receipts"', key.encode() + b'"receipts"'), "not-canonical")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-json"),
        (DATA[:100], "not-json"),
        (b"\xff", "not-json"),
        (b'{"a":' * 100_000, "not-json"),
        (b"[]", "not-evidence"),
        (b"[" * 100_000, "not-evidence"),
        (b"{}", "not-evidence"),
        (b'{"t":1}', "not-evidence"),
        (b'{"t":"genealog/evidence/v2"}', "not-evidence"),
        (b'{"t":"genealog/evidence/v1"}', "schema-mismatch"),
        (DATA + b"\n", "not-canonical"),
        (DATA.replace(b'"t":', b'"t": '), "not-canonical"),
        (DATA.replace(b'{"call"', b'{"t":"genealog/receipt/v1","call"'), "schema-mismatch"),
        (DATA.replace(b'{"call"', b'{"call":"%s","call"' % EVIDENCE.call.encode()), "not-canonical"),
    ],
)
def test_nothing_else_is_read(data: bytes, code: str) -> None:
    refused(data, code)


def test_a_group_cannot_be_opened_twice() -> None:
    group = json.dumps(json.loads(DATA)["groups"]["engine"], separators=(",", ":"))
    refused(DATA.replace(b'"groups":{', b'"groups":{"engine":' + group.encode() + b",", 1), "not-canonical")


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    whole: Any = json.loads(DATA)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return encode(whole)


SALT = EVIDENCE.groups["engine"].salt


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("call",), "0" * 63, "bad-hex"),
        (("call",), EVIDENCE.call.upper(), "bad-hex"),
        (("call",), "", "bad-hex"),
        (("groups", "engine", "salt"), SALT.upper(), "bad-hex"),
        (("groups", "engine", "salt"), SALT[:-2], "bad-hex"),
        (("groups", "engine", "salt"), " ".join(SALT), "bad-hex"),
        (("groups", "engine", "salt"), SALT + "\n", "bad-hex"),
        (("groups", "engine", "body"), "e30", "bad-base64"),
        (("groups", "engine"), {"body": "e30="}, "schema-mismatch"),
        (("response",), "e31=", "bad-base64"),
        (("request",), "not base64", "bad-base64"),
        (("receipts", 0, "t"), "genealog/receipt/v2", "schema-mismatch"),
        (("receipts", 0, "index"), 1, "schema-mismatch"),
        (("receipts",), {}, "schema-mismatch"),
    ],
)
def test_values_have_one_spelling(path: tuple[Any, ...], value: Any, code: str) -> None:
    refused(changed(path, value), code)


def test_making_one_checks_it_too() -> None:
    with pytest.raises(MalformedError):
        Opened(body="!", salt=SALT)
    with pytest.raises(MalformedError):
        Evidence(call="", receipts=())


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_bundle(place: int, flip: int) -> None:
    data = bytearray(DATA)
    data[place] ^= flip
    try:
        found = parse_file(bytes(data))
    except GenealogError:
        return
    assert not isinstance(found, Receipt)
    assert found != EVIDENCE
    assert encode_evidence(found) == bytes(data)
