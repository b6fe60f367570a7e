"""COSE receipts: frozen good and bad ones, an independent library both ways, and the same by hand."""

from __future__ import annotations

import json

import cbor2
import pytest
import scitt_cose
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cose_vectors import (
    ENTRIES,
    FILE,
    LEAVES,
    PRIVATE,
    VERIFIER,
    build,
    consistency,
    document,
    good,
    read,
)
from genealog.core.cbor import Tagged, encode_cbor
from genealog.core.cose import (
    AT,
    check_consistency,
    check_inclusion,
    parse_cose,
    sign_consistency,
    sign_inclusion,
    signed_bytes,
    verify_cose,
)
from genealog.core.merkle import inclusion_path, node_hash, root_at, verify_consistency
from genealog.core.note import format_vkey
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, VerificationError

TRUST = parse_trust(f"log {format_vkey(VERIFIER)}\nquorum none\n".encode())
VECTORS = json.loads(FILE.read_text())["vectors"]
SIZES = {"good-2-of-3": 3, "good-only-entry": 1}
PUBLIC_PEM = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
PRIVATE_PEM = PRIVATE.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def test_the_vectors_are_what_they_were() -> None:
    assert document() == FILE.read_text()


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_every_vector_is_judged_as_written(vector: dict[str, str | None]) -> None:
    data, entry = bytes.fromhex(vector["cose"] or ""), bytes.fromhex(vector["entry"] or "")
    if vector["code"] is None:
        proven = verify_cose(data, entry, TRUST)
        assert proven.origin == VERIFIER.name
        assert proven.root == root_at(SIZES.get(str(vector["name"]), 8), read)
        return
    with pytest.raises(GenealogError) as caught:
        verify_cose(data, entry, TRUST)
    assert caught.value.code == vector["code"]


# Others

BOTH_REFUSE = {
    "size-0",
    "index-is-size",
    "alg-es256",
    "vds-2",
    "trailing-byte",
    "not-shortest-form",
    "payload-attached",
}


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_a_library_that_nobody_here_wrote_agrees(vector: dict[str, str | None]) -> None:
    """What we accept, it accepts; what it refuses, we refuse. It knows no kid, and no Ed25519 by its newer number."""
    found = scitt_cose.verify_receipt(
        bytes.fromhex(vector["cose"] or ""), leaf_entry_hex=vector["entry"] or "", log_public_key_pem=PUBLIC_PEM
    )
    if vector["code"] is None and vector["name"] != "good-fully-specified-alg":
        assert found.ok, found.errors
        assert found.issuer == VERIFIER.name
    if vector["name"] in BOTH_REFUSE:
        assert not found.ok


@pytest.mark.parametrize("size", range(1, 9))
def test_receipts_go_both_ways(size: int) -> None:
    for index in range(size):
        ours = scitt_cose.verify_receipt(
            good(index, size), leaf_entry_hex=ENTRIES[index].hex(), log_public_key_pem=PUBLIC_PEM
        )
        assert (ours.ok, ours.tree_size, ours.leaf_index, ours.errors) == (True, size, index, [])
        assert ours.subject == LEAVES[index].hex()
        theirs = scitt_cose.build_receipt(
            leaf_entry_hex=ENTRIES[index].hex(), leaf_index=index,
            tree_entries_hex=[entry.hex() for entry in ENTRIES[:size]], alg="EdDSA", log_private_key_pem=PRIVATE_PEM,
            iss=VERIFIER.name, sub="anything", kid=VERIFIER.key_id,
        )  # fmt: skip
        proven = verify_cose(theirs, ENTRIES[index], TRUST)
        assert (proven.size, proven.index, proven.placed) == (size, index, False)
        plain = scitt_cose.build_receipt(
            leaf_entry_hex=ENTRIES[index].hex(), leaf_index=index,
            tree_entries_hex=[entry.hex() for entry in ENTRIES[:size]], alg="EdDSA", log_private_key_pem=PRIVATE_PEM,
        )  # fmt: skip
        assert check_inclusion(parse_cose(plain), ENTRIES[index], [VERIFIER]).root == root_at(size, read)


def as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def test_by_hand_with_cbor2_and_cryptography_alone() -> None:
    outer = cbor2.loads(good())
    assert outer.tag == 18
    protected, unprotected, payload, signature = outer.value
    header = cbor2.loads(protected)
    assert payload is None
    assert (header[1], header[4], header[395]) == (-8, VERIFIER.key_id, 1)
    assert {key: as_list(value) for key, value in header[15].items()} == {
        1: VERIFIER.name,
        2: LEAVES[5].hex(),
        AT: [8, 5],
    }
    (proof,) = unprotected[396][-1]
    size, index, (first, second, third) = cbor2.loads(proof)
    assert (size, index) == (8, 5)
    root = node_hash(third, node_hash(node_hash(first, LEAVES[5]), second))
    PRIVATE.public_key().verify(signature, cbor2.dumps(["Signature1", protected, b"", root]))
    assert cbor2.dumps(outer, canonical=True) == good()


def test_what_is_signed_is_never_a_note() -> None:
    """A log's key signs notes, which are UTF-8, and Sig_structures, whose first byte begins no UTF-8."""
    message = signed_bytes(b"", bytes(32))
    assert message[0] == 0x84
    with pytest.raises(UnicodeDecodeError):
        message.decode()


@given(st.integers(0, 7), st.integers(1, 8), st.data())
def test_no_flipped_bit_verifies(index: int, size: int, data: st.DataObject) -> None:
    index %= size
    receipt = good(index, size)
    place = data.draw(st.integers(0, len(receipt) * 8 - 1))
    bad = receipt[: place // 8] + bytes([receipt[place // 8] ^ 1 << place % 8]) + receipt[place // 8 + 1 :]
    with pytest.raises(GenealogError):
        verify_cose(bad, ENTRIES[index], TRUST)


@given(st.binary(max_size=200))
def test_anything_else_is_refused_in_our_words(data: bytes) -> None:
    for start in (b"", b"\xd2\x84"):
        with pytest.raises(MalformedError):
            parse_cose(start + data)


def test_a_receipt_is_only_made_for_a_path_that_fits() -> None:
    path = inclusion_path(5, 8, read)
    for index, size, hashes in ((5, 8, path[:2]), (8, 8, path), (0, 0, ())):
        with pytest.raises(VerificationError) as caught:
            sign_inclusion(LEAVES[5], index, size, hashes, verifier=VERIFIER, signer=PRIVATE)
        assert caught.value.code == "inclusion-proof-mismatch"
    with pytest.raises(VerificationError) as caught:  # a key that is not the one it says
        sign_inclusion(LEAVES[5], 5, 8, path, verifier=VERIFIER, signer=Ed25519PrivateKey.generate())
    assert caught.value.code == "cose-signature-invalid"


def test_a_quorum_is_never_met() -> None:
    witness = "witness w witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
    trust = parse_trust(f"log {format_vkey(VERIFIER)}\n{witness}\nquorum w\n".encode())
    with pytest.raises(VerificationError) as caught:
        verify_cose(good(), ENTRIES[5], trust)
    assert caught.value.code == "quorum-not-met"


@pytest.mark.parametrize(("old", "new"), [(o, n) for n in range(2, 9) for o in range(1, n)])
def test_consistency(old: int, new: int) -> None:
    data = consistency(old, new)
    receipt = parse_cose(data)
    assert receipt.numbers == (old, new)
    root = check_consistency(receipt, root_at(old, read), [VERIFIER])
    assert root == root_at(new, read)
    verify_consistency(old, root_at(old, read), new, root, receipt.path)
    assert cbor2.dumps(cbor2.loads(data), canonical=True) == data
    with pytest.raises(VerificationError):
        check_consistency(receipt, bytes(32), [VERIFIER])
    with pytest.raises(MalformedError):
        check_inclusion(receipt, ENTRIES[0], [VERIFIER])
    with pytest.raises(MalformedError):
        check_consistency(parse_cose(good()), bytes(32), [VERIFIER])
    with pytest.raises(VerificationError):
        check_consistency(parse_cose(build(place=(1, 8), kind=-2)), bytes(32), [VERIFIER])


@pytest.mark.parametrize(("old", "new"), [(0, 8), (8, 8), (8, 5)])
def test_consistency_that_says_nothing_is_not_signed(old: int, new: int) -> None:
    with pytest.raises(VerificationError) as caught:
        sign_consistency(old, root_at(old, read), new, (), verifier=VERIFIER, signer=PRIVATE)
    assert caught.value.code == "consistency-proof-mismatch"


@pytest.mark.parametrize("critical", [({},), ((1, {}),), (Tagged(1, {}),), (b"\x01",), (None,), 1, ()])
def test_a_critical_header_of_any_shape_is_refused(critical: object) -> None:
    protected = encode_cbor({1: -8, 2: critical, 395: 1})  # type: ignore[dict-item]
    proof = encode_cbor((1, 0, ()))
    with pytest.raises(MalformedError):
        parse_cose(encode_cbor(Tagged(18, (protected, {396: {-1: (proof,)}}, None, bytes(64)))))
