"""Bytes that stay: files that are replaced whole or not at all, and the one error for a disk that fails.

The order is always: write a temporary file, fsync it, rename it, fsync the folder. A failed fsync is never tried
again, because the kernel may have dropped the pages that it could not write; who gets the error starts afresh.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genealog.errors import StoreError


@contextmanager
def disk(doing: str) -> Iterator[None]:
    """Turn an OSError into a StoreError `disk-error` that says what was being done."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            "disk-error",
            f"{doing}: {error.strerror or error}",
            got=errno.errorcode.get(error.errno or 0, error.errno),
            hint="check free space, permissions and the health of the disk, then open the store again",
        ) from error


def write_whole(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a new file in one write(2), or truncate and rewrite it. Raises: OSError, also for a short write."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_once(handle, data)
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)


def write_once(handle: int, data: bytes) -> None:
    """Write all of `data` with one write(2). Raises: OSError, ENOSPC if the kernel took only a part."""
    if os.write(handle, data) != len(data):
        raise OSError(errno.ENOSPC, "the disk took only a part of the data")


def write_at(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write pieces at their offsets into one file, made if need be; the bytes are durable, a new name is not.

    Raises: OSError.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for offset, data in pieces:
            if os.pwrite(handle, data, offset) != len(data):
                raise OSError(errno.ENOSPC, "the disk took only a part of the data")
        os.fdatasync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put `data` at `path` so that a reader sees the old bytes or the new ones, after a power cut too.

    `sync`: it is the new ones for sure on return. Only one process may do so at a time. Raises: OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    write_whole(temporary, data)
    os.replace(temporary, path)  # noqa: PTH105 - every system call that tests make fail goes through `os`
    if sync:
        sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep out whoever else locks this folder or file, in other processes too; a file is made if need be.

    Raises: StoreError `disk-error`.
    """
    with disk(f"locking {path.name}"):
        how = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
        handle = os.open(path, how | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
    try:
        yield
    finally:
        os.close(handle)


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder. Raises: StoreError `disk-error` where the disk does not say."""
    with disk(f"looking for {path}"):
        return path.is_dir()


def close_quietly(handle: int) -> None:
    """Close a descriptor whose bytes are durable, or were only read: an error now has no meaning any more."""
    with suppress(OSError):
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path) -> bytes | None:
    """Return the bytes of a file, None where there is none. Raises: StoreError `disk-error`."""
    with disk(f"reading {path.name}"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
