"""A receipt: one entry, and the proof that it is in a log. A file that needs no server.

    {"entry": base64 of the entry's bytes, "origin": the log's name, "proof": a tlog-proof, "t": "genealog/receipt/v1",
     "timestamp"?: base64 of an RFC 3161 reply over the text of the checkpoint in the proof (`timestamp`)}

The checkpoint in the proof makes the grade: *logged* if the log alone has signed it, *witnessed* if others have
cosigned it. An upgrade puts in another checkpoint, which more have signed, and the proof that leads to it.

Source of the proof: C2SP tlog-proof.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from genealog.core.canonical import Record, decode, encode
from genealog.core.checkpoint import Checkpoint
from genealog.core.dsse import unb64
from genealog.core.merkle import leaf_hash, verify_inclusion
from genealog.core.proof import CheckpointVerifier, TlogProof, claimed_checkpoint, parse_proof
from genealog.errors import VerificationError


class Receipt(Record, tag_field="t", tag="genealog/receipt/v1"):
    """The wire form."""

    entry: str
    origin: str
    proof: str
    timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """What a receipt proves: these bytes are entry `index` of the log `origin`, as its key signed in `note`."""

    entry: bytes
    index: int
    leaf: str
    checkpoint: Checkpoint
    note: bytes


def make_receipt(entry: bytes, origin: str, proof: TlogProof, timestamp: bytes | None = None) -> Receipt:
    """Join an entry and its proof, and an RFC 3161 reply over the text of the proof's checkpoint."""
    return Receipt(
        entry=base64.b64encode(entry).decode(),
        origin=origin,
        proof=proof.encode().decode(),
        timestamp=None if timestamp is None else base64.b64encode(timestamp).decode(),
    )


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the bytes of a `*.receipt.json` file."""
    return encode(receipt)


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt file. Raises: MalformedError as `decode`."""
    return decode(data, Receipt)


def entry_of(receipt: Receipt) -> tuple[bytes, int, str]:
    """Return (entry, index, hex leaf hash) without verifying anything."""
    entry = unb64(receipt.entry)
    return entry, parse_proof(receipt.proof.encode()).index, leaf_hash(entry).hex()


def check_receipt(receipt: Receipt) -> Proven:
    """Check a receipt against its own checkpoint, whose signature is not looked at: alone, this proves nothing.

    Raises: MalformedError; VerificationError `origin-mismatch` or `inclusion-proof-mismatch`.
    """
    entry = unb64(receipt.entry)
    proof = parse_proof(receipt.proof.encode())
    checkpoint = claimed_checkpoint(proof.checkpoint)
    if checkpoint.origin != receipt.origin:
        raise VerificationError(
            "origin-mismatch",
            "the receipt names another log than its proof",
            got=receipt.origin,
            expected=checkpoint.origin,
        )
    leaf = leaf_hash(entry)
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return Proven(entry=entry, index=proof.index, leaf=leaf.hex(), checkpoint=checkpoint, note=proof.checkpoint)


def verify_receipt(receipt: Receipt, trust: CheckpointVerifier) -> Proven:
    """Prove that the entry is in the log that the receipt names, by the keys in `trust`.

    What holds by itself is checked first, so that a false proof is never excused by a log that we do not know.
    Raises: as `check_receipt`; VerificationError `unknown-log`, `checkpoint-signature-invalid`, `quorum-not-met` or
    `signature-unsupported`.
    """
    proven = check_receipt(receipt)
    trust.verify_checkpoint(proven.note)
    return proven
