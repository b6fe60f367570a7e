"""The transport that sends once a turn."""

from __future__ import annotations

import asyncio

from genealog.gateway.wire import OneWrite


class Transport:
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.log: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.log.append(data)

    def close(self) -> None:
        self.closing = True
        self.log.append("closed")

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.log.append("paused")


async def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    inner = Transport()
    outer = OneWrite(inner)  # type: ignore[arg-type]
    outer.write(b"head ")
    outer.write(b"body")
    assert inner.log == []
    await asyncio.sleep(0)
    assert inner.log == [b"head body"]
    outer.write(b"more")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inner.log == [b"head body", b"more"]


async def test_everything_is_sent_before_it_closes_and_nothing_after() -> None:
    inner = Transport()
    outer = OneWrite(inner)  # type: ignore[arg-type]
    outer.write(b"last")
    outer.close()
    outer.write(b"too late")
    await asyncio.sleep(0)
    assert inner.log == [b"last", "closed"]


async def test_the_rest_is_the_transport_itself() -> None:
    inner = Transport()
    OneWrite(inner).pause_reading()  # type: ignore[arg-type]
    assert inner.log == ["paused"]
