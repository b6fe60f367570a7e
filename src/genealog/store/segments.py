"""Reading the journal: frames one after the other with every check, and single entries at random.

A `Tip` is the end of what was verified. `Segments.next_frame` reads the frame behind it and refuses, with the
evidence, a frame that does not continue it. What an interrupted append left at the very end of the journal comes back
as `Torn`; whoever holds the lock may then drop it (`set_aside`). Nothing else here writes.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from genealog.errors import MalformedError, StoreError
from genealog.store.disk import close_quietly, disk, sync_folder, write_whole
from genealog.store.journal import (
    HEADER,
    NO_DIGEST,
    SEGMENT,
    Frame,
    Header,
    decode_frame,
    decode_header,
    is_torn,
    later_frame,
    segment_of,
    split_body,
)

_OPEN_FILES = 16
_SPLIT_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the verified part of a journal ends: `size` entries, and behind which byte of which segment.

    `epoch` and `prev` (the digest) are those of the last frame.
    """

    size: int = 0
    epoch: int = 0
    segment: int = 0
    offset: int = 0
    prev: bytes = NO_DIGEST

    @property
    def place(self) -> tuple[int, int]:
        """The segment and offset of the next frame."""
        segment = segment_of(self.size)
        return segment, self.offset if segment == self.segment else 0

    def after(self, *, stop: int, epoch: int, length: int, digest: bytes) -> Tip:
        """Return the tip behind a frame that starts at `place`, is `length` bytes long and ends at index `stop`."""
        segment, offset = self.place
        return Tip(stop, epoch, segment, offset + length, digest)


@dataclass(frozen=True, slots=True)
class Torn:
    """The remains of an append that never finished. `index` is the entry that it would have begun with."""

    path: Path
    offset: int
    data: bytes
    index: int

    def __str__(self) -> str:
        return f"{self.path.name} at byte {self.offset}, entry {self.index}"


@dataclass(slots=True)
class _Table:
    """Where the frames of one segment are, as far as their headers were read."""

    firsts: list[int] = field(default_factory=list)
    places: list[tuple[int, Header]] = field(default_factory=list)
    end: int = 0


class Segments:
    """The segment files of one journal. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: OrderedDict[int, int] = OrderedDict()
        self._tables: OrderedDict[int, _Table] = OrderedDict()
        self._split: OrderedDict[tuple[int, int], tuple[bytes, ...]] = OrderedDict()

    def path(self, segment: int) -> Path:
        """Return the file of the segment that starts at index `segment`."""
        return self.folder / f"{segment:020d}.seg"

    def length(self, segment: int) -> int:
        """Return the bytes in a segment file, 0 where there is none. Raises: StoreError `journal-replaced`."""
        with disk("reading the journal"):
            try:
                status = os.stat(f"{self.folder}/{segment:020d}.seg")  # noqa: PTH116 - once per append
            except FileNotFoundError:
                return 0
        if segment in self._files:
            mine = os.fstat(self._files[segment])
            if (mine.st_dev, mine.st_ino) != (status.st_dev, status.st_ino):
                raise StoreError(
                    "journal-replaced",
                    f"{self.path(segment).name} was replaced by another file while the log was open",
                    hint="somebody restored or moved the log under a running process; close it and run `genealog fsck`",
                )
        return status.st_size

    def next_frame(self, tip: Tip) -> tuple[Frame, Tip] | Torn | None:
        """Return the frame behind `tip` with the new tip, what is left of one, or None at the end of the journal.

        Raises: StoreError `journal-rolled-back`, `journal-gap`, `journal-damaged`, `journal-order`, `journal-chain`,
        `journal-epoch`, `journal-replaced`, each with file, byte and entry index.
        """
        segment, offset = tip.place
        missing = offset - (length := self.length(segment))
        if missing > 0:
            raise self.damage(
                "journal-rolled-back", tip, "the journal is shorter than it was", got=length, expected=f"≥ {offset}"
            )
        if missing == 0:
            if self.length(segment + SEGMENT):
                raise self.damage("journal-gap", tip, "the next segment file exists, but this one ends too early")
            return None
        head = self.read(segment, HEADER.size, offset)
        try:
            frame = decode_frame(self.read(segment, decode_header(head).length, offset))
        except MalformedError as error:
            return self._torn(tip, error)
        self._check_order(tip, frame)
        return frame, tip.after(stop=frame.stop, epoch=frame.epoch, length=frame.length, digest=frame.digest)

    def entry(self, index: int) -> bytes:
        """Return entry `index`, which the caller knows to exist, unverified. Raises: StoreError `journal-damaged`."""
        first, entries = self._frame_of(index)
        return entries[index - first]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield entries start ≤ index < stop, unverified, one frame in memory at a time. Raises: as `entry`."""
        while start < stop:
            first, entries = self._frame_of(start)
            found = entries[start - first : stop - first]
            start += len(found)
            yield from found

    def read(self, segment: int, length: int, offset: int) -> bytes:
        """Return up to `length` bytes; fewer at the end of the file, none where there is no file."""
        with disk("reading the journal"):
            if segment not in self._files:
                try:
                    self._files[segment] = os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return b""
                if len(self._files) > _OPEN_FILES:
                    close_quietly(self._files.popitem(last=False)[1])
            return os.pread(self._files[segment], length, offset)

    def digest_before(self, segment: int, offset: int) -> bytes:
        """Return the 32 bytes that end at `offset`: the digest of the frame that ends there."""
        return self.read(segment, 32, offset - 32) if offset >= 32 else b""

    def damage(self, code: str, tip: Tip, message: str, *, got: object = None, expected: object = None) -> StoreError:
        """Return the error that tells what is wrong with the frame behind `tip`."""
        segment, offset = tip.place
        return StoreError(
            code,
            f"{self.path(segment).name} at byte {offset}, entry {tip.size}: {message}",
            got=got,
            expected=expected,
            hint="this data was acknowledged: do not repair the journal by hand; run `genealog fsck`, restore a backup",
        )

    def close(self) -> None:
        """Close the files. They open again when needed."""
        while self._files:
            close_quietly(self._files.popitem()[1])
        self._tables.clear()
        self._split.clear()

    def _torn(self, tip: Tip, error: MalformedError) -> Torn:
        segment, offset = tip.place
        tail = self.read(segment, self.length(segment) - offset, offset)
        later = later_frame(tail)
        if later is not None:
            message = f"{error.message}, and a whole frame follows at byte {offset + later}"
        elif self.length(segment + SEGMENT):
            message = f"{error.message}, and another segment follows"
        elif not is_torn(tail, offset):
            message = f"{error.message}, in a frame that was written in full"
        else:
            return Torn(self.path(segment), offset, tail, tip.size)
        raise self.damage("journal-damaged", tip, message, got=error.got, expected=error.expected) from None

    def _check_order(self, tip: Tip, frame: Frame) -> None:
        if frame.first != tip.size:
            raise self.damage(
                "journal-order", tip, "a frame with another first index", got=frame.first, expected=tip.size
            )
        if frame.prev != tip.prev:
            raise self.damage(
                "journal-chain",
                tip,
                "the frame does not continue the one before it",
                got=frame.prev.hex(),
                expected=tip.prev.hex(),
            )
        if frame.epoch < tip.epoch:
            raise self.damage("journal-epoch", tip, "the epoch went back", got=frame.epoch, expected=f"≥ {tip.epoch}")

    def _frame_of(self, index: int) -> tuple[int, tuple[bytes, ...]]:
        """Return the entries of the frame that holds `index`, and the index of the first of them."""
        segment = segment_of(index)
        table = self._table(segment, index)
        while (not table.firsts or table.firsts[0] > index) and segment:  # its frame began in an earlier segment
            segment -= SEGMENT
            table = self._table(segment, index)
        number = bisect_right(table.firsts, index) - 1
        if number < 0:
            raise self._lost(index)
        offset, header = table.places[number]
        if index - header.first >= header.count:
            raise self._lost(index)
        return header.first, self._entries(segment, offset, header)

    def _table(self, segment: int, index: int) -> _Table:
        """Return the frame table of a segment, read far enough to hold `index` if the segment does."""
        table = self._tables.setdefault(segment, _Table())
        self._tables.move_to_end(segment)
        if len(self._tables) > _OPEN_FILES:
            self._tables.popitem(last=False)
        last = table.places[-1][1] if table.places else None
        while last is None or last.first + last.count <= index:
            head = self.read(segment, HEADER.size, table.end)
            try:
                last = decode_header(head)
            except MalformedError:
                break  # the end of the segment; damage shows when the entry is not found
            table.firsts.append(last.first)
            table.places.append((table.end, last))
            table.end += last.length
        return table

    def _entries(self, segment: int, offset: int, header: Header) -> tuple[bytes, ...]:
        key = (segment, offset)
        if (entries := self._split.get(key)) is None:
            body = self.read(segment, header.body_length, offset + header.body_offset)
            try:
                entries = split_body(body, header.count)
            except MalformedError:
                raise self._lost(header.first) from None
            self._split[key] = entries
            if len(self._split) > _SPLIT_FRAMES:
                self._split.popitem(last=False)
        return entries

    def _lost(self, index: int) -> StoreError:
        return StoreError(
            "journal-damaged",
            f"{self.path(segment_of(index)).name}: entry {index} cannot be read",
            hint="run `genealog fsck`, which names every damaged frame; restore the file from a backup",
        )


def set_aside(torn: Torn, folder: Path) -> None:
    """Cut the remains of an unfinished append off the journal, after a durable copy of them is in `folder`.

    The copy is named `<segment>-<byte>-<digest>.torn`. The caller holds the lock of the log. Raises: StoreError.
    """
    with disk("setting aside an unfinished append"):
        name = f"{torn.path.stem}-{torn.offset}-{sha256(torn.data).hexdigest()[:8]}.torn"
        folder.mkdir(exist_ok=True)
        write_whole(folder / name, torn.data)
        sync_folder(folder)
        handle = os.open(torn.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(handle, torn.offset)
            os.fsync(handle)
        finally:
            os.close(handle)
