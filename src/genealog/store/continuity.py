"""Does a log still begin with what it signed before? Two signed heads, and the tree of the newer one, tell.

A log promises never to sign two heads that do not chain. Whoever kept an old head can hold it to that: the old root
must be the root of the first entries of the tree now. If it is not, both heads and the nodes that show it are
fork evidence (`core.fork`), which convinces others too. A tree that is smaller than the
old head lost entries, or is an old copy.

The caller has checked who signed both. Nothing here reads files or writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from genealog.core.checkpoint import Checkpoint
from genealog.core.fork import Fork, make_fork
from genealog.core.merkle import HashReader, consistency_path, prefix_path, root_at, verify_consistency
from genealog.core.proof import claimed_checkpoint
from genealog.core.states import State
from genealog.errors import MissingError, VerificationError


@dataclass(frozen=True, slots=True)
class Continuity:
    """What two heads of one log and a tree show.

    `state`: proven (`proof` is the consistency proof), contradicted (`fork` is the evidence), or missing: the tree has
    fewer entries than the old head, and its own head may well be a beginning of what it lost (code `log-behind`).
    """

    old: Checkpoint
    new: Checkpoint
    state: State
    code: str | None = None
    proof: tuple[bytes, ...] = ()
    fork: Fork | None = None


def compare_heads(
    old: bytes, new: bytes, read: HashReader, *, read_old: HashReader | None = None, seen: tuple[str, str] = ("", "")
) -> Continuity:
    """Compare two signed heads of one log. `read` is over the tree of `new`, checked against its root.

    `read_old`, over the tree of `old`, tells a fork from a lost tail where the new tree is the smaller one. `seen` says
    where each head was seen, for the evidence. Raises: VerificationError `origin-mismatch`, `tree-altered` (the hashes
    do not lead to the head they belong to, so they show nothing); MalformedError.
    """
    first, second = claimed_checkpoint(old), claimed_checkpoint(new)
    if first.origin != second.origin:
        raise VerificationError(
            "origin-mismatch", "these are heads of two logs", got=second.origin, expected=first.origin
        )
    if first.size <= second.size:
        small, big, nodes = first, second, read
    elif read_old is not None:
        small, big, nodes = second, first, read_old
    else:
        return Continuity(first, second, State.MISSING, "log-behind")
    if small.size < big.size and root_at(small.size, nodes) != small.root:
        proof = prefix_path(small.size, big.size, nodes) if small.size else None
        try:
            fork = make_fork(old, new, proof, seen=seen)
        except MissingError:
            raise _damaged(big) from None
        return Continuity(first, second, State.CONTRADICTED, "log-forked", fork=fork)
    if small.size == big.size and small.root != big.root:
        fork = make_fork(old, new, seen=seen)
        return Continuity(first, second, State.CONTRADICTED, "log-forked", fork=fork)
    if small is second and small.size < big.size:
        return Continuity(first, second, State.MISSING, "log-behind")
    proof = consistency_path(small.size, big.size, nodes)
    try:
        verify_consistency(small.size, small.root, big.size, big.root, proof)
    except VerificationError:
        raise _damaged(big) from None
    return Continuity(first, second, State.PROVEN, proof=proof)


def _damaged(head: Checkpoint) -> VerificationError:
    return VerificationError(
        "tree-altered", f"the hashes kept for size {head.size} do not lead to the root that was signed",
        expected=head.root.hex(), hint="this shows damage, not a fork: `genealog fsck --repair` makes hashes again",
    )  # fmt: skip
