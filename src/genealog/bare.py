"""Receipts in the encodings of others: a bare tlog-proof (C2SP) and a COSE receipt (RFC 9942).

Both hold the proof and not the entry, so whoever verifies brings the entry's bytes as well. A COSE receipt is signed
when it is asked for, with the log's own key, over a root that a checkpoint has signed before: a store without that key
cannot make one.
"""

from __future__ import annotations

from genealog.core.chain import Hop, Report, examine_receipt
from genealog.core.cose import implied_root, parse_cose, sign_inclusion, verify_cose
from genealog.core.merkle import leaf_hash, verify_inclusion
from genealog.core.proof import claimed_checkpoint, parse_proof
from genealog.core.receipt import make_receipt
from genealog.core.states import State
from genealog.core.trust import Trust
from genealog.errors import GenealogError, StoreError
from genealog.ledger import Ledger, Position

_COSE = b"\xd2"  # tag 18
_TLOG = b"c2sp.org/tlog-proof@"
_STATES = {"unknown-log": State.UNCHECKED, "quorum-not-met": State.MISSING}


def tlog_proof(ledger: Ledger, position: Position) -> bytes:
    """Return the `*.tlog-proof` of an entry under the newest checkpoint. Raises: as `LocalLog.prove`."""
    return ledger.home.log(position.log).prove(position.index).encode()


def cose_receipt(ledger: Ledger, position: Position) -> bytes:
    """Return the COSE receipt of an entry under the newest checkpoint; in a rotation, with the older of the two keys.

    Who has yet to hear of the new key can verify it so. Raises: as `LocalLog.prove`; StoreError `read-only`.
    """
    home = ledger.home
    log = home.log(position.log)
    proof = log.prove(position.index)
    head = claimed_checkpoint(proof.checkpoint)
    leaf = log.leaf_hash(position.index)
    verify_inclusion(leaf, proof.index, head.size, proof.hashes, head.root)
    source = home.key_source(position.log)
    verifiers = source.read().verifiers
    for file in source.files():
        verifier = home.keys.note_signer(file, log.origin).verifier
        if verifier in verifiers:
            signer = home.keys.signer(file)
            return sign_inclusion(leaf, proof.index, head.size, proof.hashes, verifier=verifier, signer=signer)
    raise StoreError("read-only", "a COSE receipt is signed by the log, and its key is not here")


def is_bare(data: bytes) -> bool:
    """Tell whether a file begins as a tlog-proof or a COSE receipt does."""
    return data.startswith((_COSE, _TLOG))


def examine_bare(data: bytes, entry: bytes, trust: Trust | None) -> Report:
    """Judge a proof without its entry, and the entry. Without trust nothing is better than `unchecked`.

    Raises: MalformedError if it is no proof at all.
    """
    if data.startswith(_TLOG):
        proof = parse_proof(data)
        origin = claimed_checkpoint(proof.checkpoint).origin
        return examine_receipt(make_receipt(entry, origin, proof), trust)
    receipt = parse_cose(data)
    leaf = leaf_hash(entry).hex()
    where = f"{(receipt.origin or '').rpartition('/')[2]}:{receipt.numbers[1]}"
    state, code, detail = State.PROVEN, None, None
    try:
        if trust is None:
            implied_root(receipt, entry)
            state, code = State.UNCHECKED, "no-trust-policy"
        elif not verify_cose(data, entry, trust).placed:
            detail = "size and index are not signed: only that the entry is under the root"
    except GenealogError as error:
        state, code, detail = _STATES.get(error.code, State.CONTRADICTED), error.code, error.message
    return Report((Hop(0, "entry", "COSE receipt", state, leaf, None, where, code, detail),))
