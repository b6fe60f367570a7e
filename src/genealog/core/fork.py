"""Fork evidence (`*.fork`): two heads that one log has signed and that no honest log can both sign.

    {"first": {"note": a signed checkpoint, word for word, "where"?: who saw it, and when}, "second": {…},
     "proof"?: [base64, …], "t": "genealog/fork/v1"}

Two roots for one size prove it alone. For two sizes the nodes in `proof` do: they lead to the bigger head's root, so
they are nodes of its tree, and they give its first leaves another root than the smaller head has (`merkle.prefix_path`
makes them). Nodes that do not lead to the bigger root prove nothing: anybody can make up such nodes, and a server that
sends a wrong proof is no log that forked. `where` is what somebody says; nothing authenticates it.

Nothing here decides whom to believe (`trust`), and what no trusted key has signed is no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genealog.core.canonical import Record, decode, encode
from genealog.core.checkpoint import Checkpoint
from genealog.core.dsse import unb64
from genealog.core.merkle import prefix_roots
from genealog.core.proof import claimed_checkpoint
from genealog.core.spelling import encode_base64
from genealog.core.trust import Trust, TrustedCheckpoint
from genealog.errors import MissingError, VerificationError

SUFFIX = ".fork"


class SeenHead(Record):
    """A signed checkpoint, and where it was seen, in words."""

    note: str
    where: str | None = None


class Fork(Record, tag_field="t", tag="genealog/fork/v1"):
    """The wire form: the smaller head is the first. Its form says nothing yet; `verify_fork` does."""

    first: SeenHead
    second: SeenHead
    proof: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProvenFork:
    """What fork evidence proves: the log `origin` signed both heads, and `prefix` is not the root of `first`.

    `prefix` is the root of the second head's tree at the size of the first.
    """

    origin: str
    first: TrustedCheckpoint
    second: TrustedCheckpoint
    prefix: bytes


def make_fork(
    note_a: bytes, note_b: bytes, proof: Sequence[bytes] | None = None, *, seen: tuple[str, str] = ("", "")
) -> Fork:
    """Join two signed heads that do not chain, in any order, with where each was seen.

    `proof` is `merkle.prefix_path(smaller, bigger, nodes of the bigger tree)`; two heads of one size need none.
    Raises: MissingError `fork-unproven` if they may well chain; MalformedError `note-malformed`,
    `checkpoint-malformed`; VerificationError `consistency-proof-mismatch`. Signatures are not looked at.
    """
    heads = [
        SeenHead(note=note.decode(), where=where or None) for note, where in zip((note_a, note_b), seen, strict=True)
    ]
    if _checkpoint(heads[0]).size > _checkpoint(heads[1]).size:
        heads.reverse()
    nodes = None if proof is None or _same_size(*heads) else tuple(encode_base64(node).decode() for node in proof)
    fork = Fork(first=heads[0], second=heads[1], proof=nodes)
    _parting(fork)
    return fork


def encode_fork(fork: Fork) -> bytes:
    """Return the bytes of a `*.fork` file."""
    return encode(fork)


def parse_fork(data: bytes) -> Fork:
    """Read a fork file. Raises: MalformedError as `decode`."""
    return decode(data, Fork)


def verify_fork(fork: Fork, trust: Trust) -> ProvenFork:
    """Prove that a log that `trust` knows has signed two heads that do not chain. A quorum of witnesses is not asked.

    Raises: as `check_fork`; VerificationError `unknown-log`, `checkpoint-signature-invalid`, `signature-unsupported`.
    """
    prefix = _parting(fork)
    first, second = (trust.open_head(head.note.encode()) for head in (fork.first, fork.second))
    return ProvenFork(first.checkpoint.origin, first, second, prefix)


def check_fork(fork: Fork) -> tuple[Checkpoint, Checkpoint]:
    """Return the two heads if they do not chain; signatures are not looked at: alone, this proves nothing.

    Raises: MissingError `fork-unproven`; VerificationError `consistency-proof-mismatch`; MalformedError.
    """
    _parting(fork)
    return _checkpoint(fork.first), _checkpoint(fork.second)


def _parting(fork: Fork) -> bytes:
    """Return the root that the second tree has at the first head's size, which is another than the first head's."""
    old, new = _checkpoint(fork.first), _checkpoint(fork.second)
    if old.origin != new.origin:
        raise _unproven("heads of two logs do not contradict each other", f"{old.origin}, {new.origin}")
    if old.size > new.size:
        raise _unproven("the smaller head stands first", f"{old.size}, {new.size}")
    if old.size == new.size:
        if fork.proof is not None:
            raise _unproven("two heads of one size need no proof", f"{len(fork.proof)} nodes")
        prefix = new.root
    elif old.size == 0 or fork.proof is None:
        raise _unproven("a log that grew from the one head to the other would sign both", f"{old.size}, {new.size}")
    else:
        prefix, root = prefix_roots(old.size, new.size, [unb64(node) for node in fork.proof])
        if root != new.root:
            raise _unproven("the nodes are not of the bigger head's tree", root.hex())
    if prefix == old.root:
        raise _unproven("the bigger head's tree begins with the smaller one's", prefix.hex())
    return prefix


def _checkpoint(head: SeenHead) -> Checkpoint:
    return claimed_checkpoint(head.note.encode())


def _same_size(first: SeenHead, second: SeenHead) -> bool:
    return _checkpoint(first).size == _checkpoint(second).size


def _unproven(message: str, got: str) -> MissingError:
    return MissingError(
        "fork-unproven", f"these two heads prove no fork: {message}", got=got,
        hint="compare the log itself with the older head: genealog log verify --from",
    )  # fmt: skip


def forked(fork: Fork) -> VerificationError:
    """Return the error to raise where two heads have turned out not to chain: `log-forked`."""
    first, second = _checkpoint(fork.first), _checkpoint(fork.second)
    return VerificationError(
        "log-forked",
        f"{first.origin} has signed two heads that do not chain: it shows different histories",
        got=f"size {second.size}, root {second.root.hex()}",
        expected=f"a tree that begins with size {first.size}, root {first.root.hex()}",
        hint="keep the evidence; ask whoever runs the log, and its witnesses",
    )
