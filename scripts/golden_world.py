"""The world that the golden files are made in: keys, witnesses and logs in memory, the same bytes each time.

Seeds are hashes of labels, ECDSA nonces come from RFC 6979, and nothing is read but `genealog.core`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.dsse import keyid_of
from genealog.core.merkle import inclusion_path, leaf_hash, node_hash, tree_root
from genealog.core.note import Cosigner, NoteSigner, format_vkey
from genealog.core.proof import TlogProof
from genealog.core.receipt import Receipt, make_receipt

WITNESSED = 1_767_300_000  # POSIX seconds
KEYS = {  # label: (role, algorithm); `stranger` is never registered, `late` only at the end
    "owner": ("owner", "ecdsa"), "engine": ("engine", "ed25519"), "trainer": ("signer", "ecdsa"),
    "former": ("signer", "ed25519"), "late": ("signer", "ed25519"), "usurper": ("owner", "ed25519"),
    "stranger": ("signer", "ed25519"),
}  # fmt: skip


def seed(label: str) -> bytes:
    """Return 32 bytes that stand for `label`."""
    return hashlib.sha256(b"genealog/golden/" + label.encode()).digest()


class Key:
    """A DSSE signer whose key and signatures are the same each time."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.role: Any
        self.role, algorithm = KEYS[label]
        self._private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey = (
            ec.derive_private_key(int.from_bytes(seed(label)) >> 1, ec.SECP256R1())
            if algorithm == "ecdsa"
            else ed25519.Ed25519PrivateKey.from_private_bytes(seed(label))
        )
        self.public_der = self._private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.keyid = keyid_of(self.public_der)

    def sign(self, data: bytes) -> bytes:
        """Sign, with the nonce of RFC 6979 where ECDSA needs one."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(data)
        return self._private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


class Log:
    """A log in memory. `witnesses` cosign every checkpoint."""

    def __init__(self, origin: str, witnesses: Sequence[Cosigner] = ()) -> None:
        self.origin = origin
        self.entries: list[bytes] = []
        self.signer = NoteSigner(origin, ed25519.Ed25519PrivateKey.from_private_bytes(seed(origin)))
        self.witnesses = witnesses
        self._views: dict[int, tuple[list[list[bytes]], bytes]] = {}

    def append(self, entry: bytes) -> str:
        """Append and return the hex leaf hash."""
        self.entries.append(entry)
        return leaf_hash(entry).hex()

    def view(self, size: int) -> tuple[list[list[bytes]], bytes]:
        """Return the complete subtrees of the first `size` entries, level by level, and the cosigned checkpoint."""
        if size not in self._views:
            rows = [[leaf_hash(entry) for entry in self.entries[:size]]]
            while len(rows[-1]) > 1:
                rows.append([node_hash(*pair) for pair in zip(rows[-1][::2], rows[-1][1::2], strict=False)])
            note = sign_checkpoint(Checkpoint(self.origin, size, tree_root(rows[0])), self.signer)
            text = note[: note.rindex(b"\n\n") + 1]
            note += b"".join(witness.cosign(text, WITNESSED) for witness in self.witnesses)
            self._views[size] = rows, note
        return self._views[size]

    def receipt(self, index: int, size: int | None = None) -> Receipt:
        """Return the receipt of an entry under the checkpoint over `size` entries (default: all)."""
        size = size or len(self.entries)
        rows, note = self.view(size)
        hashes_ = inclusion_path(index, size, lambda level, number: rows[level][number])
        return make_receipt(self.entries[index], self.origin, TlogProof(index, hashes_, note))


WITNESSES = {
    name: Cosigner(f"{name}.witness.example", ed25519.Ed25519PrivateKey.from_private_bytes(seed(name)))
    for name in ("w1", "w2", "w3", "w4")
}
QUORUM = [WITNESSES[name] for name in ("w2", "w3", "w4")]  # w1 is asleep, and the policy can do without


def trust_policy() -> str:
    """Return the trust file that every golden file is judged by: two logs, and two of three groups of witnesses."""
    logs = [Log(f"{store}/{log}") for store in ("golden.example", "partner.example") for log in ("registry", "calls")]
    lines = ["# the logs of two stores, and their witnesses: any of the north, all of the south, both of these"]
    lines += [f"log {format_vkey(log.signer.verifier)}" for log in logs]
    lines += [f"witness {name} {format_vkey(witness.verifier)}" for name, witness in WITNESSES.items()]
    lines += ["group north any w1 w2", "group south all w3 w4", "group both 2 north south", "quorum both", ""]
    return "\n".join(lines)
