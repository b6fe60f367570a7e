from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.merkle import (
    EMPTY_ROOT,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_at,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from genealog.errors import MalformedError, VerificationError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/log/tree.json").read_text())
MAX = 300
LEAVES = [leaf_hash(b"entry %d" % index) for index in range(MAX)]


# The definitions of RFC 6962 §2.1, word for word: slow, recursive, and sharing nothing with the code under test.


@cache
def mth(start: int, stop: int) -> bytes:
    if stop - start == 1:
        return LEAVES[start]
    k = largest_power_of_two_below(stop - start)
    return node_hash(mth(start, start + k), mth(start + k, stop))


def path(m: int, start: int, stop: int) -> list[bytes]:
    n = stop - start
    if n == 1:
        return []
    k = largest_power_of_two_below(n)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, stop)]
    return [*path(m - k, start + k, stop), mth(start, start + k)]


def subproof(m: int, start: int, stop: int, *, known: bool) -> list[bytes]:
    n = stop - start
    if m == n:
        return [] if known else [mth(start, stop)]
    k = largest_power_of_two_below(n)
    if m <= k:
        return [*subproof(m, start, start + k, known=known), mth(start + k, stop)]
    return [*subproof(m - k, start + k, stop, known=False), mth(start, start + k)]


def largest_power_of_two_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def root(size: int) -> bytes:
    return mth(0, size) if size else EMPTY_ROOT


def read(level: int, index: int) -> bytes:
    return mth(index << level, (index + 1) << level)


def same_everywhere() -> Callable[[int, int], bytes]:
    """Read a tree as large as one likes, all of whose entries are equal."""
    levels = [leaf_hash(b"")]
    while len(levels) < 64:
        levels.append(node_hash(levels[-1], levels[-1]))
    return lambda level, _: levels[level]


def vector_reader() -> Callable[[int, int], bytes]:
    leaves = [bytes.fromhex(value) for value in VECTORS["leaf_hashes"]]
    return lambda level, index: tree_root(leaves[index << level : (index + 1) << level])


def hashes(values: list[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(value) for value in values)


def test_vector_hashes() -> None:
    entries = [bytes.fromhex(value) for value in VECTORS["entries"]]
    leaves = [leaf_hash(entry) for entry in entries]
    assert [leaf.hex() for leaf in leaves] == VECTORS["leaf_hashes"]
    for span, expected in VECTORS["inner"].items():
        start, stop = map(int, span.split(","))
        assert tree_root(leaves[start:stop]).hex() == expected
    for size, expected in enumerate(VECTORS["roots"]):
        assert tree_root(leaves[:size]).hex() == expected
        assert root_at(size, vector_reader()).hex() == expected


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-in-{case['size']}")
def test_vector_inclusion(case: dict[str, Any]) -> None:
    index, size, proof = case["index"], case["size"], hashes(case["hashes"])
    assert inclusion_path(index, size, vector_reader()) == proof
    leaf = bytes.fromhex(VECTORS["leaf_hashes"][index])
    verify_inclusion(leaf, index, size, proof, bytes.fromhex(VECTORS["roots"][size]))


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: f"{case['old']}-to-{case['new']}")
def test_vector_consistency(case: dict[str, Any]) -> None:
    old, new, proof = case["old"], case["new"], hashes(case["hashes"])
    assert consistency_path(old, new, vector_reader()) == proof
    roots = hashes(VECTORS["roots"])
    verify_consistency(old, roots[old], new, roots[new], proof)


def test_every_size_agrees_with_the_definitions() -> None:
    for size in range(MAX + 1):
        assert tree_root(LEAVES[:size]) == root_at(size, read) == root(size)
        for index in range(size):
            proof = inclusion_path(index, size, read)
            assert list(proof) == path(index, 0, size)
            verify_inclusion(LEAVES[index], index, size, proof, root(size))
        for old in range(size + 1):
            proof = consistency_path(old, size, read)
            assert list(proof) == (subproof(old, 0, size, known=True) if old else [])
            verify_consistency(old, root(old), size, root(size), proof)


@given(st.data())
def test_huge_trees(data: st.DataObject) -> None:
    reader = same_everywhere()
    size = data.draw(st.integers(1, 2**63 - 1))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(0, size))
    verify_inclusion(leaf_hash(b""), index, size, inclusion_path(index, size, reader), root_at(size, reader))
    verify_consistency(old, root_at(old, reader), size, root_at(size, reader), consistency_path(old, size, reader))


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 5), (5, 5), (2**63, 5), (0, 2**63), (0, -1)])
def test_no_proof_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(MalformedError) as malformed:
        inclusion_path(index, size, same_everywhere())
    assert malformed.value.code == "size-out-of-range"
    refused_inclusion(LEAVES[0], index, size, (), LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 1), (0, -1), (1, 2**63), (2**63, 2**63)])
def test_no_consistency_of_sizes_that_shrink(old: int, new: int) -> None:
    with pytest.raises(MalformedError) as malformed:
        consistency_path(old, new, same_everywhere())
    assert malformed.value.code == "size-out-of-range"
    refused_consistency(old, EMPTY_ROOT, new, EMPTY_ROOT, ())


def test_no_root_beyond_the_format() -> None:
    with pytest.raises(MalformedError, match="size-out-of-range"):
        root_at(2**63, same_everywhere())


def refused_inclusion(leaf: bytes, index: int, size: int, proof: tuple[bytes, ...], of: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_inclusion(leaf, index, size, proof, of)
    assert caught.value.code == "inclusion-proof-mismatch"


def refused_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: tuple[bytes, ...]) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_consistency(old, old_root, new, new_root, proof)
    assert caught.value.code == "consistency-proof-mismatch"


def flipped(value: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(value))


def altered(proof: tuple[bytes, ...], bit: int) -> list[tuple[bytes, ...]]:
    """Return every way to cut, extend, reorder and change a proof that a forger would try first."""
    other = flipped(LEAVES[0], bit)
    versions = [(*proof, other), (other, *proof), (*proof, b""), (b"", *proof)]
    for at, value in enumerate(proof):
        versions += [
            proof[:at] + proof[at + 1 :],
            (*proof[:at], flipped(value, bit), *proof[at + 1 :]),
            (*proof[:at], value, value, *proof[at + 1 :]),
            (*proof[:at], value[:31], *proof[at + 1 :]),
            (*proof[:at], value + b"\x00", *proof[at + 1 :]),
        ]
        if at:
            swapped = list(proof)
            swapped[at - 1], swapped[at] = swapped[at], swapped[at - 1]
            versions.append(tuple(swapped))
    return versions


@given(st.integers(1, MAX), st.integers(0, MAX), st.integers(0, MAX), st.integers(0, 255))
def test_forged_inclusion_is_refused(size: int, index: int, elsewhere: int, bit: int) -> None:
    index, elsewhere = index % size, elsewhere % size
    proof = inclusion_path(index, size, read)
    for version in altered(proof, bit):
        refused_inclusion(LEAVES[index], index, size, version, root(size))
    refused_inclusion(flipped(LEAVES[index], bit), index, size, proof, root(size))
    refused_inclusion(LEAVES[index], index, size, proof, flipped(root(size), bit))
    refused_inclusion(LEAVES[index], size, size, proof, root(size))
    refused_inclusion(LEAVES[index], index + 2**63, size, proof, root(size))
    if elsewhere != index:
        refused_inclusion(LEAVES[index], elsewhere, size, proof, root(size))
        refused_inclusion(LEAVES[elsewhere], index, size, proof, root(size))


@given(st.integers(0, MAX), st.integers(0, MAX), st.integers(0, 255))
def test_forged_consistency_is_refused(one: int, two: int, bit: int) -> None:
    old, new = sorted((one, two))
    proof = consistency_path(old, new, read)
    for version in altered(proof, bit):
        refused_consistency(old, root(old), new, root(new), version)
    refused_consistency(old, flipped(root(old), bit), new, root(new), proof)
    if old:  # everything is consistent with nothing, so no root of the new tree can be wrong there
        refused_consistency(old, root(old), new, flipped(root(new), bit), proof)
    if old != new:
        refused_consistency(new, root(new), old, root(old), proof)
        refused_consistency(old, root(new), new, root(old), proof)


def test_an_inner_node_is_no_leaf() -> None:
    inner = node_hash(LEAVES[0], LEAVES[1])
    refused_inclusion(inner, 0, 4, (read(1, 1),), root(4))
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != inner


def test_two_roots_for_one_size_are_named() -> None:
    with pytest.raises(VerificationError, match="different histories"):
        verify_consistency(5, root(5), 5, root(6), ())


def test_a_power_of_two_needs_a_proof_too() -> None:
    refused_consistency(4, root(4), 8, root(8), ())
    refused_consistency(3, root(3), 8, root(8), ())
