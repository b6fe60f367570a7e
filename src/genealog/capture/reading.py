"""Reads one file once, from start to end, and makes sure that it was the same file all the while.

Every reader of model bytes goes through `read_once`: the SHA-256 of the file and a second consumer (tensor
digests) see the same bytes in the same pass, on two cores. A file that is edited, cut, grown or replaced during the
read has no digest. Memory is three chunks, whatever the size, unless a private copy is asked for.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, Protocol, TypeVar

from genealog.errors import MalformedError, MissingError, StoreError

CHUNK = 1 << 20  # big enough that hand-overs between threads vanish, small enough to stay in a core's cache


class FileKey(NamedTuple):
    """What tells one state of one file from every other without reading it. Times are nanoseconds, size is bytes."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> FileKey:
        """Return the key of a stat result."""
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Consumer(Protocol):
    """Takes the bytes of a file in order. It must not keep `data`: the buffer is used again."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""


class Looker(Protocol):
    """Makes a consumer from a look at the open file first, and gives it the file again once all bytes went by."""

    def begin(self, file: BinaryIO, size: int, /) -> Consumer | None:
        """Return who takes the bytes, or None."""

    def finish(self, file: BinaryIO, /) -> None:
        """Look at whatever did not come by in one run."""


C = TypeVar("C", bound=Consumer)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OneRead(Generic[C]):
    """The result of one pass: hex SHA-256, the state of the file, the consumer and the copy that were asked for."""

    sha256: str
    key: FileKey
    consumer: C | None
    copy: memoryview | None


def read_once(
    path: str | os.PathLike[str],
    *,
    expected: FileKey | None = None,
    also: Callable[[int], C] | None = None,
    look: Looker | None = None,
    keep: bool = False,
    tick: Callable[[int], None] | None = None,
) -> OneRead[C]:
    """Read the regular file at `path` once and return its digest.

    `also` is called with the size in bytes and gives a second consumer, which runs beside the digest; `look` gives one
    from the open file, and sees the file again at the end. `keep` returns the bytes in memory that nobody else can
    write to (page-aligned, no map of the file). `tick` gets the bytes of each chunk and may raise to stop. `expected`
    is the state that the file must still be in.
    Raises: StoreError `file-changed`, `file-unreadable`; MissingError `no-such-file`; MalformedError
    `not-a-regular-file`; whatever the consumer raises.
    """
    try:
        with FileIO(path, opener=_open) as file:
            before = os.fstat(file.fileno())
            key = FileKey.of(before)
            if expected not in (None, key):
                raise _changed(path)
            if not stat.S_ISREG(before.st_mode):
                raise MalformedError("not-a-regular-file", "only regular files have a digest", got=repr(str(path)))
            consumer = None if also is None else also(key.size)
            looking = None if look is None else _with(file, lambda opened: look.begin(opened, key.size))
            digest, copy = _read(file, path, key.size, consumer=looking or consumer, keep=keep, tick=tick)
            if look is not None and looking is not None:
                _with(file, look.finish)
            if key != FileKey.of(Path(path).stat()):  # by its path: another file may have taken its place
                raise _changed(path)
    except FileNotFoundError:
        if expected is not None:
            raise _changed(path) from None
        raise MissingError("no-such-file", "there is no such file", got=repr(str(path))) from None
    except OSError as error:
        raise unreadable(path, error) from None
    return OneRead(sha256=digest, key=key, consumer=consumer, copy=copy)


def _with(file: FileIO, act: Callable[[BinaryIO], T]) -> T:
    """Give the file to `act` with a buffer, from its start, and rewind it."""
    file.seek(0)
    buffered = BufferedReader(file)
    try:
        return act(buffered)
    finally:
        buffered.detach()  # closing it would close the file
        file.seek(0)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe must not wait for its writer


def _read(
    file: FileIO,
    path: str | os.PathLike[str],
    size: int,
    *,
    consumer: Consumer | None,
    keep: bool,
    tick: Callable[[int], None] | None,
) -> tuple[str, memoryview | None]:
    copy = _private(size) if keep else None
    aside = consumer is not None and size > CHUNK  # a small file is not worth a thread
    ring = [memoryview(bytearray(min(CHUNK, size))) for _ in range(0 if keep else 3 if aside else 1)]
    whole, done, busy = hashlib.sha256(), 0, list[Future[None]]()
    with ThreadPoolExecutor(1, "genealog-tensors") as helper:  # its thread starts with the first submit
        while done < size:
            if len(busy) == 3:
                busy.pop(0).result()  # the buffer that we fill now was its buffer
            chunk = ring[done // CHUNK % len(ring)] if copy is None else copy[done : done + CHUNK]
            chunk = chunk[: _fill(file, chunk[: size - done])]
            if len(chunk) < min(CHUNK, size - done):
                raise _changed(path)
            if consumer is not None and aside:
                busy.append(helper.submit(consumer.update, chunk))
            elif consumer is not None:
                consumer.update(chunk)
            whole.update(chunk)
            done += len(chunk)
            if tick is not None:
                tick(len(chunk))
        for future in busy:
            future.result()
    return whole.hexdigest(), copy


def _private(size: int) -> memoryview:
    """Return `size` bytes of page-aligned memory that no other process shares."""
    if size == 0:
        return memoryview(bytearray())
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        pages.madvise(mmap.MADV_HUGEPAGE)  # small pages cost more to fault in than the file costs to read
    return memoryview(pages)


def _fill(file: FileIO, buffer: memoryview) -> int:
    """Fill `buffer` as far as the file goes: one read may give less than was asked for."""
    filled = 0
    while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
        filled += count
    return filled


def unreadable(path: str | os.PathLike[str], error: OSError) -> StoreError:
    """Return the one error for what the system refuses to read."""
    return StoreError("file-unreadable", f"cannot read: {error.strerror}", got=repr(str(path)))


def _changed(path: str | os.PathLike[str]) -> StoreError:
    return StoreError(
        "file-changed",
        "the file changed while it was read",
        got=repr(str(path)),
        hint="try again when nobody writes to it",
    )
