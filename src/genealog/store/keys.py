"""Private keys as files: PKCS #8 PEM, mode 0600, one file a key.

Log keys are Ed25519 (C2SP asks for it); the keys that sign statements are ECDSA P-256 (OMS asks for it) or Ed25519. A
key file that others can read is refused, as ssh does. Nothing here prints or returns private bytes, but for
`vault_key`, which the vault needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from genealog.core.dsse import keyid_of
from genealog.core.note import NoteSigner
from genealog.errors import MissingError, StoreError

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


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
        """Sign `data`: DER ECDSA over SHA-256, or 64 raw bytes of Ed25519."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        return self.private.sign(data, ec.ECDSA(hashes.SHA256()))


class KeyRing:
    """The key files of one store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, name: str, algorithm: str = "ecdsa-p256") -> KeySigner:
        """Make a key file. Raises: StoreError `key-exists`."""
        private: PrivateKey = (
            ed25519.Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        )
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._write(f"{name}.pem", pem)
        return KeySigner(private)

    def create_vault_key(self) -> None:
        """Make the 32-byte key that wraps the vault's data keys."""
        self._write("vault.key", os.urandom(32).hex().encode() + b"\n")

    def signer(self, name: str) -> KeySigner:
        """Return the signer called `name`.

        Raises: MissingError `no-key`; StoreError `key-readable` or `key-unreadable`.
        """
        try:
            private = serialization.load_pem_private_key(self._read(f"{name}.pem"), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise StoreError("key-unreadable", f"{name}.pem is not an unencrypted PKCS #8 key") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
            raise StoreError("key-unreadable", f"{name}.pem is of a kind not used here", expected="P-256 or Ed25519")
        return KeySigner(private)

    def note_signer(self, name: str, origin: str) -> NoteSigner:
        """Return the signer of the log `origin`, whose key file is called `name`."""
        private = self.signer(name).private
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise StoreError("key-unreadable", f"{name}.pem cannot sign a log", expected="Ed25519")
        return NoteSigner(origin, private)

    def vault_key(self) -> bytes:
        """Return the vault's 32-byte key."""
        try:
            key = bytes.fromhex(self._read("vault.key").decode("ascii", "replace"))
        except ValueError:
            key = b""
        if len(key) != 32:
            raise StoreError("key-unreadable", "vault.key is not 64 hex digits")
        return key

    def _read(self, file: str) -> bytes:
        path = self.path / file
        try:
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_mode & 0o077:
                    raise StoreError(
                        "key-readable", f"{file} can be read by others", hint=f"chmod 600 {path}, or replace the key"
                    )
                return stream.read()
        except FileNotFoundError:
            raise MissingError(
                "no-key", f"there is no key called {file.rpartition('.')[0]!r} here", hint="genealog signer ls"
            ) from None
        except OSError as error:
            raise StoreError("key-unreadable", f"{file} cannot be read", got=error.strerror) from None

    def _write(self, file: str, data: bytes) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise StoreError("key-exists", f"{file} is there already") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
