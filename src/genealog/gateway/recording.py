"""The worker's place in the spool: frames at the durability that a call asks for, and the way back after a failure.

Before a call is let in there is room for its frames, or it is refused. A spool that broke is left alone, and another
boot is begun at most once a second; calls that run in the old one cannot end well any more, and their clients see that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from genealog.errors import StoreError
from genealog.gateway.record import Call, Context, Recorder
from genealog.store.spool import SpoolWriter

_AGAIN = 1.0  # seconds between two tries to begin another boot
_LOOK = 0.05  # seconds between two looks at the free space; a call that finds none in between is refused as well


class Entry:
    """A call on record, and the spool that its frames go to."""

    __slots__ = ("_spool", "_sync", "call")

    def __init__(self, call: Call, spool: SpoolWriter, durability: str) -> None:
        self.call = call
        self._spool = spool
        self._sync = durability != "D1"

    async def settle(self) -> None:
        """Return when the frames written so far are as durable as the call asks for. Raises: StoreError."""
        if self._sync:
            await asyncio.to_thread(self._spool.sync)


class Recording:
    """Opens calls on record. Used by one event loop."""

    def __init__(self, directory: Path, kind: str = "gateway", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._kind = kind
        self._clock = clock
        self._tried = clock()
        self._looked = float("-inf")
        self._begin()

    def _begin(self) -> None:
        self._spool = SpoolWriter(self._directory, self._kind)
        self._recorder = Recorder(self._spool.emitter, self._spool.boot, self._spool.write)

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
                raise _unwritable(error) from None
            self._tried = self._clock()
            self._spool.close()
            try:
                self._begin()
            except StoreError as again:
                raise _unwritable(again) from None

    async def open(self, request: bytes, context: Context) -> Entry:
        """Put an intent on record. Raises: StoreError `spool-unwritable`; MalformedError as `Recorder.open`."""
        if self._clock() - self._looked > _LOOK:
            self.check()
            self._looked = self._clock()
        spool = self._spool
        try:
            entry = Entry(self._recorder.open(request, context), spool, context.durability)
            await entry.settle()
        except StoreError as error:
            raise _unwritable(error) from None
        return entry

    async def tidy_forever(self, every: float = 5.0) -> None:
        """Every so many seconds, let no body lie in clear longer than it must, also while no call comes."""
        while True:
            await asyncio.sleep(every)
            self._spool.tidy()

    def close(self) -> None:
        """Leave the spool: this boot is over."""
        self._spool.close()


def _unwritable(error: StoreError) -> StoreError:
    return StoreError(
        "spool-unwritable",
        "the call cannot be recorded, so it was not made",
        got=error.code,
        hint="free disk space on the gateway, then try again; nothing was sent upstream",
    )
