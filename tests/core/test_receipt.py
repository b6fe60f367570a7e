"""Receipts: an entry of any log and size is proven, and nothing that was changed is."""

from __future__ import annotations

import base64

import pytest
from golden_story import Story
from golden_world import QUORUM, Log, trust_policy
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from genealog.core.canonical import encode
from genealog.core.merkle import leaf_hash
from genealog.core.proof import parse_proof
from genealog.core.receipt import (
    Receipt,
    check_receipt,
    encode_receipt,
    entry_of,
    make_receipt,
    parse_receipt,
    verify_receipt,
)
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, VerificationError

TRUST = parse_trust(trust_policy().encode())
STORY = Story()
RECEIPT = STORY.receipt("adapter")
DATA = encode_receipt(RECEIPT)


def refused(receipt: Receipt, code: str, *, known: bool = True) -> None:
    trust = TRUST if known else parse_trust(b"quorum none\n")
    with pytest.raises(GenealogError) as error:
        verify_receipt(receipt, trust)
    assert error.value.code == code


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.data())
def test_every_entry_at_every_size_is_proven(entries: list[bytes], data: st.DataObject) -> None:
    log = Log("golden.example/registry", QUORUM)
    log.entries = entries
    size = data.draw(st.integers(1, len(entries)))
    index = data.draw(st.integers(0, size - 1))
    receipt = parse_receipt(encode_receipt(log.receipt(index, size)))
    proven = verify_receipt(receipt, TRUST)
    assert (proven.entry, proven.index, proven.checkpoint.size) == (entries[index], index, size)
    assert (proven.entry, proven.index, proven.leaf) == entry_of(receipt)
    assert proven.leaf == leaf_hash(entries[index]).hex()


def test_a_receipt_is_one_line_of_canonical_json() -> None:
    assert DATA.startswith(b'{"entry":"')
    assert DATA.endswith(b'","t":"genealog/receipt/v1"}')
    assert parse_receipt(DATA) == RECEIPT
    for other in (DATA + b"\n", DATA.replace(b'"entry":', b'"entry": '), DATA[:-1] + b',"x":1}', DATA[:-1], b"[]"):
        with pytest.raises(MalformedError):
            parse_receipt(other)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_no_byte_of_a_receipt_can_change(place: int, flip: int) -> None:
    data = bytearray(DATA)
    data[place] ^= flip
    with pytest.raises(GenealogError):
        verify_receipt(parse_receipt(bytes(data)), TRUST)


def test_what_nothing_authenticates_is_extra_data_and_strange_signatures() -> None:
    proof = parse_proof(RECEIPT.proof.encode())
    strange = Log("golden.example/registry").signer.sign(b"something else\n").replace(b"golden", b"silver")
    for other in (replace_proof(extra=b"anything"), replace_proof(checkpoint=proof.checkpoint + strange)):
        assert verify_receipt(other, TRUST).entry == verify_receipt(RECEIPT, TRUST).entry


def replace_proof(**fields: bytes) -> Receipt:
    proof = parse_proof(RECEIPT.proof.encode())
    kept = {"index": proof.index, "hashes": proof.hashes, "checkpoint": proof.checkpoint, "extra": proof.extra}
    return make_receipt(base64.b64decode(RECEIPT.entry), RECEIPT.origin, type(proof)(**{**kept, **fields}))


def test_a_false_proof_is_not_excused_by_an_unknown_log() -> None:
    index = parse_proof(RECEIPT.proof.encode()).index
    moved = replace(RECEIPT, proof=RECEIPT.proof.replace(f"index {index}", f"index {index - 1}"))
    refused(RECEIPT, "unknown-log", known=False)
    refused(moved, "inclusion-proof-mismatch", known=False)
    refused(replace(RECEIPT, origin="golden.example/calls"), "origin-mismatch", known=False)


def test_the_log_that_is_named_is_the_log_that_signed() -> None:
    refused(replace(RECEIPT, origin="golden.example/calls"), "origin-mismatch")
    refused(replace(RECEIPT, origin="golden.example/registry/"), "origin-mismatch")


def test_a_proof_of_another_entry_proves_nothing() -> None:
    other = STORY.receipt("base")
    refused(replace(RECEIPT, entry=other.entry), "inclusion-proof-mismatch")
    refused(replace(RECEIPT, proof=other.proof), "inclusion-proof-mismatch")


@pytest.mark.parametrize(
    ("entry", "proof", "code"),
    [
        ("!", RECEIPT.proof, "bad-base64"),
        (RECEIPT.entry, "", "proof-malformed"),
        (RECEIPT.entry, "\0", "proof-malformed"),
        (RECEIPT.entry, RECEIPT.proof.replace("\n\n", "\n"), "proof-malformed"),
        (RECEIPT.entry, RECEIPT.proof.replace("registry\n", "registry\n\n"), "checkpoint-malformed"),
    ],
)
def test_what_does_not_parse_is_malformed(entry: str, proof: str, code: str) -> None:
    receipt = replace(RECEIPT, entry=entry, proof=proof)
    assert parse_receipt(encode(receipt)) == receipt
    refused(receipt, code)


def test_alone_a_receipt_only_fits_itself() -> None:
    stranger = Log("stranger.example/registry")
    stranger.append(b"entry")
    assert check_receipt(stranger.receipt(0)).entry == b"entry"
    with pytest.raises(VerificationError) as error:
        verify_receipt(stranger.receipt(0), TRUST)
    assert error.value.code == "unknown-log"
