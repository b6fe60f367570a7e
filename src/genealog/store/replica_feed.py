"""What of a spool has to go to its replica next: whole frames in order, read back from the segments.

Nothing waits in memory: the segments are the queue, and a segment that the sequencer has deleted is in the call log.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from genealog.store.spool import HEADER, SEGMENT_NAME

BATCH = 1024 * 1024  # bytes, unless one frame is longer


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames of one segment, and what a replica must know besides (`store.replica_spool.Batch`)."""

    segment: int
    offset: int
    data: bytes
    oldest: str
    keep: int
    previous: int | None

    @property
    def end(self) -> tuple[int, int]:
        """Where it ends: segment and byte."""
        return self.segment, self.offset + len(self.data)


class Feed:
    """Reads on in one boot of one emitter. Raises: OSError."""

    def __init__(self, folder: Path, boot: str, segment: int = 0, offset: int = 0) -> None:
        self._folder = folder
        self._boot = boot
        self._at = (segment, offset)
        self._previous: int | None = None
        self._file: tuple[int, int] | None = None  # segment, descriptor

    def next(self, end: tuple[int, int]) -> Piece | None:
        """Return what comes next before `end` (`SpoolWriter.position`), None if there is nothing."""
        while self._at < end:
            segment, offset = self._at
            if (fd := self._opened(segment)) is None:
                names = self._names()
                later = [number for boot, number in names if boot == self._boot and number > segment]
                self._at, self._previous = (min(later, default=end[0]), 0), None
                continue
            size = end[1] if segment == end[0] else os.fstat(fd).st_size
            if offset >= size:
                self._at, self._previous = (segment + 1, 0), size
                continue
            data = _frames(fd, offset, size)
            names = self._names()
            here = [number for boot, number in names if boot == self._boot]
            piece = Piece(
                segment, offset, data, oldest=min(names, default=(self._boot, 0))[0], keep=min(here, default=segment),
                previous=self._previous if offset == 0 else None,
            )  # fmt: skip
            self._at = piece.end
            return piece
        return None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file[1])
            self._file = None

    def _opened(self, segment: int) -> int | None:
        if self._file is None or self._file[0] != segment:
            self.close()
            try:
                path = self._folder / f"{self._boot}.{segment:06d}.spool"
                self._file = segment, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        return self._file[1]

    def _names(self) -> list[tuple[str, int]]:
        matches = (SEGMENT_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return [(match[1], int(match[2])) for match in matches if match]


def _frames(fd: int, offset: int, size: int) -> bytes:
    """Return whole frames from `offset` on, at least one, about `BATCH` bytes."""
    data = os.pread(fd, min(BATCH, size - offset), offset)
    if len(data) == size - offset:
        return data
    at = 0
    while at + HEADER.size <= len(data):
        length = HEADER.size + HEADER.unpack_from(data, at)[0]
        if at + length > len(data):
            return data[:at] if at else os.pread(fd, length, offset)
        at += length
    return data[:at]
