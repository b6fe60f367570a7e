"""Read a log that somebody publishes as a C2SP tile tree: a folder, or a web server (`remote.RemoteFiles`).

    checkpoint                        the newest signed head
    tile/0/x001/234                   256 hashes; `.p/112` behind it: the first 112 of an open tile
    tile/entries/x001/234             256 entries, each uint16 length (big endian) || bytes

Whoever serves the files is not believed. The caller says which head counts, after checking who signed it; every tile is
then checked against the tile above it, up to that head's root, and every entry against its tile. So a file that was
altered is found when it is read, and no proof is made from it. A partial tile that is gone is cut from the full one.

Nothing here decides which keys to trust, or writes (`static_export`).

Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import HashReader, consistency_path, inclusion_path, leaf_hash, tree_root
from genealog.core.note import MAX_NOTE
from genealog.core.tile import TILE, TILE_BYTES, RightEdge, TileReader, entries_path, tile_path
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError
from genealog.store.journal import split_body

MAX_BUNDLE = TILE * (2 + 65_535)  # bytes
_HASH = 32
_RECENT = 16  # full tiles kept as they came: an entry and its proof want the same one


class Files(Protocol):
    """Where the files of a tree come from."""

    def get(self, path: str, limit: int) -> bytes | None:
        """Return the file at a path of the tree, None where there is none.

        Raises: StoreError `disk-error`; MalformedError `tree-file-too-big`; UpstreamError.
        """


class FolderFiles:
    """A tree in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> FolderFiles:
        """Return the files of a folder. Raises: MissingError `no-such-tree`."""
        if not folder.is_dir():
            raise MissingError("no-such-tree", "there is no published log here", got=folder)
        return cls(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def get(self, path: str, limit: int) -> bytes | None:
        """See `Files`."""
        try:
            # Without waiting: who made the folder may have put a pipe there.
            handle = os.open(self.folder / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise StoreError("disk-error", f"reading {path}: not a file")
                with os.fdopen(handle, "rb", closefd=False) as stream:
                    data = stream.read(limit + 1)
            finally:
                os.close(handle)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError("disk-error", f"reading {path}: {error.strerror or error}") from None
        return _limited(path, data, limit)


class StaticTree:
    """A published tree. `head` is what `checkpoint` says, unchecked; `at` reads the tree below a head you believe."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def note(self) -> bytes:
        """Return the published signed head as it stands, signatures unchecked. Raises: MissingError `no-checkpoint`."""
        data = self.files.get("checkpoint", MAX_NOTE)
        if data is None:
            raise MissingError("no-checkpoint", "this tree has no checkpoint", got=self.files)
        return data

    def at(self, head: Checkpoint) -> StaticView:
        """Return the tree of `head`, whose signature the caller has checked.

        Raises: MissingError `tree-incomplete`; VerificationError `tree-altered` if its open tiles do not give its root.
        """
        return StaticView(self.files, head)


class StaticView:
    """The tree of one head. `read` is a `HashReader`; whatever it returns leads to the root. Not thread-safe.

    Every method raises MissingError `tree-incomplete`, VerificationError `tree-altered`, and what `Files.get` raises.
    """

    def __init__(self, files: Files, head: Checkpoint) -> None:
        self.files = files
        self.head = head
        self._recent: dict[tuple[int, int], bytes] = {}
        tails: list[bytes] = []
        while count := head.size >> 8 * len(tails):
            level = len(tails)
            tails.append(self._hashes(level, count // TILE, count % TILE) if count % TILE else b"")
        edge = RightEdge(head.size, tails)
        if edge.root() != head.root:
            raise _altered(f"the open tiles of size {head.size}", edge.root(), head.root)
        self.read: HashReader = TileReader(self._full, edge)
        self._edge = edge

    def tile(self, level: int, number: int, width: int = TILE) -> bytes:
        """Return the first `width` hashes of a tile. Raises: MissingError `no-such-tile`."""
        hashes = self.head.size >> 8 * level
        if not 0 <= level < 8 or number < 0 or not 1 <= width <= TILE or number * TILE + width > hashes:
            raise MissingError("no-such-tile", f"the log has no tile ({level}, {number}) of width {width}")
        data = self._full(level, number) if number < hashes // TILE else self._edge.tail(level)
        return data[: width * _HASH]

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield entries start ≤ index < stop, each checked. Raises: MissingError `no-such-entry`."""
        stop = self.head.size if stop is None else stop
        if start < stop and not 0 <= start < stop <= self.head.size:
            raise MissingError("no-such-entry", f"no entries {start} to {stop - 1}", expected=f"< {self.head.size}")
        while start < stop:
            number, skip = divmod(start, TILE)
            bundle = self.bundle(number)[skip : skip + stop - start]
            yield from bundle
            start += len(bundle)

    def entry(self, index: int) -> bytes:
        """Return an entry, checked. Raises: MissingError `no-such-entry`."""
        if not 0 <= index < self.head.size:
            raise MissingError("no-such-entry", f"{self.head.origin} has no entry {index}")
        return self.bundle(index // TILE)[index % TILE]

    def bundle(self, number: int) -> tuple[bytes, ...]:
        """Return all entries of a bundle that the head covers, each checked against the tile of their hashes."""
        width = min(TILE, self.head.size - number * TILE)
        path = entries_path(number, width)
        data = self.files.get(path, MAX_BUNDLE) if width < TILE else None
        if data is None:
            data, path = self.files.get(entries_path(number), MAX_BUNDLE), entries_path(number)
        if data is None:
            raise _incomplete(path, self.files)
        entries = split_bundle(data, path)
        if len(entries) < width:
            raise _altered(path, f"{len(entries)} entries", f"{width} entries")
        hashes = self.tile(0, number, width)
        for place, entry in enumerate(entries[:width]):
            if leaf_hash(entry) != hashes[place * _HASH : (place + 1) * _HASH]:
                raise _altered(f"entry {number * TILE + place} in {path}", leaf_hash(entry), "the hash in its tile")
        return entries[:width]

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is among the first `size`. Raises: MalformedError `size-out-of-range`."""
        return inclusion_path(index, self.head.size if size is None else size, self.read)

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the first `new` entries begin with the first `old`. Raises: as `inclusion`."""
        return consistency_path(old, self.head.size if new is None else new, self.read)

    def _full(self, level: int, number: int) -> bytes:
        """Fetch a full tile and check that its root is the hash that the tile above has for it."""
        if (kept := self._recent.get((level, number))) is not None:
            return kept
        data = self._hashes(level, number, TILE)
        root = tree_root([data[i : i + _HASH] for i in range(0, TILE_BYTES, _HASH)])
        if root != (expected := self.read(8 * (level + 1), number)):
            raise _altered(tile_path(level, number), root, expected)
        self._recent[level, number] = data
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return data

    def _hashes(self, level: int, number: int, width: int) -> bytes:
        path = tile_path(level, number, width)
        data = self.files.get(path, TILE_BYTES)
        if data is None and width < TILE:
            path = tile_path(level, number)
            data = self.files.get(path, TILE_BYTES)
            if data is not None and len(data) != TILE_BYTES:
                raise _altered(path, f"{len(data)} bytes", f"{TILE_BYTES} bytes")
            data = None if data is None else data[: width * _HASH]
        if data is None:
            raise _incomplete(path, self.files)
        if len(data) != width * _HASH:
            raise _altered(path, f"{len(data)} bytes", f"{width * _HASH} bytes")
        return data


def split_bundle(data: bytes, path: str = "the bundle") -> tuple[bytes, ...]:
    """Return the entries in an entry bundle. Raises: VerificationError `tree-altered` unless they fill it."""
    count, offset = 0, 0
    while offset + 2 <= len(data):
        offset += 2 + int.from_bytes(data[offset : offset + 2], "big")
        count += 1
    try:
        return split_body(data, count)
    except MalformedError:
        raise _altered(path, f"{len(data)} bytes", "entries that fill it") from None


def prove_tree(view: StaticView, told: Callable[[int], None] | None = None) -> None:
    """Prove a whole tree from its entries: hash each, compare every tile of every level, arrive at the root.

    `told` hears how many entries are done. Memory stays flat. Raises: as `StaticView`.
    """
    edge = RightEdge()
    for number in range(-(-view.head.size // TILE)):
        for tile in edge.extend([leaf_hash(entry) for entry in view.bundle(number)]):
            if view.tile(tile.level, tile.number) != tile.data:
                raise _altered(tile_path(tile.level, tile.number), "other hashes", "those of the entries")
        if told is not None:
            told(edge.size)
    if edge.root() != view.head.root:
        raise _altered("the tree", edge.root(), view.head.root)


def _limited(path: str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise MalformedError("tree-file-too-big", f"{path} is bigger than any such file", expected=f"≤ {limit} bytes")
    return data


def _altered(what: str, got: bytes | str, expected: bytes | str) -> VerificationError:
    texts = [value.hex() if isinstance(value, bytes) else value for value in (got, expected)]
    return VerificationError(
        "tree-altered", f"{what} is not what the signed head covers", got=texts[0], expected=texts[1],
        hint="whoever serves these files altered or mixed them: fetch them again, or from a mirror",
    )  # fmt: skip


def _incomplete(path: str, files: Files) -> MissingError:
    return MissingError(
        "tree-incomplete", f"{path} is not in the published tree", got=files,
        hint="publish again with `genealog log export`, or read from a mirror",
    )  # fmt: skip
