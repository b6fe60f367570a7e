"""Signed notes: a text, and lines that say which key signed it.

    log.example/genealog                                          ─┐
    8                                                              │ text: UTF-8, ends in LF
    XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=                  ─┘
                                                                     the last empty line
    — log.example/genealog KJOKonH38D…KQww=                          name, base64(key ID[4] || signature)
    — witness.example/w1 IDJKvgAAAABpVbkA…j5CA==                     a cosignature: key ID[4] || time[8] || signature

    key ID = SHA-256(name || 0A || type || public key)[:4]           vkey = name+hex(key ID)+base64(type || public key)

    type 01  Ed25519 over the text
    type 04  Ed25519 over "cosignature/v1\\ntime <time>\\n" || text
    type 06  ML-DSA-44 over the cosigned message of the checkpoint in the text (see `_subtree_message`)

Signatures by keys that the caller does not know are ignored. A known key whose signature fails rejects the note,
because somebody altered it. Nothing here decides which keys to trust (`trust`) or what the text means (`checkpoint`).

Source: c2sp.org/signed-note, c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.spelling import MAX_SIZE, decode_base64, encode_base64
from genealog.errors import GenealogError, MalformedError, VerificationError

ED25519 = 0x01
COSIGNATURE_ED25519 = 0x04
COSIGNATURE_MLDSA44 = 0x06

MAX_NOTE = 1_000_000  # bytes; a note with 100 ML-DSA-44 cosignatures has about 330,000
MAX_SIGNATURES = 100  # the format asks for at least 16

_PUBLIC_BYTES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}
_SIGNATURE_BYTES = {ED25519: 64, COSIGNATURE_ED25519: 8 + 64, COSIGNATURE_MLDSA44: 8 + 2420}
_DASH = "— ".encode()
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under a name. Made by `parse_vkey` or a signer; `type` is one of the three above."""

    name: str
    key_id: bytes
    type: int
    public: bytes = field(repr=False)

    def verify(self, text: bytes, blob: bytes) -> int | None:
        """Check what follows the key ID in a signature line over `text`; return its POSIX time, None for type 01.

        Raises: VerificationError `note-signature-invalid`, `signature-unsupported`.
        """
        if len(blob) != _SIGNATURE_BYTES[self.type]:
            raise _invalid(self.name, f"{len(blob)} bytes")
        try:
            if self.type == ED25519:
                Ed25519PublicKey.from_public_bytes(self.public).verify(blob, text)
                return None
            signed_at, signature = int.from_bytes(blob[:8], "big"), blob[8:]
            message = cosigned_message(self.type, self.name, signed_at, text)
            if self.type == COSIGNATURE_ED25519:
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
            else:
                MLDSA44PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise _invalid(self.name, None) from None
        except MalformedError as error:
            raise _invalid(self.name, str(error)) from None
        except UnsupportedAlgorithm:
            raise VerificationError(
                "signature-unsupported",
                "the installed cryptography library cannot check ML-DSA-44",
                got=self.name,
                hint="install a current wheel of the cryptography package",
            ) from None
        return signed_at


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line as it stands, unchecked. `blob` is what follows the 4-byte key ID."""

    name: str
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note whose signatures are unchecked: do not use its text."""

    text: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that was checked. `signed_at` is the cosigner's POSIX time in seconds, None for a plain signature."""

    verifier: Verifier
    signed_at: int | None


@dataclass(frozen=True, slots=True)
class OpenNote:
    """A note whose text at least one known key has signed."""

    text: bytes
    signatures: tuple[Verified, ...]


class NoteSigner:
    """Signs notes with an Ed25519 key (type 01): the key of a log."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = make_verifier(name, ED25519, private.public_key().public_bytes_raw())
        self.name = name

    def sign(self, text: bytes) -> bytes:
        """Return the signature line over `text`, with its LF."""
        return signature_line(self.verifier, self._private.sign(text))


class Cosigner:
    """Cosigns checkpoints with an Ed25519 (type 04) or ML-DSA-44 (type 06) key: the key of a witness.

    Whoever calls it must have checked consistency with the checkpoint that it cosigned before, and must use an
    Ed25519 key under one name only, because the signed message does not hold the name.
    """

    def __init__(self, name: str, private: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
        self._private = private
        kind = COSIGNATURE_ED25519 if isinstance(private, Ed25519PrivateKey) else COSIGNATURE_MLDSA44
        self.verifier = make_verifier(name, kind, private.public_key().public_bytes_raw())
        self.name = name

    def cosign(self, text: bytes, signed_at: int) -> bytes:
        """Return the cosignature line over checkpoint `text` at POSIX time `signed_at` (seconds), with its LF.

        Raises: MalformedError `checkpoint-malformed`, `time-out-of-range`.
        """
        parse_checkpoint_text(text)
        message = cosigned_message(self.verifier.type, self.name, signed_at, text)
        return signature_line(self.verifier, signed_at.to_bytes(8, "big") + self._private.sign(message))


def make_verifier(name: str, type: int, public: bytes) -> Verifier:  # noqa: A002 - the format's own word
    """Return the verifier for a raw public key. Raises: MalformedError `vkey-malformed`, `vkey-unsupported`."""
    if not _NAME.fullmatch(name):
        raise MalformedError(
            "vkey-malformed", "a key name is not empty and has no space, '+' or control", got=repr(name)
        )
    if type not in _PUBLIC_BYTES:
        raise MalformedError(
            "vkey-unsupported", "not a signature type that we verify", got=f"0x{type:02x}", expected="0x01, 0x04, 0x06"
        )
    if len(public) != _PUBLIC_BYTES[type]:
        raise MalformedError(
            "vkey-malformed", "a public key of the wrong length", got=len(public), expected=_PUBLIC_BYTES[type]
        )
    digest = hashlib.sha256(name.encode() + b"\n" + bytes([type]) + public).digest()
    return Verifier(name, digest[:4], type, public)


def parse_vkey(text: str) -> Verifier:
    """Read `<name>+<key ID>+<base64>`. Raises: MalformedError `vkey-malformed`, `vkey-unsupported`."""
    name, _, rest = text.partition("+")
    key_id, _, key = rest.partition("+")  # base64 may hold '+' itself
    if not _KEY_ID.fullmatch(key_id) or not key or not key.isascii():
        raise MalformedError(
            "vkey-malformed", "not a verifier key", got=text[:120], expected="<name>+<8 hex digits>+<base64>"
        )
    material = decode_base64(key.encode(), code="vkey-malformed")
    verifier = make_verifier(name, material[0], material[1:])
    if verifier.key_id.hex() != key_id:
        raise MalformedError(
            "vkey-malformed", "the key ID is not the one of this key", got=key_id, expected=verifier.key_id.hex()
        )
    return verifier


def format_vkey(verifier: Verifier) -> str:
    """Return the text that `parse_vkey` reads."""
    key = encode_base64(bytes([verifier.type]) + verifier.public).decode()
    return f"{verifier.name}+{verifier.key_id.hex()}+{key}"


def signature_line(verifier: Verifier, blob: bytes) -> bytes:
    """Return `— <name> <base64>` and LF for a signature (type 01) or a timestamped signature."""
    return _DASH + verifier.name.encode() + b" " + encode_base64(verifier.key_id + blob) + b"\n"


def encode_note(text: bytes, lines: Iterable[bytes]) -> bytes:
    """Join a text with its signature lines. Raises: MalformedError `note-malformed` if that is no note."""
    data = text + b"\n" + b"".join(lines)
    if parse_note(data).text != text:
        raise MalformedError("note-malformed", "the text of a note ends in a line feed")
    return data


def parse_note(data: bytes) -> Note:
    """Split a note into text and signature lines, checking its form only. Raises: MalformedError `note-malformed`."""
    if len(data) > MAX_NOTE:
        raise _malformed("a note of this size is not read", got=f"{len(data)} bytes", expected=f"≤ {MAX_NOTE} bytes")
    if _CONTROL.search(data):
        raise _malformed("a note has no control characters but line feeds")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise _malformed("a note is UTF-8") from None
    end = data.rfind(b"\n\n")
    if end < 0 or not data.endswith(b"\n"):
        raise _malformed("a note ends in an empty line and its signature lines")
    lines = data[end + 2 :].split(b"\n")[:-1]
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        raise _malformed("too few or too many signature lines", got=len(lines), expected=f"1..{MAX_SIGNATURES}")
    return Note(data[: end + 1], tuple(_parse_line(line) for line in lines))


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> OpenNote:
    """Return the text of a note and every signature by one of `verifiers`, all checked, at least one.

    Raises: MalformedError `note-malformed`, `vkey-ambiguous`; VerificationError `note-signature-invalid` (a known key,
    a wrong signature), `note-key-unknown` (no known key signed), `signature-unsupported`.
    """
    known = _by_name_and_id(verifiers)
    note = parse_note(data)
    verified: list[Verified] = []
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is not None:
            verified.append(Verified(verifier, verifier.verify(note.text, signature.blob)))
    if not verified:
        raise VerificationError(
            "note-key-unknown",
            "no key that we know has signed this note",
            got=", ".join(f"{signature.name}+{signature.key_id.hex()}" for signature in note.signatures)[:200],
            expected=", ".join(f"{name}+{key_id.hex()}" for name, key_id in known)[:200],
            hint="compare the key with the one in your trust file",
        )
    return OpenNote(note.text, tuple(verified))


def cosigned_message(type: int, name: str, signed_at: int, text: bytes) -> bytes:  # noqa: A002
    """Return the bytes that a cosigner signs for checkpoint `text` at POSIX time `signed_at`.

    Raises: MalformedError `checkpoint-malformed`, `time-out-of-range`.   Source: c2sp.org/tlog-cosignature.
    """
    if not 0 <= signed_at <= MAX_SIZE:
        raise MalformedError(
            "time-out-of-range", "not a POSIX time of a cosignature", got=signed_at, expected="0 ≤ t < 2**63"
        )
    checkpoint = parse_checkpoint_text(text)
    if type == COSIGNATURE_ED25519:
        return b"cosignature/v1\ntime %d\n" % signed_at + text
    return _subtree_message(name, signed_at, checkpoint)


def _subtree_message(name: str, signed_at: int, checkpoint: Checkpoint) -> bytes:
    """label[12] | u8 length, cosigner name | u64 time | u8 length, origin | u64 start 0 | u64 end = size | root[32]."""
    cosigner, origin = name.encode(), checkpoint.origin.encode()
    if len(cosigner) > 255 or len(origin) > 255:
        raise MalformedError("checkpoint-malformed", "ML-DSA-44 cosignatures hold names of at most 255 bytes")
    return b"".join(
        (
            b"subtree/v1\n\x00",
            bytes([len(cosigner)]),
            cosigner,
            signed_at.to_bytes(8, "big"),
            bytes([len(origin)]),
            origin,
            bytes(8),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _by_name_and_id(verifiers: Iterable[Verifier]) -> dict[tuple[str, bytes], Verifier]:
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise MalformedError(
                "vkey-ambiguous", "two keys share a name and a key ID", got=format_vkey(verifier)[:120]
            )
    return known


def _parse_line(line: bytes) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(b" ")
    if not line.startswith(_DASH) or not space or not _NAME.fullmatch(name.decode()):
        raise _malformed("not a signature line", got=ascii(line[:80].decode(errors="replace")))
    blob = decode_base64(encoded, code="note-malformed")
    if len(blob) < 5:
        raise _malformed("a signature is longer than its key ID", got=f"{len(blob)} bytes")
    return Signature(name.decode(), blob[:4], blob[4:])


def _malformed(message: str, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError("note-malformed", message, got=got, expected=expected)


def _invalid(name: str, got: str | None) -> GenealogError:
    return VerificationError(
        "note-signature-invalid",
        f"the signature of {name} is wrong",
        got=got,
        hint="the note was altered after signing, or another key has this name and key ID",
    )
