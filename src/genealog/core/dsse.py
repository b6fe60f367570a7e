"""DSSE envelopes: a payload, its type, and signatures over both.

    {"payload": base64, "payloadType": text, "signatures": [{"keyid": hex, "sig": base64}]}

Signed bytes are PAE(type, payload), so a signature for one type never verifies as another.
A key is identified by the hex SHA-256 of its DER SubjectPublicKeyInfo. ECDSA P-256 signatures are DER over
SHA-256; Ed25519 signatures are 64 raw bytes. Our envelopes are canonical JSON and have one signature, so that it is
plain who spoke: a second identity makes a second statement. Foreign envelopes are not read here.
Source: secure-systems-lab/dsse v1.0.2 (protocol.md, envelope.md).
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from genealog.core.canonical import Record, decode, encode
from genealog.core.ids import sha256_hex
from genealog.core.spelling import decode_base64
from genealog.errors import MalformedError, VerificationError

IN_TOTO = "application/vnd.in-toto+json"
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Signature(Record):
    """One signature and the key that it claims."""

    keyid: str
    sig: str


class Envelope(Record):
    """A DSSE envelope in canonical JSON."""

    payload: str
    payloadType: str  # noqa: N815 - the wire name
    signatures: tuple[Signature, ...]


class Signer(Protocol):
    """Whoever can sign: a key file, an HSM, a key service."""

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of the DER SubjectPublicKeyInfo."""

    @property
    def public_der(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def keyid_of(public_der: bytes) -> str:
    """Return the key ID of a DER SubjectPublicKeyInfo."""
    return sha256_hex(public_der)


@lru_cache(maxsize=256)  # a log has few keys and many signatures
def load_public_key(public_der: bytes) -> PublicKey:
    """Read a DER SubjectPublicKeyInfo: P-256 or Ed25519. Raises: MalformedError `bad-public-key`."""
    try:
        key = serialization.load_der_public_key(public_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("bad-public-key", "not a DER public key", got=str(error)[:80]) from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise MalformedError("bad-public-key", "an unsupported kind of key", expected="ECDSA P-256 or Ed25519")


def verify_signature(public_der: bytes, signature: bytes, data: bytes) -> None:
    """Check one signature. Raises: VerificationError `signature-invalid`."""
    key = load_public_key(public_der)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(
            "signature-invalid", "the signature does not verify", got=f"key {keyid_of(public_der)[:16]}…"
        ) from None


def sign_envelope(payload: bytes, signer: Signer, payload_type: str = IN_TOTO) -> bytes:
    """Return the canonical envelope of `payload`, signed once."""
    signature = Signature(keyid=signer.keyid, sig=_b64(signer.sign(pae(payload_type, payload))))
    return encode(Envelope(payload=_b64(payload), payloadType=payload_type, signatures=(signature,)))


def open_envelope(data: bytes, payload_type: str = IN_TOTO) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """Return payload bytes and the one (keyid, signature) pair, verifying nothing.

    Raises: MalformedError `wrong-payload-type`, `bad-base64`, `unsigned`, `many-signatures` or those of `decode`.
    """
    envelope = decode(data, Envelope)
    if envelope.payloadType != payload_type:
        raise MalformedError(
            "wrong-payload-type", "another kind of envelope", got=envelope.payloadType, expected=payload_type
        )
    if not envelope.signatures:
        raise MalformedError("unsigned", "an envelope without a signature")
    if len(envelope.signatures) > 1:
        raise MalformedError(
            "many-signatures", "an envelope of ours has one signature", got=len(envelope.signatures), expected=1
        )
    return unb64(envelope.payload), tuple((item.keyid, unb64(item.sig)) for item in envelope.signatures)


def verify_envelope(data: bytes, keys: dict[str, bytes], payload_type: str = IN_TOTO) -> tuple[bytes, str]:
    """Return the payload and the ID of the key that signed it, which is one of `keys` (key ID to DER public key).

    Raises: VerificationError `signer-unknown` or `signature-invalid`; MalformedError as `open_envelope`.
    """
    payload, ((keyid, signature),) = open_envelope(data, payload_type)
    if keyid not in keys:
        raise VerificationError("signer-unknown", "signed by a key that nobody registered", got=keyid)
    verify_signature(keys[keyid], signature, pae(payload_type, payload))
    return payload, keyid


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    """Read base64 as we write it: standard alphabet, padded, no stray bits. Raises: MalformedError `bad-base64`."""
    return decode_base64(text.encode("utf-8", "replace"), code="bad-base64")
