"""Tiles and entry bundles of one log in object storage, believed only as far as they lead to a known edge.

A full tile is the hash of one place in the tile above it, up to the open tiles of an edge; the edge is checked against
a signed root when it is loaded. So one altered byte anywhere in the bucket is found by the read that meets it. Entries
are checked against their leaf hashes. What was checked once is kept in a small cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from genealog.core.merkle import HASH_SIZE, leaf_hash, tree_root
from genealog.core.tile import TILE, TILE_BYTES, RightEdge, entries_path, tile_path
from genealog.errors import MalformedError, StoreError
from genealog.store.journal import split_body
from genealog.store.scale.ports import Head, Objects

_KEEP = 1024  # full tiles, 8 KiB each
_HINT = "is objects= the place of this store? Then run `genealog fsck`; restore the object from a copy of the bucket"

Full = Callable[[int, int], bytes]
"""(level, number) -> the 8,192 bytes of a full tile, checked."""


class Tiles:
    """The tiles in `objects`. Thread-safe where `objects` is."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._tiles: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bundles: OrderedDict[int, tuple[bytes, ...]] = OrderedDict()

    def edge(self, head: Head) -> RightEdge:
        """Return the open tiles of the tree that `head` has signed.

        Raises: StoreError `tile-missing`; `log-altered` if they have another root.
        """
        tails: list[bytes] = []
        while count := head.size >> 8 * len(tails):
            level = len(tails)
            tails.append(self._read(level, count // TILE, count % TILE) if count % TILE else b"")
        edge = RightEdge(head.size, tails)
        if (found := edge.root()) != head.root:
            raise StoreError(
                "log-altered",
                f"the open tiles at {head.size} entries are not the ones that were signed",
                got=found.hex(),
                expected=head.root.hex(),
                hint=_HINT,
            )
        return edge

    def full(self, level: int, number: int, edge: RightEdge, above: Full) -> bytes:
        """Return a full tile of the tree that has `edge`; `above` gives the full tiles over it.

        Raises: StoreError `tile-missing`, `tile-differs`.
        """
        key = (level, number)
        if (data := self._tiles.get(key)) is not None:
            return data
        data = self._read(level, number, TILE)
        expected = edge.node(8 * (level + 1), number)
        if expected is None:
            over = above(level + 1, number // TILE)
            expected = over[number % TILE * HASH_SIZE :][:HASH_SIZE]
        if (found := tree_root([data[i : i + HASH_SIZE] for i in range(0, TILE_BYTES, HASH_SIZE)])) != expected:
            raise StoreError(
                "tile-differs",
                f"{tile_path(level, number)} is not the tile that the log has signed",
                got=found.hex(),
                expected=expected.hex(),
                hint=_HINT,
            )
        self._tiles[key] = data
        while len(self._tiles) > _KEEP:
            self._tiles.popitem(last=False)
        return data

    def bundle(self, number: int, leaves: bytes) -> tuple[bytes, ...]:
        """Return the entries of a bundle, as many as `leaves` has leaf hashes (1..256), each checked.

        Raises: StoreError `bundle-missing`, `bundle-differs`.
        """
        width = len(leaves) // HASH_SIZE
        kept = self._bundles.get(number, ())
        if len(kept) >= width:
            return kept[:width]
        path, data = entries_path(number, width), self.find(entries_path(number, width), entries_path(number))
        if data is None:
            raise StoreError("bundle-missing", f"{path} is not in the bucket", hint=_HINT)
        entries = first_entries(path, data, width)
        if b"".join(map(leaf_hash, entries)) != leaves:
            wrong = next(i for i, entry in enumerate(entries) if leaf_hash(entry) != leaves[i * 32 : i * 32 + 32])
            raise StoreError(
                "bundle-differs", f"entry {number * TILE + wrong} in {path} is not the one in the tree", hint=_HINT
            )
        self._bundles[number] = entries
        while len(self._bundles) > 16:
            self._bundles.popitem(last=False)
        return entries

    def find(self, *paths: str) -> bytes | None:
        """Return the first of `paths` that there is: a partial tile may have been replaced by the full one."""
        for path in dict.fromkeys(paths):
            if (stored := self._objects.get(path)) is not None:
                return stored.data
        return None

    def _read(self, level: int, number: int, width: int) -> bytes:
        path = tile_path(level, number, width)
        data = self.find(path, tile_path(level, number))
        if data is None:
            raise StoreError("tile-missing", f"{path} is not in the bucket", hint=_HINT)
        if len(data) not in (width * HASH_SIZE, TILE_BYTES):
            raise StoreError("tile-differs", f"{path} has the wrong length", got=f"{len(data)} bytes", hint=_HINT)
        return data[: width * HASH_SIZE]


def first_entries(path: str, data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the first `width` entries of a bundle. Raises: StoreError `bundle-differs` if it is not one."""
    offset = 0
    for _ in range(width):
        offset += 2 + int.from_bytes(data[offset : offset + 2], "big")
    try:
        return split_body(data[:offset], width) if offset <= len(data) else split_body(data, width)
    except MalformedError as error:
        raise StoreError("bundle-differs", f"{path} is not an entry bundle of {width}: {error}", hint=_HINT) from None
