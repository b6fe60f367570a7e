"""Private keys in PEM, with or without a password, and the signer over a key in memory.

ECDSA keys sign with the hash that belongs to their curve: P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512.
Statements of the log are signed by P-256 or Ed25519 alone; the bigger curves sign for other tools (OMS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from genealog.core.dsse import keyid_of
from genealog.errors import StoreError

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
CURVES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "secp256r1": hashes.SHA256, "secp384r1": hashes.SHA384, "secp521r1": hashes.SHA512,
}  # fmt: skip


@dataclass(frozen=True)
class KeySigner:
    """A DSSE signer over a private key in memory."""

    private: PrivateKey = field(repr=False)

    @property
    def public_der(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of `public_der`."""
        return keyid_of(self.public_der)

    def sign(self, data: bytes) -> bytes:
        """Sign `data`: DER ECDSA over the hash of the curve, or 64 raw bytes of Ed25519."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        return self.private.sign(data, ec.ECDSA(CURVES[self.private.curve.name]()))


def read_pem(data: bytes, name: str, password: Callable[[], str] | None = None) -> KeySigner:
    """Read a private key; `password` is asked only if it is encrypted.

    Raises: StoreError `key-unreadable`, `key-password`.
    """
    try:
        private: Any = serialization.load_pem_private_key(data, password=None)
    except TypeError:  # how the library says that it is encrypted
        if password is None:
            raise _unreadable(name, "not an unencrypted PKCS #8 key") from None
        private = _decrypt(data, name, password())
    except (ValueError, UnsupportedAlgorithm):
        raise _unreadable(name, "not a private key in PEM") from None
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return KeySigner(private)
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        return KeySigner(private)
    raise StoreError("key-unreadable", f"{name} is of a kind not used here", expected="P-256, P-384, P-521 or Ed25519")


def _decrypt(data: bytes, name: str, password: str) -> Any:
    try:
        return serialization.load_pem_private_key(data, password=password.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StoreError(
            "key-password", f"{name} does not open with this password",
            hint="check where the password comes from: `secret` of this identity in genealog.toml",
        ) from None  # fmt: skip


def _unreadable(name: str, what: str) -> StoreError:
    return StoreError("key-unreadable", f"{name} is {what}")
