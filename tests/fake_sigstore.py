"""A fake sigstore: a Fulcio, a certificate log and a Rekor in one object, with keys made here and real wire formats.

It stands in for services that cannot be reached from a test. What it makes is verified by the real `sigstore` library,
under the trusted root that it hands out. Each part of it can be told to lie.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import NOW, Party, authority, name, usage
from genealog.core.dsse import IN_TOTO
from genealog.core.merkle import leaf_hash, node_hash
from genealog.interop.oms.bundle import MEDIA_TYPE, signed_bytes

ISSUER = "https://accounts.example.org"
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


@dataclass
class FakeSigstore:
    """Keys of all its parts. `lies` names what goes wrong: `sct`, `set`, `checkpoint`, `proof`, `body`, `late`."""

    root: Party = field(default_factory=lambda: authority("fake fulcio root"))
    ct: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    rekor: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    lies: frozenset[str] = frozenset()
    tsa: tuple[bytes, ...] = ()  # DER certificates of a timestamp authority, its own first

    def __post_init__(self) -> None:
        self.intermediate = authority("fake fulcio", self.root)

    def trusted_root(self) -> bytes:
        """What a verifier is given: the keys of all parts."""
        since = {"start": (NOW - timedelta(days=400)).strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey, url: str) -> dict[str, Any]:
            public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            log_id = {"keyId": b64(hashlib.sha256(spki(key)).digest())}
            return {"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": log_id}

        def chain(*certificates: bytes) -> dict[str, Any]:
            return {
                "subject": {"organization": "fake", "commonName": "fake"}, "uri": "https://fake.example.org",
                "certChain": {"certificates": [{"rawBytes": b64(each)} for each in certificates]}, "validFor": since,
            }  # fmt: skip

        value = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor, "https://rekor.example.org")],
            "certificateAuthorities": [chain(self.intermediate.der, self.root.der)],
            "ctlogs": [log(self.ct, "https://ct.example.org")],
            "timestampAuthorities": [chain(*self.tsa)] if self.tsa else [],
        }
        return json.dumps(value).encode()

    def certify(self, key: ec.EllipticCurvePrivateKey, identity: str, at: datetime) -> x509.Certificate:
        """Vouch for an identity for ten minutes, with an embedded SCT."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - timedelta(seconds=5))
            .not_valid_after(at + timedelta(minutes=10))
            .add_extension(usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.intermediate.key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER, bytes([0x0C, len(ISSUER)]) + ISSUER.encode()), critical=False
            )
        )
        bare = builder.sign(self.intermediate.key, hashes.SHA384())
        stamped = builder.add_extension(
            x509.UnrecognizedExtension(_SCT_LIST, self._scts(bare.tbs_certificate_bytes, at)), critical=False
        )
        return stamped.sign(self.intermediate.key, hashes.SHA384())

    def _scts(self, tbs: bytes, at: datetime) -> bytes:
        when = int(at.timestamp() * 1000)
        issuer = hashlib.sha256(spki(self.intermediate.key)).digest()
        signed = struct.pack("!BBQH", 0, 0, when, 1) + issuer + len(tbs).to_bytes(3) + tbs + b"\0\0"
        signature = sign(new_key() if "sct" in self.lies else self.ct, signed)
        sct = b"\0" + hashlib.sha256(spki(self.ct)).digest() + struct.pack("!QH", when, 0)
        sct += b"\x04\x03" + len(signature).to_bytes(2) + signature
        listed = (len(sct) + 2).to_bytes(2) + len(sct).to_bytes(2) + sct
        size = bytes([len(listed)]) if len(listed) < 128 else bytes([0x81, len(listed)])
        return b"\x04" + size + listed

    def sign(self, payload: bytes, identity: str = "models@example.org", *, stamp: Any = None, ago: int = 30) -> bytes:
        """Sign a payload keyless, `ago` days ago, and return the bundle. `stamp` makes an RFC 3161 reply."""
        key, at = new_key(), datetime.now(UTC) - timedelta(days=ago)  # now: the suite may have begun long ago
        certificate = self.certify(key, identity, at)
        signature = sign(key, signed_bytes(payload))
        logged = at + (timedelta(minutes=30) if "late" in self.lies else timedelta(seconds=1))
        material: dict[str, Any] = {
            "certificate": {"rawBytes": b64(certificate.public_bytes(serialization.Encoding.DER))},
            "tlogEntries": [self._entry(payload, signature, certificate, int(logged.timestamp()))],
        }
        if stamp is not None:
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(stamp(signature))}]}
        envelope = {"payload": b64(payload), "payloadType": IN_TOTO, "signatures": [{"sig": b64(signature)}]}
        return json.dumps({
            "mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope,
        }).encode()  # fmt: skip

    def _entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate, at: int) -> dict[str, Any]:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        logged = b"another payload" if "body" in self.lies else payload
        body = rfc8785.dumps({
            "apiVersion": "0.0.1", "kind": "dsse", "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"any").hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(logged).hexdigest()},
                "signatures": [{"signature": b64(signature), "verifier": b64(pem)}],
            },
        })  # fmt: skip
        leaves = [leaf_hash(b"one"), leaf_hash(b"two"), leaf_hash(body), leaf_hash(b"three")]
        left, right = node_hash(*leaves[:2]), node_hash(*leaves[2:])
        root, path = node_hash(left, right), (leaves[3], left)
        log_id = hashlib.sha256(spki(self.rekor)).digest()
        text = f"rekor.example.org - 1\n{len(leaves)}\n{b64(root)}\n"
        note = sign(new_key() if "checkpoint" in self.lies else self.rekor, text.encode())
        promise = rfc8785.dumps({"body": b64(body), "integratedTime": at, "logID": log_id.hex(), "logIndex": 1002})
        signed = sign(new_key() if "set" in self.lies else self.rekor, promise)
        if "proof" in self.lies:
            path = tuple(reversed(path))
        return {
            "logIndex": "1002", "logId": {"keyId": b64(log_id)}, "integratedTime": str(at),
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "inclusionPromise": {"signedEntryTimestamp": b64(signed)},
            "inclusionProof": {
                "logIndex": "2", "rootHash": b64(root), "treeSize": str(len(leaves)),
                "hashes": [b64(each) for each in path],
                "checkpoint": {"envelope": f"{text}\n— rekor.example.org {b64(log_id[:4] + note)}\n"},
            },
            "canonicalizedBody": b64(body),
        }  # fmt: skip


__all__ = ["ISSUER", "FakeSigstore", "name"]
