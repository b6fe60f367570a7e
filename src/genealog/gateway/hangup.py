"""What happens inside ends when the client goes away.

    async with Hangup(receive):      ClientGone comes out of here if the client left in the meantime
        ...

`receive` is the ASGI callable, the body already read: what it gives next is the disconnect. The task is cancelled the
way `asyncio.timeout` does it, so that a cancellation from outside stays what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]


class ClientGone(Exception):  # noqa: N818 - an event, not a fault; never leaves the gateway
    """The client closed its connection."""


class Hangup:
    """A scope that ends when the client does."""

    __slots__ = ("_left", "_receive", "_task", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watch = asyncio.ensure_future(self._receive())
        self._watch.add_done_callback(self._gone)

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        task, watch = self._task, self._watch
        self._task = None
        if watch is not None:
            watch.cancel()
        if self._left and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone from None

    def _gone(self, watch: asyncio.Future[Any]) -> None:
        if not watch.cancelled() and watch.exception() is None and self._task is not None:
            self._left = True
            self._task.cancel()
