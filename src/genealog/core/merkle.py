"""The Merkle tree of the log: hashes, roots, inclusion and consistency proofs, both sides.

    leaf hash = SHA-256(00 || entry)        node hash = SHA-256(01 || left || right)        root of 0 = SHA-256("")

            root(5) = N(d, L4)          size 5 = complete subtrees of 4 and 1 leaves
           /          \\
       d = N(b, c)     L4               (level, index):  L4 = (0, 4)   b = (1, 0)   c = (1, 1)   d = (2, 0)
      /        \\
    b=N(L0,L1)  c=N(L2,L3)

A tree of n > 1 leaves splits at the largest power of two below n, so everything left of the right edge is a
complete subtree, which never changes once filled; proofs are made by reading only those through a `HashReader`.
Verifiers check lengths before they hash: a 31- and a 33-byte "hash" must not pass as a node. No storage here.

Source: RFC 6962 §2.1, RFC 9162 §2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from genealog.core.spelling import MAX_SIZE
from genealog.errors import MalformedError, VerificationError

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()

HashReader = Callable[[int, int], bytes]
"""(level, index) -> hash of the complete subtree of 2**level leaves that starts at leaf index * 2**level."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the 32-byte leaf hash of an entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node over two 32-byte hashes."""
    return sha256(b"\x01" + left + right).digest()


def tree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root over all `leaf_hashes` (32 bytes each), which are in memory: for small trees."""
    row = list(leaf_hashes)
    if not row:
        return EMPTY_ROOT
    while len(row) > 1:
        row = [node_hash(*pair) for pair in zip(row[::2], row[1::2], strict=False)] + row[len(row) & ~1 :]
    return row[0]


def root_at(size: int, read: HashReader) -> bytes:
    """Return the root of the first `size` leaves. Raises: MalformedError `size-out-of-range`."""
    _check_size(size)
    return _range_root(0, size, read) if size else EMPTY_ROOT


def inclusion_path(index: int, size: int, read: HashReader) -> tuple[bytes, ...]:
    """Return the proof that leaf `index` is in the tree of `size` leaves, the leaf's sibling first.

    Raises: MalformedError `size-out-of-range` unless 0 ≤ index < size < 2**63.   Source: RFC 9162 §2.1.3.1.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise MalformedError(
            "size-out-of-range", "no such leaf in a tree of this size", got=index, expected=f"< {size}"
        )
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_range_root(middle, stop, read))
            stop = middle
        else:
            path.append(_range_root(start, middle, read))
            start = middle
    return tuple(reversed(path))


def consistency_path(old: int, new: int, read: HashReader) -> tuple[bytes, ...]:
    """Return the proof that the tree of `old` leaves is a prefix of the tree of `new` leaves.

    Raises: MalformedError `size-out-of-range` unless 0 ≤ old ≤ new < 2**63.   Source: RFC 9162 §2.1.4.1.
    """
    _check_size(new)
    if not 0 <= old <= new:
        raise MalformedError("size-out-of-range", "the older tree is not the smaller one", got=old, expected=f"≤ {new}")
    if old in (0, new):
        return ()
    path: list[bytes] = []
    start, stop = 0, new
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(_range_root(middle, stop, read))
            stop = middle
        else:
            path.append(_range_root(start, middle, read))
            start = middle
    if start:  # the old tree is no complete subtree of its own: the verifier does not have this hash yet
        path.append(_range_root(start, stop, read))
    return tuple(reversed(path))


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Prove that `leaf_hash` is entry `index` of the tree of `size` leaves whose root is `root`.

    `proof` runs from the leaf upwards, ≤ 63 hashes of 32 bytes. 0 ≤ index < size < 2**63.
    Raises: VerificationError `inclusion-proof-mismatch`.   Source: RFC 9162 §2.1.3.2.
    """
    code = "inclusion-proof-mismatch"
    _check_hashes(code, (root,))
    _check_root(code, "the proof leads to another root", inclusion_root(leaf_hash, index, size, proof), root)


def inclusion_root(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root that `proof` leads to from `leaf_hash` at `index` of `size` leaves. Alone it proves nothing.

    Raises: VerificationError `inclusion-proof-mismatch` for a proof of the wrong length.
    """
    code = "inclusion-proof-mismatch"
    _check_hashes(code, (leaf_hash, *proof))
    if not 0 <= index < size <= MAX_SIZE:
        raise VerificationError(
            code, "the index is outside the tree", got=index, expected=f"0 ≤ index < {size} < 2**63"
        )
    node, last, computed = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            raise _wrong_length(code, proof)
        if node & 1 or node == last:
            computed = sha256(b"\x01" + sibling + computed).digest()  # `node_hash` by hand: a third of the time
            while not node & 1 and node:  # climb past the levels where we are the lone right edge
                node >>= 1
                last >>= 1
        else:
            computed = sha256(b"\x01" + computed + sibling).digest()
        node >>= 1
        last >>= 1
    if last:
        raise _wrong_length(code, proof)
    return computed


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that the tree (`old_size`, `old_root`) is a prefix of the tree (`new_size`, `new_root`).

    0 ≤ old_size ≤ new_size < 2**63; hashes of 32 bytes. Equal sizes, and size 0, need an empty proof.
    Raises: VerificationError `consistency-proof-mismatch`.   Source: RFC 9162 §2.1.4.2.
    """
    code = "consistency-proof-mismatch"
    _check_hashes(code, (old_root, new_root, *proof))
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise VerificationError(
            code, "the sizes do not grow", got=f"{old_size}, {new_size}", expected="0 ≤ old ≤ new < 2**63"
        )
    if old_size == 0:
        _check_root(code, "the root of an empty tree is SHA-256 of nothing", old_root, EMPTY_ROOT)
    if old_size == new_size:
        _check_root(
            code, "two roots for one size: the log shows different people different histories", new_root, old_root
        )
    if old_size in (0, new_size):
        if proof:
            raise _wrong_length(code, proof)
        return
    # a complete subtree is a node of the new tree: the verifier starts from the root that it has
    hashes = tuple(proof) if old_size & (old_size - 1) else (old_root, *proof)
    computed_old, computed_new = _climb_both(code, old_size - 1, new_size - 1, hashes)
    _check_root(code, "the proof leads to another old root", computed_old, old_root)
    _check_root(code, "the proof leads to another new root", computed_new, new_root)


def prefix_path(old: int, new: int, read: HashReader) -> tuple[bytes, ...]:
    """Return the nodes from which `prefix_roots` computes both roots: 0 < old < new. Raises: as `consistency_path`.

    It is the consistency proof with the old tree's own node in front where RFC 9162 leaves it out, so that a verifier
    need not believe the old root first.
    """
    path = consistency_path(old, new, read)
    return path if old & (old - 1) else (root_at(old, read), *path)


def prefix_roots(old: int, new: int, nodes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of the first `old` and of all `new` leaves that `nodes` of `prefix_path` lead to.

    If the second is the root of a tree, the first is that of its first `old` leaves: no other nodes lead there.
    Raises: VerificationError `consistency-proof-mismatch` for a wrong number of nodes.
    """
    code = "consistency-proof-mismatch"
    _check_hashes(code, nodes)
    if not 0 < old < new <= MAX_SIZE:
        raise VerificationError(code, "the sizes do not grow", got=f"{old}, {new}", expected="0 < old < new < 2**63")
    return _climb_both(code, old - 1, new - 1, nodes)


def _climb_both(code: str, node: int, last: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the old and the new root that `hashes` lead to, starting at the old tree's last leaf `node`."""
    if not hashes:
        raise _wrong_length(code, hashes)
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise _wrong_length(code, hashes)
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise _wrong_length(code, hashes)
    return old, new


def _split(count: int) -> int:
    """Return the largest power of two below `count` ≥ 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, stop: int, read: HashReader) -> bytes:
    """Return the root of leaves start ≤ i < stop; `start` is a multiple of a power of two ≥ stop - start."""
    subtrees: list[bytes] = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        subtrees.append(read(level, start >> level))
        start += 1 << level
    root = subtrees.pop()
    while subtrees:
        root = node_hash(subtrees.pop(), root)
    return root


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise MalformedError("size-out-of-range", "not a tree size", got=size, expected="0 ≤ size < 2**63")


def _check_hashes(code: str, hashes: Sequence[bytes]) -> None:
    if wrong := set(map(len, hashes)) - {HASH_SIZE}:
        raise VerificationError(code, "a hash has 32 bytes", got=f"{min(wrong)} bytes")


def _check_root(code: str, message: str, got: bytes, expected: bytes) -> None:
    if got != expected:
        raise VerificationError(
            code,
            message,
            got=got.hex(),
            expected=expected.hex(),
            hint="entry, proof and checkpoint do not belong together",
        )


def _wrong_length(code: str, proof: Sequence[bytes]) -> VerificationError:
    return VerificationError(code, "the proof has the wrong number of hashes", got=len(proof))
