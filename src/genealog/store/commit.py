"""Group commit: many threads append, one thread writes, and one fdatasync serves everybody who waited.

Whoever submits gets a future that resolves to the indexes once the entries are durable. While the disk works on one
batch, the next one gathers; there is no timer. Each submission stays together and in order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from genealog.errors import MalformedError, StoreError
from genealog.store.journal import MAX_ENTRY
from genealog.store.log import LocalLog

MAX_ENTRIES = 4_096  # a batch is closed by the submission that takes it beyond one of these
MAX_BYTES = 4 * 1024 * 1024


class GroupCommit:
    """Appends to `log` from one thread of its own until `close`; it does not close the log."""

    def __init__(self, log: LocalLog) -> None:
        self._log = log
        self._queue: deque[tuple[Sequence[bytes], Future[range]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="genealog-commit", daemon=True)
        self._thread.start()

    def submit(self, entries: Sequence[bytes]) -> Future[range]:
        """Queue entries; the future gives their indexes, or the StoreError that kept them from being durable.

        Raises: MalformedError `entry-too-big`; StoreError `log-closed`.
        """
        for entry in entries:
            if len(entry) > MAX_ENTRY:  # here, so that it fails its own submission only
                raise MalformedError(
                    "entry-too-big", "an entry does not fit the log", got=len(entry), expected=MAX_ENTRY
                )
        future: Future[range] = Future()
        with self._changed:
            if self._closed:
                raise StoreError("log-closed", "the group commit is closed")
            self._queue.append((entries, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Append what is queued, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while batch := self._take():
            try:
                start = self._log.append([entry for entries, _ in batch for entry in entries]).start
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
                for _, future in batch:
                    future.set_exception(error)
                continue
            for entries, future in batch:
                future.set_result(range(start, start + len(entries)))
                start += len(entries)

    def _take(self) -> list[tuple[Sequence[bytes], Future[range]]]:
        """Wait for submissions; return as many as one batch may hold, none once closed and empty."""
        batch: list[tuple[Sequence[bytes], Future[range]]] = []
        count = size = 0
        with self._changed:
            while not batch:
                while not self._queue:
                    if self._closed:
                        return batch
                    self._changed.wait()
                while self._queue and (not batch or (count <= MAX_ENTRIES and size <= MAX_BYTES)):
                    entries, future = self._queue.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((entries, future))
                        count += len(entries)
                        size += sum(map(len, entries))
        return batch
