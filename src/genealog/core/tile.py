"""Tiles: how a tree is cut into immutable pieces of 256 hashes, and the growing right edge of a tree.

    tile (L, N) = hash 256N, 256N+1, … of level 8L of the tree, 32 bytes each; 8,192 bytes when full

    tile/0/000   256 leaf hashes          tile/1/000   hash i = root over the leaves 256i … 256i+255
    tile/0/x001/x234/067.p/112            the first 112 hashes of tile 1,234,067: a prefix of the full tile
    tile/entries/000                      256 entries, each uint16 length (big endian) || bytes

Only full tiles feed the level above, so a tile is a pure function of the entries and never changes. A partial
tile is a byte prefix of the full one: it is cut from the open tile when asked for and never stored.
Nothing here reads or writes a file.

Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from genealog.core.merkle import EMPTY_ROOT, HASH_SIZE, node_hash
from genealog.core.spelling import MAX_SIZE
from genealog.errors import MalformedError

TILE = 256  # hashes in a full tile, entries in a full bundle
TILE_BYTES = TILE * HASH_SIZE
_HEIGHT = 8  # levels of the tree inside a tile
_LEVELS = 8  # tile levels that a tree below 2**63 leaves can have
_MAX_LEVEL = 63
_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class TilePath:
    """What a tile path names. `level` is None for entries; `width` is 256 for a full tile, else 1..255."""

    level: int | None
    number: int
    width: int = TILE

    def __str__(self) -> str:
        return (
            entries_path(self.number, self.width)
            if self.level is None
            else tile_path(self.level, self.number, self.width)
        )


def tile_path(level: int, n: int, width: int = TILE) -> str:
    """Return the path of hash tile (level, n), such as `tile/0/x001/x234/067.p/112`.

    0 ≤ level ≤ 63, n ≥ 0, 1 ≤ width ≤ 256. Raises: MalformedError `tile-path-malformed`.
    """
    if not 0 <= level <= _MAX_LEVEL:
        raise MalformedError("tile-path-malformed", "no such tile level", got=level, expected="0..63")
    return f"tile/{level}/{_number_path(n, width)}"


def entries_path(n: int, width: int = TILE) -> str:
    """Return the path of entry bundle n, such as `tile/entries/x001/000`. Limits and errors: as `tile_path`."""
    return f"tile/entries/{_number_path(n, width)}"


def parse_tile_path(path: str) -> TilePath:
    """Read what `tile_path` and `entries_path` write, nothing else. Raises: MalformedError `tile-path-malformed`."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise MalformedError("tile-path-malformed", "not the path of a tile", got=path[:120])
    kind, number, width = match.groups()
    tile = TilePath(
        level=None if kind == "entries" else int(kind),
        number=int(number.replace("x", "").replace("/", "")),
        width=TILE if width is None else int(width),
    )
    if str(tile) != path:
        raise MalformedError(
            "tile-path-malformed", "a tile path that is not spelled canonically", got=path, expected=tile
        )
    return tile


def _number_path(n: int, width: int) -> str:
    if not 0 <= n <= MAX_SIZE // TILE:
        raise MalformedError("tile-path-malformed", "no such tile number", got=n, expected="0 ≤ number < 2**55")
    if not 1 <= width <= TILE:
        raise MalformedError("tile-path-malformed", "a tile has 1 to 256 hashes", got=width)
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return path if width == TILE else f"{path}.p/{width}"


class FilledTile(NamedTuple):
    """A tile that an append has just filled: `data` is its 8,192 bytes."""

    level: int
    number: int
    data: bytes


class RightEdge:
    """The open tiles of a tree and every hash inside them: all that an append and a root need.

    `rows[b]` holds the hashes of tree level b that lie in the open tile of tile level b // 8. Appending hashes each
    inner node once, when its right child arrives; the root folds the last hash of every row of odd length.
    """

    __slots__ = ("_rows", "size")

    def __init__(self, size: int = 0, tails: Sequence[bytes] = ()) -> None:
        """Restore the edge of a tree of `size` leaves from `tails`: per tile level, the bytes of its open tile.

        Raises: MalformedError `edge-malformed` if a tail has not exactly (size >> 8 * level) % 256 hashes.
        """
        if not 0 <= size <= MAX_SIZE or len(tails) > _LEVELS:
            raise MalformedError("edge-malformed", "not the edge of a tree", got=f"size {size}, {len(tails)} tails")
        self.size = size
        self._rows: list[list[bytes]] = [[] for _ in range(_LEVELS * _HEIGHT)]
        for level in range(_LEVELS):
            tail = tails[level] if level < len(tails) else b""
            expected = (size >> _HEIGHT * level) % TILE * HASH_SIZE
            if len(tail) != expected:
                raise MalformedError(
                    "edge-malformed",
                    f"the open tile of level {level} has the wrong length",
                    got=len(tail),
                    expected=expected,
                )
            self._rows[level * _HEIGHT : (level + 1) * _HEIGHT] = _rows(tail)

    def append(self, leaf_hash: bytes) -> tuple[FilledTile, ...]:
        """Add one leaf of 32 bytes; return the tiles that it filled, lowest level first (nearly always none)."""
        rows = self._rows
        index = self.size
        self.size = index + 1
        rows[0].append(leaf_hash)
        if not index & 1:
            return ()
        level = 0
        value = leaf_hash
        bits = index
        while bits & 1:
            value = sha256(b"\x01" + rows[level][-2] + value).digest()
            level += 1
            rows[level].append(value)
            bits >>= 1
        return self._cut() if level >= _HEIGHT else ()

    def extend(self, leaf_hashes: Sequence[bytes]) -> tuple[FilledTile, ...]:
        """Add many leaves; as `append` for each, but a row at a time, which takes two thirds of the time."""
        filled: list[FilledTile] = []
        start = 0
        while start < len(leaf_hashes):
            if (room := TILE - 1 - self.size % TILE) == 0:  # the last leaf of a tile carries upwards
                filled += self.append(leaf_hashes[start])
                start += 1
                continue
            row = self._rows[0]
            row.extend(leaf_hashes[start : start + room])
            self.size += len(leaf_hashes[start : start + room])
            start += room
            for above in self._rows[1:_HEIGHT]:
                first = 2 * len(above)
                above.extend(
                    [sha256(b"\x01" + a + b).digest() for a, b in zip(row[first::2], row[first + 1 :: 2], strict=False)]
                )
                row = above
        return tuple(filled)

    def root(self) -> bytes:
        """Return the root of the tree; costs at most 62 hashes."""
        root = b""
        for level in range(self.size.bit_length()):
            if self.size >> level & 1:
                root = node_hash(self._rows[level][-1], root) if root else self._rows[level][-1]
        return root or EMPTY_ROOT

    def tail(self, level: int) -> bytes:
        """Return the bytes of the open tile of a tile level, 0 to 255 hashes: the partial tile to serve."""
        return b"".join(self._rows[level * _HEIGHT])

    def tails(self) -> tuple[bytes, ...]:
        """Return what `RightEdge(size, tails)` needs to come back."""
        return tuple(self.tail(level) for level in range(-(-self.size.bit_length() // _HEIGHT)))

    def node(self, level: int, index: int) -> bytes | None:
        """Return the hash of subtree (level, index) if it lies in an open tile, None if a filled tile holds it.

        Raises: MalformedError `size-out-of-range` if the tree has not filled that subtree.
        """
        if index < 0 or level < 0 or (index + 1) << level > self.size:
            raise MalformedError("size-out-of-range", "the tree is not that large", got=f"({level}, {index})")
        within = level % _HEIGHT
        first = self.size >> level - within + _HEIGHT << _HEIGHT - within
        return self._rows[level][index - first] if index >= first else None

    def _cut(self) -> tuple[FilledTile, ...]:
        filled: list[FilledTile] = []
        level, count = 0, self.size
        while count % TILE == 0:
            count //= TILE
            filled.append(FilledTile(level, count - 1, self.tail(level)))
            for row in self._rows[level * _HEIGHT : (level + 1) * _HEIGHT]:
                row.clear()
            level += 1
        return tuple(filled)


class TileReader:
    """A `HashReader` over full tiles, which it keeps expanded (16 KiB each), and the open edge.

    `fetch(level, number)` returns the 8,192 bytes of a full tile. Not thread-safe.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], edge: RightEdge, *, keep: int = 256) -> None:
        self._fetch = fetch
        self._edge = edge
        self._keep = keep
        self._tiles: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of complete subtree (level, index). Raises: MalformedError, and what `fetch` raises."""
        value = self._edge.node(level, index)
        if value is not None:
            return value
        within = level % _HEIGHT
        number, offset = divmod(index << within, TILE)
        row = self._expanded(level // _HEIGHT, number)[within]
        return row[(offset >> within) * HASH_SIZE :][:HASH_SIZE]

    def _expanded(self, level: int, number: int) -> list[bytes]:
        key = (level, number)
        if (rows := self._tiles.get(key)) is not None:
            self._tiles.move_to_end(key)
            return rows
        data = self._fetch(level, number)
        if len(data) != TILE_BYTES:
            raise MalformedError(
                "tile-malformed", f"{tile_path(level, number)} is not a full tile", got=f"{len(data)} bytes"
            )
        rows = self._tiles[key] = [b"".join(row) for row in _rows(data)]
        if len(self._tiles) > self._keep:
            self._tiles.popitem(last=False)
        return rows


def _rows(tile: bytes) -> list[list[bytes]]:
    """Return the eight rows of complete subtrees inside a tile (or its prefix), from its own hashes upwards."""
    rows = [[tile[i : i + HASH_SIZE] for i in range(0, len(tile), HASH_SIZE)]]
    while len(rows) < _HEIGHT:
        below = rows[-1]
        rows.append([node_hash(*pair) for pair in zip(below[::2], below[1::2], strict=False)])
    return rows
