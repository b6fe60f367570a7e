"""The records of a dataset: the records root over them, their list, and proofs that one is inside or absent.

    leaf = {"count":2,"sha256":"<hex record digest>","t":"genealog/data-record/v1"}      gld1: root over the leaves

Leaves are sorted by digest and equal records are one leaf with a count, so neither files nor order enter. A record
that is absent would have to lie between two leaves that are neighbours, and that is its proof: both leaves with their
paths (one of them, at either end). An inclusion path fixes its leaf's place in the tree, so a verifier that finds the
indexes adjacent knows that nothing lies between. Whether the leaves were sorted, and belong to these files, is the word
of whoever signed the root; whoever has the files makes it again.

The list as it is kept: a line, the number of leaves (8 bytes), 36 bytes a leaf (digest, count), and the hash of every
complete subtree of 256 leaves, so that a proof does not hash a million leaves again. Numbers are big-endian.
No record is read here (`core.data_record`), no file is opened (`capture.data`).

Source: RFC 6962 §2.1; absence by adjacent leaves: Laurie and Kasper, Revocation Transparency (2012).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from genealog.core.canonical import MAX_INTEGER, Record, encode
from genealog.core.data_record import Reading
from genealog.core.ids import DataId, parse_id
from genealog.core.manifest import check_sha256
from genealog.core.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, node_hash, tree_root, verify_inclusion
from genealog.errors import MalformedError, VerificationError

MAGIC = b"genealog/records/v1\n"
ENTRY = 36  # bytes of a leaf in the list
MAX_COUNT = 2**32 - 1
_GROUP_LEVEL = 8
_GROUP = 1 << _GROUP_LEVEL
_HEADER = len(MAGIC) + 8


class RecordLeaf(Record, tag_field="t", tag="genealog/data-record/v1"):
    """A record and how often it stands in the dataset. Its canonical bytes are a leaf of the records root."""

    count: int
    sha256: str

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-digest`, `bad-count`."""
        check_sha256(self.sha256)
        if not 1 <= self.count <= MAX_COUNT:
            raise MalformedError("bad-count", "a record stands there once or more", got=self.count)


class Placed(Record):
    """A leaf with its place: sibling hashes in hex, the leaf's own first."""

    leaf: RecordLeaf
    index: int
    hashes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-digest`, `size-out-of-range`."""
        if len(self.hashes) > 63 or not 0 <= self.index <= MAX_INTEGER:
            raise MalformedError("size-out-of-range", "not a place in a tree", got=self.index)
        for digest in self.hashes:
            check_sha256(digest)


class Lookup(Record):
    """What a tree says of one digest: `found`, or the neighbours between which it would lie.

    A neighbour is absent at an end of the tree, both in an empty one.
    """

    reading: Reading
    sha256: str
    size: int
    found: Placed | None = None
    below: Placed | None = None
    above: Placed | None = None

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-digest`, `bad-lookup`."""
        check_sha256(self.sha256)
        neighbours = self.below is not None or self.above is not None
        if not 0 <= self.size <= MAX_INTEGER or (self.found is not None and neighbours):
            raise MalformedError("bad-lookup", "a record is found, or lies between neighbours")
        if self.found is None and neighbours is (self.size == 0):
            raise MalformedError("bad-lookup", "what is not found has neighbours, but in an empty tree")


@dataclass(frozen=True, slots=True)
class Listed:
    """The list of the records of a dataset. `leaves` is their number, `count` that of the records."""

    root: DataId
    leaves: int
    count: int


class ListWriter:
    """Makes a list and its root from leaves in order, with memory for one hash a level."""

    def __init__(self) -> None:
        self.count = self.leaves = 0
        self.groups = bytearray()
        self._last = b""
        self._edge: list[bytes | None] = []

    def add(self, digest: bytes, count: int) -> bytes:
        """Take the next leaf and return its bytes in the list. Raises: MalformedError `not-sorted`, `bad-count`."""
        if len(digest) != 32 or digest <= self._last:
            raise MalformedError("not-sorted", "record digests are not sorted, or one stands twice")
        if not 1 <= count <= MAX_COUNT:
            raise MalformedError("bad-count", "too many equal records", got=count, expected=f"≤ {MAX_COUNT}")
        self._last = digest
        self.leaves += 1
        self.count += count
        self._push(_leaf(digest, count))
        return digest + count.to_bytes(4, "big")

    def finish(self) -> Listed:
        """Return the root. `header` and `groups` complete the list."""
        root = None
        for node in self._edge:
            if node is not None:
                root = node if root is None else node_hash(node, root)
        return Listed(DataId("gld1:" + (root or EMPTY_ROOT).hex()), self.leaves, self.count)

    @property
    def header(self) -> bytes:
        """The first bytes of the list."""
        return MAGIC + self.leaves.to_bytes(8, "big")

    def _push(self, node: bytes) -> None:
        for level, left in enumerate(self._edge):
            if level == _GROUP_LEVEL:
                self.groups += node
            if left is None:
                self._edge[level] = node
                return
            self._edge[level] = None
            node = node_hash(left, node)
        if len(self._edge) == _GROUP_LEVEL:
            self.groups += node
        self._edge.append(node)


def make_list(records: Iterable[tuple[bytes, int]]) -> tuple[Listed, bytes]:
    """Return the root and the list of (digest, count), in whatever order, for lists that fit in memory."""
    writer = ListWriter()
    body = b"".join(writer.add(digest, count) for digest, count in sorted(records))
    return writer.finish(), writer.header + body + bytes(writer.groups)


class RecordList:
    """A kept list, to look records up in. It is believed as far as its digest is; a proof is checked by its reader."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Raises: MalformedError `not-a-record-list`."""
        view = memoryview(data)
        size = int.from_bytes(view[len(MAGIC) : _HEADER], "big")
        self._groups = _HEADER + size * ENTRY
        if view[: len(MAGIC)] != MAGIC or len(view) != self._groups + size // _GROUP * 32:
            raise MalformedError("not-a-record-list", "these bytes are no list of records", got=f"{len(view)} bytes")
        self._view, self.size = view, size
        self._rows: list[list[bytes]] = []  # the tree above the groups, made when it is first needed

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield (digest, count) in order."""
        return (self.at(index) for index in range(self.size))

    def at(self, index: int) -> tuple[bytes, int]:
        """Return the digest and the count of a leaf."""
        start = _HEADER + index * ENTRY
        return bytes(self._view[start : start + 32]), int.from_bytes(self._view[start + 32 : start + ENTRY], "big")

    def look_up(self, reading: Reading, digest: bytes) -> Lookup:
        """Return what the tree says of a digest, with proof."""
        low, high = 0, self.size
        while low < high:
            middle = (low + high) // 2
            if self.at(middle)[0] < digest:
                low = middle + 1
            else:
                high = middle
        wanted = digest.hex()
        if low < self.size and self.at(low)[0] == digest:
            return Lookup(reading=reading, sha256=wanted, size=self.size, found=self._placed(low))
        below = self._placed(low - 1) if low > 0 else None
        above = self._placed(low) if low < self.size else None
        return Lookup(reading=reading, sha256=wanted, size=self.size, below=below, above=above)

    def verify(self, root: str) -> Listed:
        """Check that the whole list is sorted and gives `root`. Raises: VerificationError `records-differ`."""
        writer = ListWriter()
        try:
            for digest, count in self:
                writer.add(digest, count)
        except MalformedError as error:
            raise VerificationError("records-differ", f"the list of records is wrong: {error.message}") from None
        listed = writer.finish()
        if listed.root != root or writer.groups != self._view[self._groups :]:
            raise VerificationError("records-differ", "the list has another root", got=listed.root, expected=root)
        return listed

    def _placed(self, index: int) -> Placed:
        digest, count = self.at(index)
        path = inclusion_path(index, self.size, self._hash)
        return Placed(
            leaf=RecordLeaf(count=count, sha256=digest.hex()), index=index, hashes=tuple(h.hex() for h in path)
        )

    def _hash(self, level: int, index: int) -> bytes:
        if level < _GROUP_LEVEL:
            start = index << level
            return tree_root([_leaf(*self.at(number)) for number in range(start, start + (1 << level))])
        if not self._rows:
            self._rows.append([bytes(self._view[at : at + 32]) for at in range(self._groups, len(self._view), 32)])
            while len(row := self._rows[-1]) > 1:
                self._rows.append([node_hash(*pair) for pair in zip(row[::2], row[1::2], strict=False)])
        return self._rows[level - _GROUP_LEVEL][index]


def verify_lookup(lookup: Lookup, root: str) -> int:
    """Check a lookup against a records root (`gld1:`) and return how often the record stands there; 0: it is absent.

    Raises: VerificationError `inclusion-proof-mismatch`, `absence-unproven`; MalformedError `bad-id`.
    """
    algorithm, value = parse_id(root)
    if algorithm != "gld1":
        raise MalformedError("bad-id", "records are proven inside a records root", got=algorithm, expected="gld1")
    tree = bytes.fromhex(value)
    for placed in filter(None, (lookup.found, lookup.below, lookup.above)):
        hashes = [bytes.fromhex(digest) for digest in placed.hashes]
        verify_inclusion(leaf_hash(encode(placed.leaf)), placed.index, lookup.size, hashes, tree)
    if lookup.found is not None:
        if lookup.found.leaf.sha256 != lookup.sha256:
            raise _unproven("the leaf that was found is another record")
        return lookup.found.leaf.count
    if lookup.size == 0 and tree != EMPTY_ROOT:
        raise _unproven("the tree is not empty")
    below, above = lookup.below, lookup.above
    if (below is None and above is not None and above.index != 0) or (
        above is None and below is not None and below.index != lookup.size - 1
    ):
        raise _unproven("the neighbour is not at the end of the tree")
    if below is not None and above is not None and above.index != below.index + 1:
        raise _unproven("there is something between the neighbours")
    order = [*([below.leaf.sha256] if below else []), lookup.sha256, *([above.leaf.sha256] if above else [])]
    if any(one >= other for one, other in pairwise(order)):
        raise _unproven("the record does not lie between its neighbours")
    return 0


def _leaf(digest: bytes, count: int) -> bytes:
    # The canonical bytes of a RecordLeaf, by hand: a million leaves through the encoder take half a minute.
    return leaf_hash(b'{"count":%d,"sha256":"%s","t":"genealog/data-record/v1"}' % (count, digest.hex().encode()))


def _unproven(message: str) -> VerificationError:
    return VerificationError("absence-unproven", message, hint="the proof was altered, or made by something else")
