"""Digests of the tensors that a layout names, made from one pass over the file and, for scattered ones, a second look.

Runs of bytes are hashed as they come by: one digest for runs that are the same, each its own where they overlap. Loose
tensors are read in pieces afterwards, from the same open file. Whatever the file, memory stays at some MiB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from typing import BinaryIO

from genealog.core.layout import Layout
from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError

# Overlaps, repeats and zip bombs: more than this many bytes to hash for one of the file is no model. 1,032 is what
# deflate can make of a byte.
MAX_WORK = 1_100
_FREE = 64 << 20  # bytes; small files may repeat themselves as they like


class RunHasher:
    """Takes the bytes of one file in order (`update`), then the file itself (`finish`), and makes tensor entries."""

    def __init__(self, layout: Layout, size: int) -> None:
        """Raises: MalformedError `bad-layout` (a run outside the file), `too-much-to-hash`."""
        self._layout = layout
        self._size = size
        self._ranges = sorted({(run.start, run.stop) for run in layout.runs})
        for start, stop in self._ranges:
            if not 0 <= start <= stop <= size:
                raise MalformedError("bad-layout", "a tensor lies outside its file", got=f"{start} to {stop} of {size}")
        self._left = MAX_WORK * size + _FREE
        self._work(sum(stop - start for start, stop in self._ranges) + sum(loose.size for loose in layout.loose))
        self._digests: dict[tuple[int, int], str] = {}
        self._open: list[tuple[int, int, hashlib._Hash]] = []
        self._next = 0
        self._at = 0
        self._loose: list[TensorEntry] = []

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        begin, end = self._at, self._at + len(data)
        still = []
        for start, stop, digest in self._open:
            digest.update(data[: stop - begin])
            if stop > end:
                still.append((start, stop, digest))
            else:
                self._digests[start, stop] = digest.hexdigest()
        while self._next < len(self._ranges) and self._ranges[self._next][0] < end:
            start, stop = self._ranges[self._next]
            self._next += 1
            digest = hashlib.sha256(data[start - begin : stop - begin])
            if stop > end:
                still.append((start, stop, digest))
            else:
                self._digests[start, stop] = digest.hexdigest()
        self._open = still
        self._at = end

    def finish(self, file: BinaryIO, tick: Callable[[], None] | None = None) -> None:
        """Read the loose tensors. `tick` is called for each piece and may raise to stop.

        Raises: MalformedError `too-much-to-hash`, and what a reader of the format raises.
        """
        for tensor in self._layout.loose:
            digest, charged = hashlib.sha256(), tensor.size
            for piece in tensor.read(file):
                self._work(max(0, len(piece) - charged))
                charged = max(0, charged - len(piece))
                digest.update(piece)
                if tick is not None:
                    tick()
            entry = TensorEntry(dtype=tensor.dtype, name=tensor.name, sha256=digest.hexdigest(), shape=tensor.shape)
            self._loose.append(entry)

    def tensors(self) -> tuple[TensorEntry, ...]:
        """Return the entries, sorted by name. Raises: MalformedError `duplicate-tensor`."""
        empty = hashlib.sha256().hexdigest()
        entries = [
            TensorEntry(
                dtype=run.dtype, name=run.name, shape=run.shape,
                sha256=empty if run.start == run.stop else self._digests[run.start, run.stop],
            )
            for run in self._layout.runs
        ]  # fmt: skip
        entries += self._loose
        entries.sort(key=lambda entry: entry.name)
        for before, after in pairwise(entries):
            if before.name == after.name:
                raise MalformedError("duplicate-tensor", "one file holds two tensors of one name", got=repr(after.name))
        return tuple(entries)

    def _work(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise MalformedError(
                "too-much-to-hash", "the tensors of this file are far bigger than the file",
                expected=f"≤ {MAX_WORK} bytes for each of its {self._size}", hint="save the weights without views",
            )  # fmt: skip
