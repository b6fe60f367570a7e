"""IDs and seals: the published vectors, and no other spelling."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.ids import digest_set, parse_id, record_id, seal, sha256_hex
from genealog.errors import MalformedError

BODY = {"kind": "external-model", "model": "m-1", "snapshot": "2026-01-01", "vendor": "example"}
BODY_ID = "glr1:721a9eb6d6a7e19fc07472c4e5d5caae2b696b6534f4c0f28791fb7d44f814c3"
GROUP = {"department": "risk", "principal": "svc-a", "project": "claims"}
SEAL = "3479c4082818d32d77461a5bba4d27937d6f96e40ac53b0c8526a8cf97f89ec9"


def test_vectors() -> None:
    assert record_id(BODY) == BODY_ID
    assert record_id(dict(reversed(BODY.items()))) == BODY_ID
    assert seal(bytes(range(32)), encode(GROUP)) == SEAL


def test_a_record_id_is_no_file_digest() -> None:
    assert record_id(BODY) != "glr1:" + sha256_hex(encode(BODY))
    assert record_id(BODY) == "glr1:" + hashlib.sha256(b"genealog/record/v1\x00" + encode(BODY)).hexdigest()


@given(st.sampled_from(["glf1", "glw1", "glr1"]), st.binary(min_size=32, max_size=32))
def test_ids_go_and_come_back(algorithm: str, digest: bytes) -> None:
    text = f"{algorithm}:{digest.hex()}"
    assert parse_id(text) == (algorithm, digest.hex())
    assert digest_set(text) == {algorithm: digest.hex()}


@pytest.mark.parametrize(
    "text",
    [
        "", "glr1", "glr1:", BODY_ID[:-1], BODY_ID + "0", BODY_ID.upper(), BODY_ID.replace("glr1", "glr2"),
        BODY_ID.replace("glr1", "sha256"), " " + BODY_ID, BODY_ID + "\n", BODY_ID.replace(":", "::"),
        BODY_ID[:-1] + "g", BODY_ID[:-1] + "٣",
    ],
)  # fmt: skip
def test_no_other_spelling_is_an_id(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_id(text)
    assert caught.value.code == "bad-id"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_salt_has_32_bytes(size: int) -> None:
    with pytest.raises(MalformedError) as caught:
        seal(bytes(size), b"{}")
    assert caught.value.code == "bad-salt"


@given(*[st.binary(min_size=32, max_size=32), st.binary(max_size=8)] * 2)
def test_a_seal_opens_for_its_salt_and_group_only(salt: bytes, group: bytes, other: bytes, more: bytes) -> None:
    assert (seal(salt, group) == seal(other, more)) == ((salt, group) == (other, more))
