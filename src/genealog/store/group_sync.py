"""Durability behind the event loop: one thread for each spool, one fdatasync for everybody who waits.

    sync = GroupSync(spool.sync, loop.call_soon_threadsafe)
    sync.soon(done)     D2: `done(None)` runs in the loop once every frame written before this call is on the disk
    sync.behind()       D1+: nobody waits; what was written before this call is on the disk within `WINDOW`

Nobody hops threads for each call: whoever comes while the disk works is served by the next sync, and all who were
served are told in one turn of the loop. The order of callbacks is the order in which they came.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from genealog.errors import StoreError

WINDOW = 0.05  # seconds within which durability D1+ has its frames on the disk, but for the time of the sync itself

Done = Callable[[StoreError | None], object]
"""Told None when the frames are safe, else why nobody knows (`spool-broken`): fail this call and every later one."""

_STOP = object()


class GroupSync:
    """Runs `sync` (as `SpoolWriter.sync`) in a thread of its own, for many at once.

    `deliver` runs a function where callbacks belong: `loop.call_soon_threadsafe`. Begin another with each spool writer,
    and `close` it before the writer. `soon` and `behind` cost a microsecond, never block, and may be called by several
    threads; not after a fork.
    """

    def __init__(
        self,
        sync: Callable[[], None],
        deliver: Callable[[Callable[[], None]], object],
        *,
        window: float = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.longest = 0.0  # seconds between a frame of D1+ and its being on the disk, at most, so far
        self.syncs = 0
        self._sync = sync
        self._deliver = deliver
        self._window = window
        self._clock = clock
        self._queue: SimpleQueue[Done | float | object] = SimpleQueue()
        self._due: float | None = None  # when what `behind` asked for must be done
        self._thread = threading.Thread(target=self._run, name="spool-sync", daemon=True)
        self._thread.start()

    def soon(self, done: Done) -> None:
        """Have `done` called when every frame written before is on the disk, or can never be known to be."""
        self._queue.put(done)

    def behind(self) -> None:
        """Have every frame written before on the disk within the window."""
        if self._due is None:  # else somebody asked already, and that sync comes after this frame or asks again
            self._due = self._clock() + self._window
            self._queue.put(self._due)

    def close(self) -> None:
        """Sync what was asked for, tell everybody, and end the thread. Closing twice is fine."""
        if self._thread.is_alive():
            self._queue.put(_STOP)
            self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            waiting: list[Done] = []
            late = self._due
            try:
                item = self._queue.get(timeout=None if late is None else max(0.0, late - self._clock()))
                while True:
                    if item is _STOP:
                        stopping = True
                    elif callable(item):
                        waiting.append(item)
                    item = self._queue.get_nowait()
            except Empty:
                pass
            late = self._due
            if waiting or (late is not None and (stopping or self._clock() >= late)):
                self._serve(waiting, late)

    def _serve(self, waiting: list[Done], late: float | None) -> None:
        self._due = None  # before the sync: a frame written from here on asks for another
        error: StoreError | None = None
        try:
            self._sync()
        except StoreError as failed:
            error = failed
        self.syncs += 1
        if late is not None:
            self.longest = max(self.longest, self._clock() - late + self._window)
        if waiting:
            try:
                self._deliver(lambda: _tell(waiting, error))
            except RuntimeError:  # the loop is closed: nobody is left to be told
                return


def _tell(waiting: list[Done], error: StoreError | None) -> None:
    for done in waiting:
        done(error)
