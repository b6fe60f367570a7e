"""The sigstore bundle around a signed model: an envelope with one signature, and how to find the key that made it.

    {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
     "verificationMaterial": {"publicKey" | "x509CertificateChain" | "certificate": {…}, "tlogEntries": […]},
     "dsseEnvelope": {"payload": base64, "payloadType": …, "signatures": [{"sig": base64, "keyid": ""}]}}

Reads what others wrote and keeps the signed bytes as they came: the payload need not be canonical. What an older
release wrote with a broken encoding is told apart and answered as unsupported, never as valid. Verifies nothing.
Sources: sigstore/protobuf-specs sigstore_bundle.proto; ossf/model-signing-spec v1.0; secure-systems-lab/dsse v1.0.2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from genealog.core.dsse import IN_TOTO, pae
from genealog.errors import MalformedError, MissingError, VerificationError
from genealog.interop.oms.strict import malformed, member, read_json, unbase64

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE = 128 << 20  # bytes: a model of a million files has some 150 of them each
MAX_CERTIFICATES = 16
MAX_STAMPS = 32
_OLD = 16 << 20  # bytes of payload up to which the broken encoding is tried: it takes four times as many
Method = Literal["key", "certificate", "sigstore"]
_HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "secp256r1": hashes.SHA256, "secp384r1": hashes.SHA384, "secp521r1": hashes.SHA512,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it came. `hint` names the key, `chain` is DER certificates, leaf first; nothing is verified."""

    method: Method
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    hint: str | None
    chain: tuple[bytes, ...] = field(repr=False)
    stamps: tuple[bytes, ...] = field(repr=False)  # RFC 3161 replies over the signature
    data: bytes = field(repr=False)


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle.

    Raises: MalformedError `oms-malformed`, `oms-too-big`; MissingError `oms-unsupported` for what is a sigstore bundle
    and no OMS v1.0 signature.
    """
    value = read_json(data, "the bundle", limit=MAX_BUNDLE)
    media = member(value, "mediaType", str, "the bundle")
    if not media.startswith("application/vnd.dev.sigstore.bundle"):
        raise malformed("the bundle", f"media type {media[:80]!r}")
    if "dsseEnvelope" not in value:
        raise unsupported("a bundle without a DSSE envelope: it signs one blob, no model")
    envelope = member(value, "dsseEnvelope", dict, "the bundle")
    signatures = member(envelope, "signatures", list, "the envelope")
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise malformed("the envelope", f"{len(signatures)} signatures; a bundle has exactly one")
    if member(envelope, "payloadType", str, "the envelope") != IN_TOTO:
        raise unsupported(f"an envelope of {envelope['payloadType'][:80]!r}")
    material = member(value, "verificationMaterial", dict, "the bundle")
    method, hint, chain = _material(material)
    stamps = _dict(material.get("timestampVerificationData") or {}, "the timestamps").get("rfc3161Timestamps") or []
    if not isinstance(stamps, list) or len(stamps) > MAX_STAMPS:
        raise malformed("the timestamps", f"no list of at most {MAX_STAMPS}")
    return Bundle(
        method=method, hint=hint, chain=chain, data=data,
        payload=unbase64(envelope.get("payload"), "the payload"),
        signature=unbase64(signatures[0].get("sig"), "the signature"),
        stamps=tuple(unbase64(_dict(each, "a timestamp").get("signedTimestamp"), "a timestamp") for each in stamps),
    )  # fmt: skip


def _material(material: dict[str, Any]) -> tuple[Method, str | None, tuple[bytes, ...]]:
    kinds = [name for name in ("publicKey", "x509CertificateChain", "certificate") if material.get(name) is not None]
    if len(kinds) != 1:
        raise malformed("the verification material", f"{' and '.join(kinds) or 'none'}; expected one kind")
    logged = bool(material.get("tlogEntries"))
    inner = member(material, kinds[0], dict, "the verification material")
    if kinds == ["publicKey"]:
        if "rawBytes" in inner:  # model-signing 0.3.1 to 1.0.0: the key itself, which nobody may believe
            return "key", key_hint_of_pem(unbase64(inner["rawBytes"], "the public key")), ()
        return "key", member(inner, "hint", str, "the public key"), ()
    listed = [inner] if kinds == ["certificate"] else member(inner, "certificates", list, "the chain")
    if not 1 <= len(listed) <= MAX_CERTIFICATES:
        raise malformed("the chain", f"{len(listed)} certificates; expected 1 to {MAX_CERTIFICATES}")
    chain = tuple(unbase64(_dict(each, "a certificate").get("rawBytes"), "a certificate") for each in listed)
    return "sigstore" if logged else "certificate", None, chain


def write_bundle(
    payload: bytes, signature: bytes, *, public: ec.EllipticCurvePublicKey, chain: Sequence[x509.Certificate] = ()
) -> bytes:
    """Return a bundle as `model-signing` writes one: by `public` alone, or with its certificate chain, leaf first."""
    material: dict[str, Any] = {"publicKey": {"hint": key_hint(public)}}
    if chain:
        der = [each.public_bytes(serialization.Encoding.DER) for each in chain]
        material = {"x509CertificateChain": {"certificates": [{"rawBytes": _b64(each)} for each in der]}}
    envelope = {
        "payload": _b64(payload), "payloadType": IN_TOTO, "signatures": [{"sig": _b64(signature), "keyid": ""}],
    }  # fmt: skip
    value = {
        "mediaType": MEDIA_TYPE, "verificationMaterial": material | {"tlogEntries": []}, "dsseEnvelope": envelope,
    }  # fmt: skip
    return json.dumps(value, separators=(",", ":")).encode()


def signed_bytes(payload: bytes) -> bytes:
    """Return what is signed: the pre-authentication encoding of DSSE."""
    return pae(IN_TOTO, payload)


def check_signature(bundle: Bundle, public: ec.EllipticCurvePublicKey) -> None:
    """Check the signature of a bundle by `public`, with the hash that belongs to its curve.

    Raises: VerificationError `signature-invalid`; MissingError `oms-unsupported` where it only verifies over the
    broken encoding of `model-signing` 0.2.0, which does not say where the payload ends.
    """
    if _verifies(public, bundle.signature, signed_bytes(bundle.payload), hash_for(public)):
        return
    old = len(bundle.payload) <= _OLD and _verifies(
        public, bundle.signature, _broken_pae(bundle.payload), hashes.SHA256()
    )
    if old:
        raise unsupported("a signature of model-signing 0.2.0, over a broken encoding")
    raise VerificationError("signature-invalid", "the signature does not verify", got=f"key {key_hint(public)[:16]}…")


def hash_for(public: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    """Return the hash that OMS pairs with a curve. Raises: MalformedError `bad-public-key`."""
    if public.curve.name not in _HASHES:
        raise MalformedError(
            "bad-public-key", "not a key that OMS knows", got=public.curve.name, expected="P-256, P-384 or P-521"
        )
    return _HASHES[public.curve.name]()


def oms_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read a public key, PEM or DER, of a kind that OMS knows. Raises: MalformedError `bad-public-key`."""
    try:
        load = serialization.load_pem_public_key if b"-----BEGIN" in data else serialization.load_der_public_key
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        hint = "that is a private key: openssl pkey -in KEY -pubout" if b"PRIVATE KEY-----" in data else None
        raise MalformedError("bad-public-key", "not a public key in PEM or DER", hint=hint) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError(
            "bad-public-key", "OMS has no signatures by such a key", got=type(key).__name__,
            expected="P-256, P-384 or P-521",
        )  # fmt: skip
    hash_for(key)
    return key


def is_oms_key(data: bytes) -> bool:
    """Say whether `oms_key` reads it."""
    try:
        oms_key(data)
    except MalformedError:
        return False
    return True


def key_hint(public: ec.EllipticCurvePublicKey) -> str:
    """Return how a bundle names a key: hex SHA-256 of its PEM text."""
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key_hint_of_pem(pem)


def key_hint_of_pem(pem: bytes) -> str:
    """Return the hex SHA-256 of a PEM text."""
    return hashlib.sha256(pem).hexdigest()


def unsupported(got: str) -> MissingError:
    """Return the error for what is signed in a way that cannot be judged here."""
    return MissingError(
        "oms-unsupported", "this signature is of a kind that is not verified here", got=got,
        hint="ask for a signature in the format OMS v1.0, as model-signing 1.0.1 and later write it",
    )  # fmt: skip


def _verifies(public: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, by: hashes.HashAlgorithm) -> bool:
    try:
        public.verify(signature, message, ec.ECDSA(by))
    except InvalidSignature:
        return False
    return True


def _broken_pae(payload: bytes) -> bytes:
    return f"DSSEV1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} {payload!r}".encode()


def _dict(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise malformed(what, "not a JSON object")
    return value


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
