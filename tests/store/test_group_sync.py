"""Many wait for one fdatasync; nobody is told before the disk has what it wrote."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from genealog.errors import StoreError
from genealog.store.group_sync import WINDOW, GroupSync
from genealog.store.spool import SpoolWriter


def _add(told: list[int], number: int, _error: StoreError | None) -> None:
    told.append(number)


def at_once(function: Callable[[], None]) -> None:
    function()


def test_all_who_wait_share_a_sync_and_are_told_in_order() -> None:
    gate = threading.Event()
    told: list[int] = []
    syncs: list[int] = []

    def sync() -> None:
        gate.wait(10)
        syncs.append(len(told))

    group = GroupSync(sync, at_once)
    for number in range(100):
        group.soon(partial(_add, told, number))
    gate.set()
    group.close()
    assert told == list(range(100))
    assert len(syncs) <= 2, "the first one alone, and the others together"


def test_nobody_is_told_by_a_sync_that_began_before_it_came() -> None:
    began, gate = threading.Event(), threading.Event()
    told: list[tuple[int, int]] = []

    def sync() -> None:
        began.set()
        gate.wait(10)

    group = GroupSync(sync, at_once)
    group.soon(lambda _: told.append((1, group.syncs)))
    assert began.wait(10)
    group.soon(lambda _: told.append((2, group.syncs)))
    gate.set()
    group.close()
    assert told == [(1, 1), (2, 2)]


def test_a_failed_sync_is_told_to_all(tmp_path: Path) -> None:
    broken = StoreError("spool-broken", "this spool takes no more frames")

    def sync() -> None:
        raise broken

    errors: list[StoreError | None] = []
    group = GroupSync(sync, at_once)
    group.soon(errors.append)
    group.close()
    assert errors == [broken]


def test_what_nobody_waits_for_is_on_the_disk_within_the_window() -> None:
    done: list[float] = []
    group = GroupSync(lambda: done.append(time.monotonic()), at_once)
    asked = time.monotonic()
    for _ in range(10):
        group.behind()
    while not done and time.monotonic() < asked + 5:
        time.sleep(0.002)
    assert WINDOW * 0.9 < done[0] - asked < WINDOW + 1.0
    assert len(done) == 1, "ten frames, one sync"
    group.behind()
    group.close()
    assert len(done) == 2, "closing does not wait for the window, and leaves nothing out"
    assert group.longest > WINDOW * 0.9


def test_callbacks_run_in_the_loop_and_sixty_four_share_few_syncs(tmp_path: Path) -> None:
    async def main() -> tuple[int, set[int]]:
        loop = asyncio.get_running_loop()
        spool = SpoolWriter(tmp_path)
        group = GroupSync(spool.sync, loop.call_soon_threadsafe)
        threads: set[int] = set()

        async def call() -> None:
            for _ in range(5):
                spool.write(b"frame")
                future = loop.create_future()

                def done(error: StoreError | None, future: asyncio.Future[None] = future) -> None:
                    threads.add(threading.get_ident())
                    future.set_exception(error) if error else future.set_result(None)

                group.soon(done)
                await future

        await asyncio.gather(*(call() for _ in range(64)))
        group.close()
        spool.close()
        return group.syncs, threads

    syncs, threads = asyncio.run(main())
    assert threads == {threading.get_ident()}
    assert syncs < 64, "320 frames"


def test_a_loop_that_is_gone_ends_nothing() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    group = GroupSync(lambda: None, loop.call_soon_threadsafe)
    group.soon(lambda _: None)
    group.close()
    assert group.syncs == 1
