"""What happens inside ends when the client goes away.

    async with Hangup(line):      ClientGone comes out of here if the client left in the meantime
        ...

`line` is the connection of the client (`wire.Line`). The task is cancelled the way `asyncio.timeout` does it, so that a
cancellation from outside stays what it is.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from genealog.gateway.wire import Line


class ClientGone(Exception):  # noqa: N818 - an event, not a fault; never leaves the gateway
    """The client closed its connection."""


class Hangup:
    """A scope that ends when the client does."""

    __slots__ = ("_left", "_line", "_task")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._left = False
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        if self._line.lost:
            raise ClientGone
        self._task = asyncio.current_task()
        self._line.on_lost = self._gone

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._line.on_lost = None
        if self._left and self._task is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone from None

    def _gone(self) -> None:
        if self._task is not None:
            self._left = True
            self._task.cancel()
