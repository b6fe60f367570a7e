"""Reads at a position of an open file: what the cursors of `core` ask for, and bounded pieces of a run of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from genealog.core.cursor import ReadAt
from genealog.errors import MalformedError

PIECE = 1 << 20


def read_at(file: BinaryIO) -> ReadAt:
    """Return a callable (offset, count) → bytes over `file`."""

    def at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return at


def pieces(file: BinaryIO, start: int, stop: int, *, code: str) -> Iterator[bytes]:
    """Yield the bytes from `start` to `stop`, at most 1 MiB at once. Raises: MalformedError `code` if the file ends."""
    while start < stop:
        file.seek(start)
        data = file.read(min(PIECE, stop - start))
        if not data:
            raise MalformedError(code, "the file ends inside a tensor", got=start, expected=f"{stop} bytes")
        yield data
        start += len(data)
