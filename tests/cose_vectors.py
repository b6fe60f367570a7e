"""Good and bad COSE receipts from fixed keys: `python -m cose_vectors` writes tests/vectors/cose.json."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from genealog.core.cbor import Cbor, Tagged, encode_cbor
from genealog.core.cose import AT, sign_consistency, sign_inclusion, signed_bytes
from genealog.core.merkle import consistency_path, inclusion_path, leaf_hash, root_at, tree_root
from genealog.core.note import NoteSigner, format_vkey

FILE = Path(__file__).parent / "vectors" / "cose.json"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER = NoteSigner("log.example/genealog", PRIVATE).verifier
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
# The leaves of the RFC 6962 vectors
ENTRIES = [
    bytes.fromhex(h)
    for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def read(level: int, index: int) -> bytes:
    return tree_root(LEAVES[index << level : (index + 1) << level])


def good(index: int = 5, size: int = 8) -> bytes:
    path = inclusion_path(index, size, read)
    return sign_inclusion(LEAVES[index], index, size, path, verifier=VERIFIER, signer=PRIVATE)


def consistency(old: int, new: int) -> bytes:
    path = consistency_path(old, new, read)
    return sign_consistency(old, root_at(old, read), new, path, verifier=VERIFIER, signer=PRIVATE)


def build(
    *, protected: dict[int | str, Cbor] | None = None, place: tuple[int, int] = (8, 5),
    at: tuple[int, int] | None = None, path: tuple[bytes, ...] | None = None, payload: bytes | None = None,
    root: bytes | None = None,
    signer: Ed25519PrivateKey = PRIVATE, unprotected: dict[int | str, Cbor] | None = None,
    claims: dict[int | str, Cbor] | None = None, tag: int = 18, kind: int = -1,
) -> bytes:  # fmt: skip
    """A receipt of entry 5 of 8, with whatever is to be wrong in it, signed all the same."""
    path = inclusion_path(5, 8, read) if path is None else path
    all_claims: dict[int | str, Cbor] = {1: VERIFIER.name, 2: LEAVES[5].hex(), AT: at or place}
    header: dict[int | str, Cbor] = {1: -8, 4: VERIFIER.key_id, 15: all_claims if claims is None else claims, 395: 1}
    for key, value in (protected or {}).items():
        header[key] = value
        if value is None:
            del header[key]
    spelled = encode_cbor(header)
    signature = signer.sign(signed_bytes(spelled, root_at(8, read) if root is None else root))
    proof = encode_cbor((*place, path))
    outer = {396: {kind: (proof,)}} if unprotected is None else unprotected
    return encode_cbor(Tagged(tag, (spelled, outer, payload, signature)))


def flip(data: bytes, piece: bytes) -> bytes:
    place = data.index(piece)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def es256() -> bytes:
    """Signed by a P-256 key, as its algorithm says: a log's key is Ed25519."""
    key = derive_private_key(7, SECP256R1())
    header = encode_cbor({1: -7, 15: {1: VERIFIER.name, 2: LEAVES[5].hex(), AT: (8, 5)}, 395: 1})
    r, s = decode_dss_signature(
        key.sign(signed_bytes(header, root_at(8, read)), ECDSA(SHA256(), deterministic_signing=True))
    )
    proof = encode_cbor((8, 5, inclusion_path(5, 8, read)))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return encode_cbor(Tagged(18, (header, {396: {-1: (proof,)}}, None, signature)))


def long_form(data: bytes) -> bytes:
    """Label 396 in five bytes instead of three, outside of what is signed."""
    assert data.count(b"\x19\x01\x8c") == 1
    return data.replace(b"\x19\x01\x8c", b"\x1a\x00\x00\x01\x8c")


def unordered() -> bytes:
    """The protected map with its keys in another order, and signed so."""
    parts = [
        encode_cbor(395) + encode_cbor(1),
        encode_cbor(1) + encode_cbor(-8),
        encode_cbor(15) + encode_cbor({1: VERIFIER.name, 2: LEAVES[5].hex(), AT: (8, 5)}),
    ]
    spelled = b"\xa3" + b"".join(parts)
    signature = PRIVATE.sign(signed_bytes(spelled, root_at(8, read)))
    proof = encode_cbor((8, 5, inclusion_path(5, 8, read)))
    return encode_cbor(Tagged(18, (spelled, {396: {-1: (proof,)}}, None, signature)))


def vectors() -> list[dict[str, object]]:
    """Every vector: name, receipt, entry, and the code of the error, null if it verifies."""
    path = inclusion_path(5, 8, read)
    proof = encode_cbor((8, 5, path))
    cases: list[tuple[str, bytes, str | None]] = [
        ("good-5-of-8", good(), None),
        ("good-0-of-8", good(0), None),
        ("good-7-of-8", good(7), None),
        ("good-2-of-3", good(2, 3), None),
        ("good-only-entry", good(0, 1), None),
        ("good-without-place", build(claims={1: VERIFIER.name}), None),
        ("good-without-kid", build(protected={4: None}), None),
        ("good-fully-specified-alg", build(protected={1: -19}), None),
        ("path-bit-flipped", flip(good(), path[1]), "cose-signature-invalid"),
        ("path-short", build(path=path[:2]), "inclusion-proof-mismatch"),
        ("path-long", build(path=(*path, bytes(32))), "inclusion-proof-mismatch"),
        ("path-hash-of-31-bytes", build(path=(path[0][:31], *path[1:])), "cose-malformed"),
        ("path-of-64", build(path=(bytes(32),) * 64), "cose-malformed"),
        ("signature-bit-flipped", good()[:-1] + bytes([good()[-1] ^ 1]), "cose-signature-invalid"),
        ("signature-short", good().replace(b"\x58\x40", b"\x58\x3f")[:-1], "cose-signature-invalid"),
        ("other-key", build(signer=OTHER), "cose-signature-invalid"),
        ("other-kid", build(protected={4: b"nope"}), "cose-signature-invalid"),
        ("alg-es256", es256(), "cose-unsupported"),
        ("alg-swapped-after-signing", good().replace(b"\x01\x27\x04", b"\x01\x26\x04"), "cose-unsupported"),
        ("alg-missing", build(protected={1: None}), "cose-unsupported"),
        ("vds-2", build(protected={395: 2}), "cose-unsupported"),
        ("vds-missing", build(protected={395: None}), "cose-unsupported"),
        ("vds-unprotected",
         build(protected={395: None}, unprotected={395: 1, 396: {-1: (proof,)}}), "cose-unsupported"),
        ("critical-header-unknown", build(protected={2: (99,), 99: 1}), "cose-unsupported"),
        ("size-0", build(place=(0, 0), path=()), "inclusion-proof-mismatch"),
        ("index-is-size", build(place=(8, 8)), "inclusion-proof-mismatch"),
        ("index-above-size", build(place=(8, 1 << 40)), "inclusion-proof-mismatch"),
        ("size-2-to-63", build(place=(1 << 63, 5)), "cose-malformed"),
        ("index-negative", build(place=(8, -1)), "cose-malformed"),
        ("size-7-for-8", build(place=(7, 5), at=(8, 5)), "cose-malformed"),
        ("size-7-for-8-unsigned", build(place=(7, 5), claims={1: VERIFIER.name}), None),
        ("trailing-byte", good() + b"\x00", "cbor-malformed"),
        ("cut-off", good()[:-1], "cbor-malformed"),
        ("not-shortest-form", long_form(good()), "cbor-malformed"),
        ("indefinite-array", b"\xd2\x9f" + good()[2:] + b"\xff", "cbor-malformed"),
        ("keys-out-of-order", unordered(), "cbor-malformed"),
        ("payload-attached", build(payload=root_at(8, read)), "cose-malformed"),
        ("payload-attached-wrong-root", build(payload=bytes(32), root=bytes(32)), "cose-malformed"),
        ("root-of-another-tree", build(root=bytes(32)), "cose-signature-invalid"),
        ("tag-17", build(tag=17), "cose-malformed"),
        ("no-tag", good()[1:], "cose-malformed"),
        ("two-proofs", build(unprotected={396: {-1: (proof, proof)}}), "cose-malformed"),
        ("no-proof", build(unprotected={}), "cose-malformed"),
        ("other-headers-besides", build(unprotected={4: b"kid", 396: {-1: (proof,)}}), "cose-malformed"),
        ("proof-not-bytes", build(unprotected={396: {-1: ((8, 5, path),)}}), "cose-malformed"),
        ("consistency-instead", consistency(5, 8), "cose-malformed"),
        ("subject-of-another-entry",
         build(claims={1: VERIFIER.name, 2: LEAVES[4].hex(), AT: (8, 5)}), "cose-claim-mismatch"),
        ("issuer-missing", build(claims={}), "unknown-log"),
        ("issuer-unknown", build(claims={1: "log.example/other"}), "unknown-log"),
        ("issuer-not-text", build(claims={1: 7}), "cose-malformed"),
        ("too-big", good() + bytes(20_000), "cose-malformed"),
    ]  # fmt: skip
    entries = {"good-0-of-8": 0, "good-7-of-8": 7, "good-2-of-3": 2, "good-only-entry": 0}
    listed = [
        {"name": name, "cose": data.hex(), "entry": ENTRIES[entries.get(name, 5)].hex(), "code": code}
        for name, data, code in cases
    ]
    wrong_entry = {"name": "another-entry", "cose": good().hex(), "entry": "beef", "code": "cose-claim-mismatch"}
    return [*listed, wrong_entry]


def document() -> str:
    return json.dumps({"vkey": format_vkey(VERIFIER), "vectors": vectors()}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
