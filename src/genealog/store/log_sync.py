"""fdatasync(2) in a thread of its own, so that its caller can hash while the disk works.

The thread does nothing but sit in that one system call, without Python's lock, and the caller does the hashing: the
other way round the caller comes back from the disk and has to ask the hashing thread for the lock, which takes longer
than both. The caller waits until the thread is about to call, because whoever hashes gives the lock away only every
few milliseconds.

Nothing is written here and no error is hidden: one of the disk comes out of `syncing`.
"""

from __future__ import annotations

import os
import threading
import weakref
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager


class BackgroundSync:
    """One thread, started when first used. Not thread-safe, and not to be used after a fork."""

    def __init__(self) -> None:
        self._work: _Work | None = None

    @contextmanager
    def syncing(self, handle: int) -> Iterator[None]:
        """Make what was written to `handle` durable while the body runs: it is when the block ends without an error.

        Raises: OSError.
        """
        work = self._work = self._work or self._start()
        work.handle = handle
        work.asked.release()
        work.begun.acquire()
        try:
            yield
        finally:
            work.done.acquire()
        if work.error is not None:
            raise work.error

    def close(self) -> None:
        """End the thread."""
        if self._work is not None:
            self._end()
            self._work = None

    def _start(self) -> _Work:
        work = _Work()
        self._end = weakref.finalize(self, _end, work)
        threading.Thread(target=_serve, args=(work,), name="genealog-sync", daemon=True).start()
        return work


class _Work:
    """What the two threads share: three locks, all taken, that one releases for the other."""

    def __init__(self) -> None:
        self.handle = -1
        self.error: BaseException | None = None
        self.asked, self.begun, self.done = allocate_lock(), allocate_lock(), allocate_lock()
        for lock in (self.asked, self.begun, self.done):
            lock.acquire()


def _serve(work: _Work) -> None:
    while True:
        work.asked.acquire()
        if work.handle < 0:
            return
        work.error = None
        work.begun.release()
        try:
            os.fdatasync(work.handle)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            work.error = error
        finally:
            work.done.release()


def _end(work: _Work) -> None:
    work.handle = -1
    if work.asked.locked():
        work.asked.release()
