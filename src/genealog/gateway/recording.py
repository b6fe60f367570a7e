"""The worker's place in the spool: frames at the durability that a call asks for, and the way back after a failure.

Before a call is let in there is room for its frames, or it is refused. A spool that broke is left alone, and another
boot is begun at most once a second; calls that run in the old one cannot end well any more, and their clients see that.

    D0, D1   `settle` calls back at once: the kernel has the frames
    D1+      the same, and the frames are on the disk soon after
    D2       one thread syncs for all who wait, and calls back in the loop (`store.group_sync`)
    D3       the same, and a second node has the frames on its disk too (`gateway.replicating`)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from genealog.core.frames import MAX_BODY
from genealog.errors import StoreError
from genealog.gateway.record import Call, Context, Name, Recorder
from genealog.gateway.replicating import Replication
from genealog.store.group_sync import GroupSync
from genealog.store.lost_page import LostPage
from genealog.store.spool import SpoolWriter

_AGAIN = 1.0  # seconds between two tries to begin another boot
_LOOK = 0.05  # seconds between two looks at the free space; a call that finds none in between is refused as well

Done = Callable[[StoreError | None], Any]


class Entry:
    """A call on record, and the spool that its frames go to."""

    __slots__ = ("_durability", "_lost", "_replication", "_sync", "call")

    def __init__(
        self,
        call: Call,
        sync: GroupSync,
        durability: str,
        replication: Replication | None = None,
        lost: LostPage | None = None,
    ) -> None:
        self.call = call
        self._lost = lost
        self._replication = replication
        self._sync = sync
        self._durability = durability

    def settle(self, done: Done) -> None:
        """Call `done` when the frames written so far are as durable as the call asks for: with None, or with why not.

        It may be called before this returns.
        """
        if self._durability in ("D1", "D0"):
            done(None)
        elif self._durability == "D1+":
            self._sync.behind()
            done(None)
        elif self._durability == "D3" and self._replication is not None:
            self._replication.soon(done)
        elif self._lost is not None:
            self._sync.soon(partial(_count_and_go_on, self._lost, done))
        else:
            self._sync.soon(done)


def _or_count(write: Callable[[bytes], None], lost: LostPage, payload: bytes) -> None:
    """Write a frame, or count it: its number stays out, so that the spool says so too."""
    try:
        write(payload)
    except StoreError:
        lost.count(1)


def _count_and_go_on(lost: LostPage, done: Done, error: StoreError | None) -> None:
    if error is not None:
        lost.count(1)
    done(None)


class Recording:
    """Opens calls on record. Used by one event loop. Without `replicate` no call of durability D3 is let in.

    With `fail_open` what cannot be written passes and is counted (`store.lost_page`): frames are left out, and calls.
    """

    def __init__(
        self,
        directory: Path,
        kind: str = "gateway",
        *,
        clock: Callable[[], float] = time.monotonic,
        replicate: Callable[[SpoolWriter, GroupSync], Replication] | None = None,
        fail_open: bool = False,
    ) -> None:
        self._fail_open = fail_open
        self._directory = directory
        self._replicate = replicate
        self._kind = kind
        self._clock = clock
        self._tried = clock()
        self._looked = float("-inf")
        self._begin()

    def _begin(self) -> None:
        self._spool = spool = SpoolWriter(self._directory, self._kind)
        self._lost = LostPage(spool.folder, spool.boot) if self._fail_open else None
        sink = spool.write if self._lost is None else partial(_or_count, spool.write, self._lost)
        self._recorder = Recorder(spool.emitter, spool.boot, sink)
        self._sync = GroupSync(lambda: spool.sync(), asyncio.get_running_loop().call_soon_threadsafe)  # noqa: PLW0108
        self._replication = self._replicate(spool, self._sync) if self._replicate is not None else None

    @property
    def emitter(self) -> str:
        """Who writes here: `gateway-0`, unless another process is that."""
        return self._spool.emitter

    @property
    def boot(self) -> str:
        """The boot that frames are written in now."""
        return self._spool.boot

    def check(self) -> None:
        """Raise StoreError `spool-unwritable` where no call could be recorded now."""
        try:
            self._spool.check_writable()
        except StoreError as error:
            if error.code == "spool-full" or self._clock() - self._tried < _AGAIN:
                raise unwritable(error) from None
            self._tried = self._clock()
            self._leave()
            try:
                self._begin()
            except StoreError as again:
                raise unwritable(again) from None

    def draw(self) -> Name:
        """Name a call that has not begun."""
        return self._recorder.draw()

    def open(self, request: bytes, context: Context, *, hold: int = MAX_BODY, **more: Any) -> Entry:
        """Put an intent on record; `Entry.settle` says when it is durable. `more`: what `Recorder.open` takes besides.

        Raises: StoreError `spool-unwritable`, `replica-unreachable`; MalformedError as `Recorder.open`.
        """
        if context.durability == "D3":
            self._check_replica()
        now = self._clock()
        if now - self._looked > _LOOK:
            try:
                self.check()
            except StoreError:
                if self._lost is None:
                    raise
            self._looked = now
        try:
            call = self._recorder.open(request, context, hold=hold, **more)
            return Entry(call, self._sync, context.durability, self._replication, self._lost)
        except StoreError as error:
            raise unwritable(error) from None

    def behind(self) -> int:
        """Return how many bytes lie in this worker's spool: those that are not in the call log, and some that are."""
        size = 0
        try:
            with os.scandir(self._directory / self._spool.emitter) as found:
                for each in found:
                    size += each.stat().st_size
        except OSError:  # a segment went while we looked: next time
            return size
        return size

    async def tidy_forever(self, every: float = 5.0) -> None:
        """Every so many seconds, let no body lie in clear longer than it must, also while no call comes."""
        while True:
            await asyncio.sleep(every)
            self._spool.tidy()

    def _check_replica(self) -> None:
        if self._replication is None:
            raise StoreError(
                "replica-unreachable", "calls of durability D3 need a second node", got="no [replica] in genealog.toml"
            )
        self._replication.check()

    def _leave(self) -> None:
        if self._replication is not None:
            self._replication.stop()
        self._sync.close()
        self._spool.close()

    def close(self) -> None:
        """Leave the spool: this boot is over."""
        self._leave()
        if self._lost is not None:
            self._lost.close()


def unwritable(error: StoreError) -> StoreError:
    """Return what a client is told whose call cannot be recorded."""
    return StoreError(
        "spool-unwritable",
        "the call cannot be recorded, so it was not made",
        got=error.code,
        hint="free disk space on the gateway, then try again; nothing was sent upstream",
    )
