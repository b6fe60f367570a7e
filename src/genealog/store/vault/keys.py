"""The keys of the vault, and how everything in it is closed.

    vault key (a file)  wraps  a key per tenant  wraps  a key per subject  gives, with 16 random bytes in the row of
    the call, a key per call, under which each of its columns is AES-256-GCM

Whoever destroys one of these has erased everything below it. Every ciphertext has its place as additional data, so
that nothing can be moved. Only the vault key is outside of the database; what is looked up by it (digests of texts,
names of subjects) is masked under it as well, so that a backup under a vault key that is gone gives nothing away.

No file or database here. Nothing in an error tells a key.
"""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from genealog.errors import MalformedError

KEY = 32
SHARE = 16
_NONCE = 12
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
_BLANKS = b"\t\n\v\f\r\x1c\x1d\x1e\x1f"  # what ASCII has of white space besides " "


def derive(key: bytes, label: bytes) -> bytes:
    """Return a 32-byte key for one purpose. Source: SP 800-108 (HMAC as the function, one block)."""
    return hmac.digest(key, label, "sha256")


class Hmac:
    """HMAC-SHA256 of many values under one key of at most 64 bytes, which is hashed once. Source: RFC 2104."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def digest(self, value: bytes) -> bytes:
        """Return what `hmac.digest` does, in half of the time for a short value."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return outer.digest()


def encrypt(cipher: AESGCM, value: bytes, place: bytes) -> bytes:
    """Return nonce ‖ ciphertext ‖ tag."""
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, value, place)


def decrypt(cipher: AESGCM, value: bytes, place: bytes) -> bytes:
    """Open what `encrypt` closed. Raises: InvalidTag, also for a value that is too short to be one."""
    if len(value) < _NONCE + 16:
        raise InvalidTag
    return cipher.decrypt(value[:_NONCE], value[_NONCE:], place)


class VaultKey:
    """What the vault key does: wrap tenants' keys, mask what is looked up. Raises: MalformedError `bad-vault-key`."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY:
            raise MalformedError("bad-vault-key", "a vault key has 32 bytes", got=len(key))
        self.wrap = AESGCM(derive(key, b"genealog/vault/wrap/v1"))
        self.text_v1 = derive(key, b"genealog/vault/text/v1")  # of a vault of format 1, which had no other
        # ECB over values that are outputs of HMAC: equal ones must stay equal, and no block repeats by itself.
        cipher = Cipher(algorithms.AES256(derive(key, b"genealog/vault/mask/v2")), modes.ECB())  # noqa: S305
        self._masking, self._unmasking = cipher.encryptor(), cipher.decryptor()

    def mask(self, digest: bytes) -> bytes:
        """Return `digest` (a multiple of 16 bytes) as the database may show it; always the same."""
        return self._masking.update(digest)

    def unmask(self, masked: bytes) -> bytes:
        """Return what was masked."""
        return self._unmasking.update(masked)

    def seal_tenant(self, name: str, key: bytes) -> bytes:
        """Wrap the key of a tenant."""
        return encrypt(self.wrap, key, b"tenant\0" + name.encode())

    def open_tenant(self, name: str, wrapped: bytes) -> TenantKey:
        """Unwrap the key of a tenant. Raises: InvalidTag."""
        return TenantKey(decrypt(self.wrap, wrapped, b"tenant\0" + name.encode()))


class TenantKey:
    """What a tenant's key does: name its subjects, wrap their keys."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._name = derive(key, b"genealog/vault/subject-name/v2")
        self._wrap = AESGCM(derive(key, b"genealog/vault/subject/v2"))

    @property
    def raw(self) -> bytes:
        """The key itself, to be wrapped anew."""
        return self._key

    def name(self, subject: str) -> bytes:
        """Return the keyed digest that stands for a subject; empty for none."""
        return hmac.digest(self._name, subject.encode("utf-8", "surrogatepass"), "sha256") if subject else b""

    def seal_subject(self, name: bytes, key: bytes) -> bytes:
        """Wrap the key of the subject with this digest."""
        return encrypt(self._wrap, key, b"subject\0" + name)

    def open_subject(self, name: bytes, wrapped: bytes) -> bytes:
        """Unwrap the key of a subject. Raises: InvalidTag."""
        return decrypt(self._wrap, wrapped, b"subject\0" + name)


class CallKey:
    """Closes and opens the columns of one call. `subject` has the key of its subject; `share` is its own random part,
    which a call of format 1 does not have.
    """

    __slots__ = ("_cipher", "_place")

    def __init__(self, subject: Hmac, call: str, share: bytes) -> None:
        self._place = call.encode() + b"\0"
        label = b"genealog/vault/call/v2\0%s\0%s" if share else b"genealog/vault/call/v1\0%s%s"
        self._cipher = AESGCM(subject.digest(label % (call.encode(), share)))

    def close(self, column: str, value: bytes, nonce: bytes) -> bytes:
        """Close a value. `nonce` has 12 random bytes."""
        return nonce + self._cipher.encrypt(nonce, value, self._place + column.encode())

    def open(self, column: str, value: bytes) -> bytes:
        """Open a value. Raises: InvalidTag."""
        return decrypt(self._cipher, value, self._place + column.encode())


def fresh(count: int) -> tuple[bytes, list[bytes]]:
    """Return a share and `count` nonces, all from one look at the system's randomness."""
    random = os.urandom(SHARE + _NONCE * count)
    return random[:SHARE], [random[at : at + _NONCE] for at in range(SHARE, len(random), _NONCE)]


class TextKey:
    """Digests of texts: exact, and with white space normalised."""

    def __init__(self, key: bytes) -> None:
        self.raw = key
        self._mac = Hmac(key)

    def digests(self, text: bytes) -> dict[Literal["exact", "normalised"], bytes]:
        """Return what a text is found by: the digest of it as it is, and of its words where it has some."""
        found: dict[Literal["exact", "normalised"], bytes] = {"exact": self._mac.digest(b"exact\0" + text)}
        if words := _words(text):
            found["normalised"] = self._mac.digest(b"normalised\0" + words)
        return found


def _words(text: bytes) -> bytes:
    """Return the words of a text, a blank between each two. Most texts are that already."""
    if (
        text.isascii()
        and b"  " not in text
        and text.strip(b" ") == text
        and len(text.translate(None, _BLANKS)) == len(text)
    ):
        return text
    return " ".join(text.decode("utf-8", "replace").split()).encode()


def pack_number(number: int) -> bytes:
    """Spell a counter of `meta`."""
    return struct.pack(">Q", number)


def unpack_number(value: bytes) -> int:
    """Read a counter of `meta`."""
    return int(struct.unpack(">Q", value)[0])
