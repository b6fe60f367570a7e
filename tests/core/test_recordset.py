"""The records root: proofs that a record is inside, proofs that it is absent, and every trick with neighbours."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from genealog.core.canonical import decode, encode
from genealog.core.data_record import record_digest
from genealog.core.merkle import leaf_hash, tree_root
from genealog.core.recordset import ENTRY, Lookup, RecordLeaf, RecordList, make_list, verify_lookup
from genealog.errors import MalformedError, VerificationError

NAMES = st.lists(st.integers(0, 60), max_size=80)


def digest(number: int) -> bytes:
    return record_digest("json", b"%d" % number)


def listed(numbers: list[int]) -> tuple[str, RecordList]:
    found, data = make_list((digest(number), count) for number, count in Counter(numbers).items())
    assert found.count == len(numbers)
    kept = RecordList(data)
    assert kept.verify(found.root) == found
    return found.root, kept


@given(NAMES, st.integers(0, 80))
def test_every_record_is_proven_present_or_absent(numbers: list[int], asked: int) -> None:
    root, kept = listed(numbers)
    lookup = decode(encode(kept.look_up("json", digest(asked))), Lookup)
    assert verify_lookup(lookup, root) == numbers.count(asked)


@given(NAMES)
def test_the_root_is_the_rfc_6962_tree_over_sorted_leaves(numbers: list[int]) -> None:
    root, _ = listed(numbers)
    leaves = sorted((digest(n).hex(), count) for n, count in Counter(numbers).items())
    hashes = [leaf_hash(encode(RecordLeaf(count=count, sha256=value))) for value, count in leaves]
    assert root == "gld1:" + tree_root(hashes).hex()
    assert root == listed(numbers[::-1])[0]


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 1000])
def test_proofs_across_the_groups_of_the_list(size: int) -> None:
    root, kept = listed(list(range(size)))
    for asked in (0, 1, size // 2, size - 1, size, size + 7):
        assert verify_lookup(kept.look_up("json", digest(asked)), root) == (asked < size)


def gap(numbers: list[int]) -> tuple[str, RecordList, Lookup, int]:
    """Return a lookup of something absent that has neighbours on both sides with leaves beyond them."""
    root, kept = listed(numbers)
    for asked in range(1000, 2000):
        lookup = kept.look_up("json", digest(asked))
        if lookup.below and lookup.above and lookup.below.index > 1 and lookup.above.index < kept.size - 2:
            return root, kept, lookup, lookup.below.index
    raise AssertionError


def refused(lookup: Lookup, root: str) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_lookup(lookup, root)
    return caught.value.code


def test_a_record_that_is_there_cannot_be_proven_absent() -> None:
    root, kept, _, index = gap(list(range(40)))
    hidden, before, after = kept.at(index)[0], kept.at(index - 1)[0], kept.at(index + 1)[0]
    below = kept.look_up("json", before).found
    above = kept.look_up("json", after).found
    assert below
    assert above
    skipped = Lookup(reading="json", sha256=hidden.hex(), size=kept.size, below=below, above=above)
    assert refused(skipped, root) == "absence-unproven"  # a gap between the neighbours
    for one in (replace(skipped, above=None), replace(skipped, below=None)):
        assert refused(one, root) == "absence-unproven"  # a neighbour that is not at the end
    moved = replace(skipped, above=replace(above, index=above.index - 1))
    assert refused(moved, root) == "inclusion-proof-mismatch"
    here = replace(skipped, above=kept.look_up("json", hidden).found)
    assert refused(here, root) == "absence-unproven"  # it is its own neighbour


def test_no_other_size_makes_a_leaf_the_last_one() -> None:
    numbers = list(range(21))
    root, kept = listed(numbers)
    for index in range(kept.size - 1):
        placed = kept.look_up("json", kept.at(index)[0]).found
        assert placed
        beyond = f"{int(placed.leaf.sha256, 16) + 1:064x}"
        for size in range(1, 80):
            for place in {index, size - 1}:
                forged = Lookup(reading="json", sha256=beyond, size=size, below=replace(placed, index=place))
                assert refused(forged, root) in ("absence-unproven", "inclusion-proof-mismatch")


def test_no_other_place_makes_two_leaves_neighbours() -> None:
    root, kept = listed(list(range(13)))
    placed = [kept.look_up("json", kept.at(index)[0]).found for index in range(kept.size)]
    for low in range(kept.size):
        for high in range(low + 2, kept.size):
            below, above = placed[low], placed[high]
            assert below
            assert above
            hidden = kept.at(low + 1)[0].hex()
            for size in range(2, 20):
                for place in range(size - 1):
                    forged = Lookup(
                        reading="json", sha256=hidden, size=size, below=replace(below, index=place),
                        above=replace(above, index=place + 1),
                    )  # fmt: skip
                    assert refused(forged, root) in ("absence-unproven", "inclusion-proof-mismatch")


def test_an_inner_node_is_no_leaf() -> None:
    root, kept = listed([1, 2])
    found = kept.look_up("json", kept.at(0)[0])
    assert found.found
    forged = replace(found, size=1, found=replace(found.found, index=0, hashes=()))
    assert refused(forged, root) == "inclusion-proof-mismatch"


@given(st.integers(0, 39), st.sampled_from(["count", "sha256", "hash", "drop", "root", "other"]))
def test_a_proof_that_was_changed_is_refused(asked: int, part: str) -> None:
    root, kept = listed(list(range(40)))
    lookup = kept.look_up("json", digest(asked))
    found = lookup.found
    assert found
    flipped = f"{int(found.hashes[0], 16) ^ 1:064x}"
    changed = {
        "count": replace(lookup, found=replace(found, leaf=replace(found.leaf, count=2))),
        "sha256": replace(lookup, found=replace(found, leaf=replace(found.leaf, sha256="0" * 64))),
        "hash": replace(lookup, found=replace(found, hashes=(flipped, *found.hashes[1:]))),
        "drop": replace(lookup, found=replace(found, hashes=found.hashes[:-1])),
        "root": lookup,
        "other": replace(lookup, sha256=digest(1000).hex()),
    }[part]
    assert refused(changed, "gld1:" + "0" * 64 if part == "root" else root)


def test_an_empty_tree_holds_nothing_and_a_full_one_is_not_empty() -> None:
    root, kept = listed([])
    assert root == "gld1:" + hashlib.sha256(b"").hexdigest()
    nothing = kept.look_up("json", digest(1))
    assert verify_lookup(nothing, root) == 0
    assert refused(nothing, listed([1])[0]) == "absence-unproven"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:-1],
        lambda d: d + b"\0",
        lambda d: b"x" + d[1:],
        lambda d: d[:0],
        lambda d: d[:20] + (2**63).to_bytes(8, "big") + d[28:],
    ],
)
def test_what_is_no_list_is_refused(change: object) -> None:
    _, data = make_list([(digest(1), 1), (digest(2), 3)])
    with pytest.raises(MalformedError) as caught:
        RecordList(change(data))  # type: ignore[operator]
    assert caught.value.code == "not-a-record-list"


@given(st.integers(0, 3 * ENTRY - 1), st.integers(1, 255))
def test_a_list_with_another_byte_has_another_root(place: int, bits: int) -> None:
    found, data = make_list((digest(number), 1) for number in range(3))
    changed = bytearray(data)
    changed[28 + place] ^= bits
    with pytest.raises(VerificationError) as caught:
        RecordList(bytes(changed)).verify(found.root)
    assert caught.value.code == "records-differ"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("bad-count", b'{"count":0,"sha256":"%s","t":"genealog/data-record/v1"}' % (b"0" * 64)),
        ("bad-digest", b'{"count":1,"sha256":"00","t":"genealog/data-record/v1"}'),
        ("not-canonical", b'{"sha256":"%s","count":1,"t":"genealog/data-record/v1"}' % (b"0" * 64)),
        ("not-canonical", b'{"count":1,"sha256":"%s"}' % (b"0" * 64)),
    ],
)
def test_leaves_have_one_spelling(code: str, text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode(text, RecordLeaf)
    assert caught.value.code == code


def test_a_lookup_says_one_thing() -> None:
    root, kept = listed([1, 2, 3])
    found = kept.look_up("json", digest(1))
    with pytest.raises(MalformedError):
        replace(found, below=found.found)
    with pytest.raises(MalformedError):
        replace(found, found=None)
    assert root
