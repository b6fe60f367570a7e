"""A store is made whole or not at all, though the power may fail or the disk be full at any step of it.

A folder in which a store is being made holds `init.unfinished`, locked by the process that makes it, from before the
first file until all of it is durable. A failure takes back what was made. A crash leaves the mark: such a folder is no
store (`is_unfinished`), and the next `genealog init` begins it anew, because nobody can have used it. Only names that
`genealog init` makes are ever removed, and only under the mark.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genealog.errors import StoreError
from genealog.store.disk import close_quietly, disk, sync_folder

MARK = "init.unfinished"
_MADE = (
    "genealog.toml", "trust.policy", ".gitignore", "remote.json", "keys", "logs", "objects", "vault", "spool",
    "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "locations.json",
)  # fmt: skip


@contextmanager
def making(path: Path) -> Iterator[None]:
    """Make a store in the folder `path` in the body; whole and durable once this is left without an error.

    Raises: StoreError `store-exists` if something else is there; `disk-error`, with nothing left behind.
    """
    with disk(f"making a store in {path}"):
        lock = _begin(path)
        try:
            try:
                yield
                sync_folder(path)
                (path / MARK).unlink()
            except BaseException:
                with suppress(OSError):
                    _sweep(path)
                    (path / MARK).unlink()
                raise
            sync_folder(path)
        finally:
            close_quietly(lock)


def is_unfinished(path: Path) -> bool:
    """Return whether a store was begun in the folder `path` and not finished. Raises: StoreError `disk-error`."""
    with disk(f"looking at {path}"):
        return (path / MARK).exists()


def _begin(path: Path) -> int:
    """Return a descriptor that holds the lock on the mark, in a folder that holds nothing else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    begun = (path / MARK).exists()
    if not begun and any(path.iterdir()):
        raise _exists(path)
    try:
        lock = os.open(path / MARK, os.O_RDWR | os.O_CLOEXEC | (0 if begun else os.O_CREAT | os.O_EXCL), 0o600)
    except (FileExistsError, FileNotFoundError):  # another process has begun or has finished this moment
        raise _exists(path) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(lock).st_nlink:
            raise _exists(path)
        if begun:
            _sweep(path)
        if any(file.name != MARK for file in path.iterdir()):
            if not begun:
                (path / MARK).unlink()
            raise _exists(path)
        sync_folder(path)
        sync_folder(path.parent)
    except BlockingIOError:
        close_quietly(lock)
        raise StoreError("store-exists", f"another process is making {path}", hint="wait for it") from None
    except BaseException:
        close_quietly(lock)
        raise
    return lock


def _sweep(path: Path) -> None:
    for name in _MADE:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def _exists(path: Path) -> StoreError:
    return StoreError("store-exists", f"{path} is there already", hint="use it as it is, or choose another --store")
