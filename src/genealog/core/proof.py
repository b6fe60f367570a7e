"""Proofs that an entry is in a log: one text that is checked offline. It is the heart of a receipt.

    c2sp.org/tlog-proof@v1
    extra <base64>                                   optional, authenticated by nothing
    index 5
    vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=     0 to 63 hashes, the leaf's sibling first
    …
                                                     the first empty line
    <checkpoint>                                     byte for byte as the log and its witnesses signed it

The entry itself is not in the proof: whoever verifies brings it. Nothing here chooses whom to trust (`trust`).

Source: c2sp.org/tlog-proof.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from genealog.core.note import MAX_NOTE, parse_note
from genealog.core.spelling import MAX_SIZE, decode_base64, encode_base64, parse_decimal
from genealog.errors import MalformedError

MAX_EXTRA = 65_536  # bytes before base64
MAX_HASHES = 63
MAX_PROOF = MAX_NOTE + 100_000  # bytes: the note, the extra line and 63 hashes
_HEADER = b"c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """Entry `index`, its inclusion path (32-byte hashes, leaf upwards) and the signed checkpoint, verbatim.

    Making one checks its form, not its truth. `extra` is None or 1 to 65,536 bytes.
    Raises: MalformedError `proof-malformed`, `note-malformed`, `checkpoint-malformed`.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE:
            raise _malformed("no log has an entry of this index", got=self.index)
        if len(self.hashes) > MAX_HASHES or set(map(len, self.hashes)) - {HASH_SIZE}:
            raise _malformed("an inclusion path has at most 63 hashes of 32 bytes", got=f"{len(self.hashes)} hashes")
        if self.extra is not None and not 1 <= len(self.extra) <= MAX_EXTRA:
            raise _malformed("extra data is absent or 1 to 65,536 bytes", got=f"{len(self.extra)} bytes")
        claimed_checkpoint(self.checkpoint)

    def encode(self) -> bytes:
        """Return the text of the proof, for a `.tlog-proof` file."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(b"extra " + encode_base64(self.extra))
        lines.append(b"index %d" % self.index)
        lines += [encode_base64(value) for value in self.hashes]
        return b"\n".join(lines) + b"\n\n" + self.checkpoint


def parse_proof(data: bytes) -> TlogProof:
    """Read what `TlogProof.encode` writes, and nothing else. Raises: as `TlogProof`."""
    if len(data) > MAX_PROOF:
        raise _malformed("a proof of this size is not read", got=f"{len(data)} bytes", expected=f"≤ {MAX_PROOF} bytes")
    head, empty, checkpoint = data.partition(b"\n\n")
    header, *lines = head.split(b"\n")
    if header != _HEADER or not empty:
        raise _malformed("not a tlog-proof with a checkpoint", got=header[:80], expected=_HEADER.decode())
    extra = None
    if lines and lines[0].startswith(b"extra "):
        extra = decode_base64(lines.pop(0).removeprefix(b"extra "), code="proof-malformed")
    if not lines or not lines[0].startswith(b"index "):
        raise _malformed("the index line is missing")
    return TlogProof(
        index=parse_decimal(lines[0].removeprefix(b"index "), code="proof-malformed"),
        hashes=tuple([decode_base64(line, code="proof-malformed", length=HASH_SIZE) for line in lines[1:]]),
        checkpoint=checkpoint,
        extra=extra,
    )


class CheckpointVerifier(Protocol):
    """What `trust.Trust` is, and `RememberingTrust`."""

    def verify_checkpoint(self, data: bytes) -> Checkpoint:
        """Return the checkpoint in a signed note if it is believed. Raises: as `trust.Trust.open_checkpoint`."""


class RememberingTrust:
    """A trust file that checks the signatures of a note once, for whoever verifies many proofs under few checkpoints.

    It remembers the `keep` accepted notes that were used last, byte for byte; a refusal is never remembered.
    """

    def __init__(self, trust: CheckpointVerifier, *, keep: int = 64) -> None:
        self.trust = trust
        self._keep = keep
        self._accepted: OrderedDict[bytes, Checkpoint] = OrderedDict()

    def verify_checkpoint(self, data: bytes) -> Checkpoint:
        """As `trust.Trust.verify_checkpoint`, at the price of a look-up the second time."""
        checkpoint = self._accepted.pop(data, None) or self.trust.verify_checkpoint(data)
        self._accepted[data] = checkpoint
        if len(self._accepted) > self._keep:
            self._accepted.popitem(last=False)
        return checkpoint


@lru_cache(maxsize=32)
def claimed_checkpoint(note: bytes) -> Checkpoint:
    """Return the checkpoint that a note holds. Its signatures are not looked at: this proves nothing.

    Raises: MalformedError `note-malformed`, `checkpoint-malformed`.
    """
    return parse_checkpoint_text(parse_note(note).text)


def verify_proof(entry: bytes, proof: TlogProof, trust: CheckpointVerifier) -> Checkpoint:
    """Prove that `entry` is in a log that `trust` knows; return the checkpoint that covers it.

    For many proofs give a `RememberingTrust`.
    Compare `origin` of the result if `trust` knows more than one log, and never use `extra` without checking it.
    Raises: VerificationError `unknown-log`, `checkpoint-signature-invalid`, `quorum-not-met`, `signature-unsupported`,
    `inclusion-proof-mismatch`.
    """
    checkpoint = trust.verify_checkpoint(proof.checkpoint)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint


def _malformed(message: str, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError("proof-malformed", message, got=got, expected=expected)
