"""Private keys as files: PKCS #8 PEM, mode 0600, one file a key.

Log keys are Ed25519 (C2SP asks for it); the keys that sign statements are ECDSA P-256 (OMS asks for it) or Ed25519. A
key file that others can read is refused, as ssh does. Nothing here prints or returns private bytes, but for
`vault_key`, which the vault needs. Keys from elsewhere, a token or a variable, come through `signers.source`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from genealog.core.note import NoteSigner
from genealog.errors import MissingError, StoreError
from genealog.store.disk import disk, sync_folder, write_once
from genealog.store.signers.pem import KeySigner, PrivateKey, read_pem

_NEXT = "vault-next.key"

__all__ = ["KeyRing", "KeySigner"]


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

    def has(self, name: str) -> bool:
        """Say whether there is a key file called `name`."""
        return (self.path / f"{name}.pem").exists()

    def create_vault_key(self) -> None:
        """Make the 32-byte key that wraps the vault's data keys."""
        self._write("vault.key", os.urandom(32).hex().encode() + b"\n")

    def ensure_vault_key(self) -> None:
        """As `create_vault_key`, unless there is one."""
        if not (self.path / "vault.key").exists():
            with suppress(StoreError):  # another process of this machine was quicker
                self.create_vault_key()

    def signer(self, name: str, password: Callable[[], str] | None = None) -> KeySigner:
        """Return the signer called `name`; `password` is asked only if its file is encrypted.

        Raises: MissingError `no-key`; StoreError `key-readable`, `key-unreadable`, `key-password`.
        """
        return read_pem(self._read(f"{name}.pem"), f"{name}.pem", password)

    def note_signer(self, name: str, origin: str) -> NoteSigner:
        """Return the signer of the log `origin`, whose key file is called `name`."""
        private = self.signer(name).private
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise StoreError("key-unreadable", f"{name}.pem cannot sign a log", expected="Ed25519")
        return NoteSigner(origin, private)

    def vault_key(self) -> bytes:
        """Return the vault's 32-byte key."""
        return self._vault_key("vault.key")

    def vault_keys(self) -> tuple[bytes, ...]:
        """Return the keys that may open the vault: two while it gets a new one (`store.vault.rotate`), else one."""
        if not (self.path / _NEXT).exists():
            return (self._vault_key("vault.key"),)
        found = []
        for name in ("vault.key", _NEXT):
            try:
                found.append(self._vault_key(name))
            except StoreError:  # one of them was not written whole, or is overwritten already
                continue
        return tuple(found) or (self._vault_key("vault.key"),)

    def next_vault_key(self) -> bytes | None:
        """Return the key that the vault is about to get, or has got a moment ago; None without one."""
        try:
            return self._vault_key(_NEXT)
        except (MissingError, StoreError):
            return None

    def begin_vault_key(self) -> bytes:
        """Return a new vault key that is kept beside the old one; what an earlier try left there is gone."""
        (self.path / _NEXT).unlink(missing_ok=True)
        key = os.urandom(32)
        self._write(_NEXT, key.hex().encode() + b"\n")
        sync_folder(self.path)
        return key

    def finish_vault_key(self) -> None:
        """Overwrite the old vault key, and give its name to the new one. One process at a time."""
        with disk("destroying the old vault key"):
            old = self.path / "vault.key"
            with old.open("r+b") as stream:
                stream.write(b"0" * 63 + b"x\n")  # no key, so that nobody takes it for one
                stream.flush()
                os.fsync(stream.fileno())
            (self.path / _NEXT).replace(old)
            sync_folder(self.path)

    def _vault_key(self, file: str) -> bytes:
        try:
            key = bytes.fromhex(self._read(file).decode("ascii", "replace"))
        except ValueError:
            key = b""
        if len(key) != 32:
            raise StoreError("key-unreadable", f"{file} is not 64 hex digits")
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
        """Make a file that is there whole or not at all, and never replaces another."""
        temporary = self.path / f"{file}.{os.getpid()}.tmp"
        with disk(f"writing {file}"):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                try:
                    write_once(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.link(temporary, self.path / file)
            except FileExistsError:
                raise StoreError("key-exists", f"{file} is there already") from None
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            sync_folder(self.path)
