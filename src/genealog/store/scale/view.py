"""What one process knows of a scale log: the signed head, the tree up to where it has read, what is behind the head.

Signed entries come from the bucket (`tiles`), later ones from the database. A head that is taken in must continue the
tree known before; it is refused otherwise. Not thread-safe; the session comes with each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from genealog.core.merkle import HashReader, leaf_hash, root_at
from genealog.core.tile import TILE, RightEdge, TileReader
from genealog.errors import StoreError
from genealog.store.journal import split_body
from genealog.store.scale.ports import Head, Objects, Row
from genealog.store.scale.tiles import Tiles

_PAGE = 4096  # entries read from the database at once


class Rows(Protocol):
    """One log of one session."""

    def head(self) -> Head:
        """Return the committed head."""

    def rows(self, first: int, limit: int) -> Sequence[Row]:
        """Return batches from the one that holds `first` on."""


class ScaleView:
    """The log below `objects`. `check_note` refuses a head whose note does not say what it says."""

    def __init__(self, objects: Objects, check_note: Callable[[Head], None]) -> None:
        self._tiles = Tiles(objects)
        self._check_note = check_note
        self.head: Head | None = None
        self._edge = RightEdge()
        self._pending: dict[tuple[int, int], bytes] = {}
        self._read = TileReader(self.full, self._edge)

    def look(self, source: Rows) -> Head:
        """Take in the newest head. Raises: StoreError `log-rolled-back`, `log-altered`, `tile-missing`."""
        head = source.head()
        if self.head is not None and head.size == self.head.size and head.note == self.head.note:
            return self.head
        self._check_note(head)
        old = self._edge
        if self.head is not None and head.size < self.head.size:
            raise _contradiction("log-rolled-back", head, f"{self.head.size} entries were signed before")
        if head.size > old.size or self.head is None:
            edge = self._tiles.edge(head)
            read = TileReader(lambda level, number: self._signed(level, number, edge), edge)
            if root_at(old.size, read) != old.root():
                raise _contradiction("log-altered", head, f"root {old.root().hex()} at {old.size} entries")
            self._start(edge, {})
        else:
            if root_at(head.size, self._read) != head.root:
                raise _contradiction("log-altered", head, "the root over the entries read before")
            kept = {key: data for key, data in self._pending.items() if (key[1] + 1) * TILE > head.size >> 8 * key[0]}
            self._pending = kept
        self.head = head
        return head

    def catch_up(self, source: Rows, size: int) -> RightEdge:
        """Read what is behind the head up to at least `size`; return the edge."""
        while self._edge.size < size:
            rows = [row for row in source.rows(self._edge.size, _PAGE) if row.stop > self._edge.size]
            if not rows:  # they are in the bucket by now
                self._require(self.look(source), self._edge.size + 1)
                continue
            for row in rows:
                entries = split_body(row.data, row.count)[self._edge.size - row.first :]
                for tile in self._edge.extend([leaf_hash(entry) for entry in entries]):
                    self._pending[tile.level, tile.number] = tile.data
        return self._edge

    def reader(self, source: Rows, size: int) -> HashReader:
        """Return what reads hashes of the tree of at least `size` leaves."""
        self.catch_up(source, size)
        return self._read

    def root_at(self, source: Rows, size: int) -> bytes:
        """Return the root of the first `size` leaves."""
        return root_at(size, self.reader(source, size))

    def entries(self, source: Rows, start: int, stop: int) -> tuple[bytes, ...]:
        """Return entries from `start` on: at least one, at most to `stop`, as many as lie together."""
        head = self.head if self.head is not None else self.look(source)
        if start >= head.size:
            rows = source.rows(start, 1)
            if rows:
                return split_body(rows[0].data, rows[0].count)[start - rows[0].first : stop - rows[0].first]
            head = self._require(self.look(source), start + 1)
        number = start // TILE
        width = min(TILE, head.size - number * TILE)
        leaves = self.full(0, number) if number < self._edge.size // TILE else self._edge.tail(0)
        try:
            found = self._tiles.bundle(number, leaves[: width * 32])
        except StoreError as error:
            newer = self.look(source)
            if error.code != "bundle-missing" or newer.size == head.size:
                raise
            return self.entries(source, start, stop)  # the partial bundle has become a longer one
        return found[start - number * TILE : stop - number * TILE]

    def full(self, level: int, number: int) -> bytes:
        """Return a full tile, checked."""
        pending = self._pending.get((level, number))
        return pending or self._tiles.full(level, number, self._edge, self.full)

    def _signed(self, level: int, number: int, edge: RightEdge) -> bytes:
        """Return a full tile of the bucket, whatever this process has computed itself."""
        return self._tiles.full(level, number, edge, lambda above, index: self._signed(above, index, edge))

    def _start(self, edge: RightEdge, pending: dict[tuple[int, int], bytes]) -> None:
        self._edge = edge
        self._pending = pending
        self._read = TileReader(self.full, edge)

    def _require(self, head: Head, size: int) -> Head:
        if head.size < size:
            raise StoreError(
                "seq-damaged", f"entry {head.size} and those after it are neither in the bucket nor in the database",
                hint="acknowledged entries are gone: restore the database; `genealog fsck` names what is there",
            )  # fmt: skip
        return head


def _contradiction(code: str, head: Head, expected: str) -> StoreError:
    return StoreError(
        code,
        "the database's head does not continue what this process has seen of the log",
        got=f"{head.size} entries, root {head.root.hex()}",
        expected=expected,
        hint="keep database and bucket as they are: together they are evidence; compare with a witness",
    )
