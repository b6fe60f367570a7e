"""COSE receipts (`*.cose`): the proof of a receipt in the encoding of RFC 9942, for verifiers that speak COSE.

    18([                                          COSE_Sign1
      << { 1: -8,                                 alg: EdDSA, with the log's Ed25519 key
           4: key ID[4],                          kid: that of the vkey
           15: {1: origin, 2: hex leaf hash,      CWT claims: issuer, subject
                "urn:genealog:cose:at": [tree size, leaf index]},
           395: 1 } >>,                           RFC9162_SHA256, the log's own tree
      {396: {-1: [<< [tree size, leaf index, [path]] >>]}},      -2: [<< [old size, new size, [path]] >>]
      null,                                       the root, which the verifier computes
      signature ])                                over ["Signature1", protected, "", root]

The entry is not in the file: whoever verifies brings it. RFC 9942 signs the root alone, and one root can be reached
under several sizes, so a size and an index beside it are nobody's word; the claim `at` puts them under the signature.
The key also signs checkpoints. The two cannot be confused: a note is UTF-8 text, what COSE signs begins with byte 84,
and no UTF-8 text does. Whoever signs here must have signed a checkpoint of the same root before.

A receipt holds no cosignatures, so it never meets a quorum of witnesses. Without the claim `at` (others' receipts), the
place is told as unsigned; with it, the bytes must be the one deterministic encoding.

Source: RFC 9942 §4 and §5, RFC 9052 §4.4, RFC 9597 (CWT claims in headers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from genealog.core.cbor import Cbor, Tagged, decode_cbor, encode_cbor
from genealog.core.merkle import HASH_SIZE, inclusion_root, leaf_hash, prefix_roots
from genealog.core.note import ED25519, Verifier
from genealog.core.spelling import MAX_SIZE
from genealog.core.trust import Trust
from genealog.errors import MalformedError, VerificationError

MAX_COSE = 16_384  # bytes; 63 hashes and a long origin have about 3,000
MAX_HASHES = 63
AT = "urn:genealog:cose:at"

_SIGN1 = 18
_ALG, _CRIT, _KID, _CLAIMS, _VDS, _VDP = 1, 2, 4, 15, 395, 396
_ISS, _SUB = 1, 2
_INCLUSION, _CONSISTENCY = -1, -2
_RFC9162 = 1
_EDDSA = (-8, -19)  # EdDSA, and Ed25519 as RFC 9864 names it; we write the first, which all verifiers know
_NAMES = {_INCLUSION: "inclusion", _CONSISTENCY: "consistency"}


class RawSigner(Protocol):
    """What `store.keys.KeySigner` over an Ed25519 key is."""

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over `data`."""


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A parsed receipt whose signature is unchecked. `numbers` is (tree size, index) or (old size, new size).

    `origin` and `subject` are its claims; `at` the numbers under the signature, None where it has none.
    """

    kind: int
    numbers: tuple[int, int]
    path: tuple[bytes, ...]
    protected: bytes
    signature: bytes
    kid: bytes | None
    origin: str | None
    subject: str | None
    at: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CoseProven:
    """What a COSE receipt proves: the log `origin` signed `root`, and the entry is under it.

    `size` and `index` are the log's word if `placed`; else only that the path fits them.
    """

    origin: str
    root: bytes
    size: int
    index: int
    leaf: str
    placed: bool


def sign_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], *, verifier: Verifier, signer: RawSigner
) -> bytes:
    """Return the COSE receipt of the entry with leaf hash `leaf`; its path must lead to a root that the log signed.

    `signer` holds the private key of `verifier`, which is Ed25519. Raises: VerificationError `inclusion-proof-mismatch`
    for a path of the wrong length.
    """
    root = inclusion_root(leaf, index, size, path)
    claims: dict[int | str, Cbor] = {_ISS: verifier.name, _SUB: leaf.hex(), AT: (size, index)}
    return _sign(_INCLUSION, (size, index), path, root, claims, verifier, signer)


def sign_consistency(
    old: int, old_root: bytes, new: int, path: Sequence[bytes], *, verifier: Verifier, signer: RawSigner
) -> bytes:
    """Return the COSE receipt that the tree of `new` leaves begins with the one of `old`, 0 < old < new.

    Raises: VerificationError `consistency-proof-mismatch`.
    """
    root = _consistency_root(old, old_root, new, path)
    claims: dict[int | str, Cbor] = {_ISS: verifier.name, _SUB: old_root.hex(), AT: (old, new)}
    return _sign(_CONSISTENCY, (old, new), path, root, claims, verifier, signer)


def parse_cose(data: bytes) -> CoseReceipt:
    """Read a receipt with one proof. Raises: MalformedError `cose-malformed`, `cbor-malformed`, `cose-unsupported`."""
    if len(data) > MAX_COSE:
        raise _malformed("a receipt of this size is not read", f"{len(data)} bytes", f"≤ {MAX_COSE} bytes")
    match decode_cbor(data, ordered=False):
        case Tagged(tag=18, value=(bytes() as protected, {**unprotected}, payload, bytes() as signature)):
            pass
        case _:
            raise _malformed("not a COSE_Sign1 with tag 18")
    if payload is not None:
        raise _malformed("the payload is attached", expected="null: the verifier computes the root")
    header = decode_cbor(protected, ordered=False)
    if not isinstance(header, Mapping):
        raise _malformed("the protected header is no map")
    _check_header(header)
    claims = header.get(_CLAIMS, {})
    if not isinstance(claims, Mapping):
        raise _malformed("the CWT claims are no map")
    proofs = unprotected.get(_VDP)
    if set(unprotected) != {_VDP} or not isinstance(proofs, Mapping) or len(proofs) != 1:
        raise _malformed("the unprotected header holds something else than one kind of proof")
    ((kind, listed),) = proofs.items()
    match listed:
        case (bytes() as proof,) if isinstance(kind, int) and kind in _NAMES:
            numbers, path = _read_proof(proof)
        case _:
            raise _malformed("not exactly one inclusion or consistency proof")
    kid, origin, subject = header.get(_KID), claims.get(_ISS), claims.get(_SUB)
    if not (isinstance(kid, bytes | None) and isinstance(origin, str | None) and isinstance(subject, str | None)):
        raise _malformed("kid, issuer or subject of the wrong type")
    at = None if AT not in claims else _pair(claims[AT])
    found = CoseReceipt(kind, numbers, path, protected, signature, kid, origin, subject, at)
    if at is not None:
        if at != numbers:
            raise _malformed("the signed place is not that of the proof", at, numbers)
        decode_cbor(data)
        decode_cbor(protected)
    return found


def verify_cose(data: bytes, entry: bytes, trust: Trust) -> CoseProven:
    """Prove that `entry` is in a log that `trust` knows, by a COSE receipt.

    Raises: as `parse_cose`; VerificationError `unknown-log`, `quorum-not-met` (no receipt has cosignatures),
    `inclusion-proof-mismatch`, `cose-claim-mismatch`, `cose-signature-invalid`.
    """
    receipt = parse_cose(data)
    if receipt.origin is None:
        raise VerificationError("unknown-log", "the receipt does not say which log it is of", expected="the claim iss")
    keys = trust.logs.get(receipt.origin)
    if keys is None:
        raise VerificationError(
            "unknown-log", "the trust file does not know this log", got=receipt.origin,
            expected=", ".join(trust.logs) or "no log",
            hint="add its `log <vkey>` line to the trust file if you trust it",
        )  # fmt: skip
    if trust.quorum is not None:
        raise VerificationError(
            "quorum-not-met", "a COSE receipt holds no cosignatures, and the trust file asks for witnesses",
            hint="use the tlog-proof or the receipt of the same entry",
        )  # fmt: skip
    return check_inclusion(receipt, entry, keys)


def check_inclusion(receipt: CoseReceipt, entry: bytes, keys: Sequence[Verifier]) -> CoseProven:
    """Check an inclusion receipt against keys of one log, whatever issuer it claims. Raises: as `verify_cose`."""
    root = implied_root(receipt, entry)
    verifier = _check_signature(receipt, root, keys)
    size, index = receipt.numbers
    leaf = leaf_hash(entry).hex()
    return CoseProven(receipt.origin or verifier.name, root, size, index, leaf, receipt.at is not None)


def implied_root(receipt: CoseReceipt, entry: bytes) -> bytes:
    """Return the root that the receipt of `entry` leads to; whether somebody signed it is not looked at.

    Raises: MalformedError `cose-malformed`; VerificationError `inclusion-proof-mismatch`, `cose-claim-mismatch`.
    """
    if receipt.kind != _INCLUSION:
        raise _malformed("this receipt holds no inclusion proof", _NAMES[receipt.kind], "inclusion")
    leaf = leaf_hash(entry)
    size, index = receipt.numbers
    root = inclusion_root(leaf, index, size, receipt.path)
    if receipt.at is not None and receipt.subject != leaf.hex():
        raise VerificationError(
            "cose-claim-mismatch", "the receipt is of another entry", got=leaf.hex(), expected=receipt.subject
        )
    return root


def check_consistency(receipt: CoseReceipt, old_root: bytes, keys: Sequence[Verifier]) -> bytes:
    """Check a consistency receipt against an old root and keys of one log; return the new root.

    Raises: MalformedError `cose-malformed`; VerificationError `consistency-proof-mismatch`, `cose-claim-mismatch`,
    `cose-signature-invalid`.
    """
    if receipt.kind != _CONSISTENCY:
        raise _malformed("this receipt holds no consistency proof", _NAMES[receipt.kind], "consistency")
    root = _consistency_root(receipt.numbers[0], old_root, receipt.numbers[1], receipt.path)
    if receipt.at is not None and receipt.subject != old_root.hex():
        raise VerificationError(
            "cose-claim-mismatch", "the receipt is of another old root", got=old_root.hex(), expected=receipt.subject
        )
    _check_signature(receipt, root, keys)
    return root


def signed_bytes(protected: bytes, root: bytes) -> bytes:
    """Return the Sig_structure over a detached root. Source: RFC 9052 §4.4."""
    return encode_cbor(("Signature1", protected, b"", root))


def _sign(
    kind: int, numbers: tuple[int, int], path: Sequence[bytes], root: bytes, claims: Mapping[int | str, Cbor],
    verifier: Verifier, signer: RawSigner,
) -> bytes:  # fmt: skip
    if verifier.type != ED25519:
        raise VerificationError("cose-unsupported", "only an Ed25519 key of a log signs COSE receipts")
    protected = encode_cbor({_ALG: _EDDSA[0], _KID: verifier.key_id, _CLAIMS: claims, _VDS: _RFC9162})
    proof = encode_cbor((*numbers, tuple(path)))
    signature = signer.sign(signed_bytes(protected, root))
    data = encode_cbor(Tagged(_SIGN1, (protected, {_VDP: {kind: (proof,)}}, None, signature)))
    _check_signature(parse_cose(data), root, (verifier,))
    return data


def _check_header(header: Mapping[int | str, Cbor]) -> None:
    if header.get(_ALG) not in _EDDSA:
        raise MalformedError("cose-unsupported", "not signed with Ed25519", got=header.get(_ALG), expected=_EDDSA[0])
    if header.get(_VDS) != _RFC9162:
        raise MalformedError(
            "cose-unsupported", "not a tree of RFC 9162 with SHA-256", got=header.get(_VDS), expected=_RFC9162
        )
    critical = header.get(_CRIT, (_ALG,))
    known = {_ALG, _CRIT, _KID, _CLAIMS, _VDS}
    if not isinstance(critical, tuple) or not critical or any(not isinstance(c, int | str) for c in critical):
        raise _malformed("a critical header is a number or a text")
    if not all(c in known and c in header for c in critical):
        raise MalformedError("cose-unsupported", "a critical header that nobody here knows", got=critical)


def _read_proof(data: bytes) -> tuple[tuple[int, int], tuple[bytes, ...]]:
    match decode_cbor(data, ordered=False):
        case (first, second, tuple() as path):
            pass
        case _:
            raise _malformed("a proof is two numbers and a path")
    if len(path) > MAX_HASHES or not all(isinstance(value, bytes) and len(value) == HASH_SIZE for value in path):
        raise _malformed("a path has at most 63 hashes of 32 bytes", f"{len(path)} hashes")
    return _pair((first, second)), tuple(value for value in path if isinstance(value, bytes))


def _pair(value: Cbor) -> tuple[int, int]:
    match value:
        case (int() as first, int() as second) if 0 <= first <= MAX_SIZE and 0 <= second <= MAX_SIZE:
            return first, second
        case _:
            raise _malformed("a place is two numbers below 2**63", value)


def _consistency_root(old: int, old_root: bytes, new: int, path: Sequence[bytes]) -> bytes:
    """Return the new root that a consistency proof leads to from `old_root`."""
    nodes = tuple(path) if old & (old - 1) else (old_root, *path)
    found_old, found_new = prefix_roots(old, new, nodes)
    if found_old != old_root:
        raise VerificationError(
            "consistency-proof-mismatch", "the proof leads to another old root", got=found_old.hex(),
            expected=old_root.hex(),
        )  # fmt: skip
    return found_new


def _check_signature(receipt: CoseReceipt, root: bytes, keys: Sequence[Verifier]) -> Verifier:
    """Return the key that signed. The key ID chooses among several; nothing is believed because of it."""
    message = signed_bytes(receipt.protected, root)
    for key in keys:
        if key.type != ED25519 or receipt.kid not in (None, key.key_id):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(receipt.signature, message)
        except (InvalidSignature, ValueError):
            continue
        return key
    raise VerificationError(
        "cose-signature-invalid", "no key that we know for this log has signed the root that the proof leads to",
        got=f"key ID {receipt.kid.hex() if receipt.kid is not None else 'none'}, root {root.hex()}",
        expected=", ".join(key.key_id.hex() for key in keys),
        hint="the entry, the path or the signature is another one; or the key is not in your trust file",
    )  # fmt: skip


def _malformed(message: str, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError("cose-malformed", message, got=got, expected=expected)
