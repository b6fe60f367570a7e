"""The Merkle tree of a log on disk: every hash of every tile level, 256 tiles to a file.

    tile/<level>/<index of the first hash, 20 digits>.tiles      ≤ 65,536 hashes of 32 bytes, 2 MiB

Tile (level, n) is the 8,192 bytes at 8192 × (n mod 256) of file 65536 × (n div 256), a partial tile is a prefix of
that: so 10⁹ entries need 15,000 files and not four million, and a save is one fdatasync a level and not one a tile.

The rule: hashes below the size in `state` are durable before `state` says so and never change again. Hashes behind it
are in memory, are made again from the journal after a crash, and whatever a file holds there has no meaning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from genealog.core.merkle import leaf_hash
from genealog.core.tile import TILE, TILE_BYTES, RightEdge, TileReader, tile_path
from genealog.errors import MissingError, StoreError
from genealog.store.disk import disk, sync_folder, write_at

_FILE = 65_536  # hashes in a file
_HASH = 32
_WAITING = 1024  # filled tiles (8 MiB) after which `full` asks for a save


class LogTree:
    """The tree of the log in `folder`. `read` is a `HashReader`. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tile"
        self._waiting: dict[tuple[int, int], bytes] = {}
        self._named: set[Path] = set()  # files whose names this object has made durable
        self._start(RightEdge())

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._edge.size

    @property
    def full(self) -> bool:
        """Whether so much waits in memory that it is time to `save`."""
        return len(self._waiting) >= _WAITING

    def restore(self, size: int) -> None:
        """Become the tree of `size` leaves that was saved. The caller compares the root.

        Raises: StoreError `tile-missing`, `disk-error`.
        """
        tails: list[bytes] = []
        while count := size >> 8 * len(tails):
            level = len(tails)
            tails.append(load_tile(self._folder, level, count // TILE, count % TILE) if count % TILE else b"")
        self._waiting.clear()
        self._start(RightEdge(size, tails))

    def grow(self, entries: Iterable[bytes]) -> None:
        """Add entries."""
        for tile in self._edge.extend([leaf_hash(entry) for entry in entries]):
            self._waiting[tile.level, tile.number] = tile.data

    def root(self) -> bytes:
        """Return the root of the whole tree."""
        return self._edge.root()

    def tile(self, level: int, number: int, width: int = TILE) -> bytes:
        """Return the first `width` hashes (1..256) of a tile. Raises: MissingError `no-such-tile`; StoreError."""
        hashes = self.size >> 8 * level
        if not 0 <= level < 8 or number < 0 or not 1 <= width <= TILE or number * TILE + width > hashes:
            raise MissingError("no-such-tile", f"the log has no tile ({level}, {number}) of width {width}")
        if number < hashes // TILE:
            return self._fetch(level, number)[: width * _HASH]
        return self._edge.tail(level)[: width * _HASH]

    def save(self) -> None:
        """Make every hash durable. Raises: StoreError `disk-error`."""
        pieces = dict(self._waiting)
        for level in {0, *(level + 1 for level, _ in self._waiting)}:
            if tail := self._edge.tail(level):
                pieces[level, (self.size >> 8 * level) // TILE] = tail
        files: dict[Path, list[tuple[int, bytes]]] = {}
        for (level, number), data in pieces.items():
            path, offset = tile_place(self._folder, level, number)
            files.setdefault(path, []).append((offset, data))
        with disk("saving the hashes of the log"):
            for path, writes in files.items():
                self._write(path, writes)
        self._waiting.clear()

    def forget(self, size: int) -> None:
        """Drop from memory the tiles that a tree of `size` leaves fills: another process has saved them."""
        for level, number in [key for key in self._waiting if (key[1] + 1) * TILE <= size >> 8 * key[0]]:
            del self._waiting[level, number]

    def _start(self, edge: RightEdge) -> None:
        self._edge = edge
        self.read = TileReader(self._fetch, edge)

    def _fetch(self, level: int, number: int) -> bytes:
        return self._waiting.get((level, number)) or load_tile(self._folder, level, number)

    def _write(self, path: Path, writes: Sequence[tuple[int, bytes]]) -> None:
        if path in self._named:
            write_at(path, writes)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(self._folder)
        write_at(path, writes)
        sync_folder(path.parent)
        self._named.add(path)


def tile_place(folder: Path, level: int, number: int) -> tuple[Path, int]:
    """Return the file below `folder` (the `tile` of a log) that holds a tile, and the byte at which the tile starts."""
    first = number * TILE - number * TILE % _FILE
    return folder / str(level) / f"{first:020d}.tiles", number * TILE_BYTES % (_FILE * _HASH)


def load_tile(folder: Path, level: int, number: int, width: int = TILE) -> bytes:
    """Return the first `width` hashes of a tile from its file. Raises: StoreError `tile-missing`, `disk-error`."""
    path, offset = tile_place(folder, level, number)
    with disk(f"reading {path.name}"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            data = b""
        else:
            try:
                data = os.pread(handle, width * _HASH, offset)
            finally:
                os.close(handle)
    if len(data) != width * _HASH:
        raise StoreError(
            "tile-missing",
            f"{tile_path(level, number, width)} is not in {path.relative_to(folder.parent)}",
            got=f"{len(data)} bytes at {offset}",
            expected=f"{width * _HASH} bytes",
            hint="tiles are derived from the journal: `genealog fsck --repair` makes them again",
        )
    return data
