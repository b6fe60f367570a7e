"""Record digests in the order of reading → the sorted list and its root, with bounded memory.

Digests are gathered in runs that fit in memory; a run that is full is sorted and laid aside in a temporary file, and at
the end the runs are merged. 32 bytes a record are written aside, nothing of what is in it. What the root and the list
are is `core.recordset`'s.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from types import TracebackType
from typing import BinaryIO, Self

from genealog.core.data_record import READINGS, Reading, record_digest
from genealog.core.recordset import Listed, ListWriter

RUN = 1 << 18  # digests in memory: 25 MB
_PIECE = 4_096  # digests that are read at once of each run


@dataclass(frozen=True, slots=True)
class Taken:
    """The records of a dataset: `order` is the hex SHA-256 over all digests in the order in which they were read.

    `nested` are the paths of files that are one record each, with lists inside that may be what somebody calls records.
    """

    listed: Listed
    order: str
    readings: tuple[Reading, ...]
    nested: tuple[str, ...] = ()


class Collector:
    """Takes records one by one. A context: the runs that were laid aside go with it."""

    def __init__(self, run: int = RUN) -> None:
        self._run = run
        self._digests: list[bytes] = []
        self._order = sha256()
        self._readings: set[Reading] = set()
        self._aside: BinaryIO | None = None
        self._runs: list[tuple[int, int]] = []  # where each begins, and its digests

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._aside is not None:
            self._aside.close()

    def add(self, reading: Reading, data: bytes) -> None:
        """Take the bytes of the next record."""
        digest = record_digest(reading, data)
        self._order.update(digest)
        self._readings.add(reading)
        self._digests.append(digest)
        if len(self._digests) >= self._run:
            self._lay_aside()

    def finish(self, out: BinaryIO) -> Taken:
        """Write the list to `out`, which can seek, from where it stands. Raises: MalformedError `bad-count`."""
        writer, start = ListWriter(), out.tell()
        out.write(writer.header)
        out.writelines(writer.add(digest, sum(1 for _ in equal)) for digest, equal in groupby(self._sorted()))
        out.write(writer.groups)
        end = out.tell()
        out.seek(start)
        out.write(writer.header)  # now it knows how many there are
        out.seek(end)
        readings = tuple(reading for reading in READINGS if reading in self._readings)
        return Taken(writer.finish(), self._order.hexdigest(), readings)

    def _lay_aside(self) -> None:
        if self._aside is None:
            self._aside = tempfile.TemporaryFile(prefix="genealog-records-")  # noqa: SIM115 - closed on exit
        self._digests.sort()
        self._aside.seek(0, 2)
        self._runs.append((self._aside.tell(), len(self._digests)))
        self._aside.write(b"".join(self._digests))
        self._digests = []

    def _sorted(self) -> Iterator[bytes]:
        self._digests.sort()
        return heapq.merge(iter(self._digests), *(self._read(start, count) for start, count in self._runs))

    def _read(self, start: int, count: int) -> Iterator[bytes]:
        assert self._aside is not None  # noqa: S101 - a run was laid aside there
        for first in range(0, count, _PIECE):
            self._aside.seek(start + first * 32)
            piece = self._aside.read(min(_PIECE, count - first) * 32)
            for at in range(0, len(piece), 32):
                yield piece[at : at + 32]
