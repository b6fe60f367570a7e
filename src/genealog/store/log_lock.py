"""Who may touch a log now: an flock on an open descriptor, which the kernel releases when a process dies.

A lock file that is created and removed would survive kill -9; this file stays and only its flock counts. Writers hold
it exclusively, readers share it, so a reader never sees an append that is not finished. flock is shared with
forked children: without the fork hook, a child could keep a dead parent's lock for ever.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genealog.errors import StoreError
from genealog.store.disk import close_quietly, disk

_locks: weakref.WeakSet[LogLock] = weakref.WeakSet()


class LogLock:
    """The lock of one opened log, for its threads and against other processes. Raises: StoreError `disk-error`."""

    def __init__(self, path: Path, *, exclusive: bool) -> None:
        self.mutex = threading.RLock()
        self._kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        self._pid = os.getpid()
        self._depth = 0
        with disk(f"opening {path}"):
            self._handle = os.open(path, (os.O_RDWR if exclusive else os.O_RDONLY) | os.O_CLOEXEC)
        _locks.add(self)

    @property
    def mine(self) -> bool:
        """Whether this process opened the lock and has not released it."""
        return self._handle >= 0 and self._pid == os.getpid()

    def check(self) -> None:
        """Refuse what is not `mine`. Raises: StoreError `forked`, `log-closed`."""
        if self._pid != os.getpid():
            raise StoreError("forked", "the log was opened before the fork", hint="open it again in the child process")
        if self._handle < 0:
            raise StoreError("log-closed", "the log is closed")

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock, waiting for it; True if this thread did not hold it already. Raises: as `check`."""
        self.check()
        with self.mutex:
            self.check()
            if not self._depth:
                with disk("locking the log"):
                    fcntl.flock(self._handle, self._kind)
            self._depth += 1
            try:
                yield self._depth == 1
            finally:
                self._depth -= 1
                if not self._depth and self._handle >= 0:
                    self._unlock()

    def release(self) -> None:
        """Let go for good."""
        _locks.discard(self)
        if self._handle >= 0:
            close_quietly(self._handle)
            self._handle = -1

    def _unlock(self) -> None:
        with disk("unlocking the log"):
            try:
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            except OSError:
                self.release()  # or other processes would wait for this one
                raise


def _disown() -> None:
    for lock in list(_locks):
        lock.release()


os.register_at_fork(after_in_child=_disown)
