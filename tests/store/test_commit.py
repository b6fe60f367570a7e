from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from genealog.errors import MalformedError, StoreError
from genealog.store import commit
from genealog.store.commit import GroupCommit
from genealog.store.log import LocalLog
from log_samples import batch, codes, make_log, reopen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def hold(log: LocalLog) -> tuple[threading.Event, Callable[[], None], list[int]]:
    """Make the next append wait; return an event that says it has begun, how to let it go, and the sizes of appends."""
    begun, go = threading.Event(), threading.Event()
    sizes: list[int] = []
    real = log.append

    def append(entries: Any, *more: Any) -> range:
        sizes.append(len(entries))
        begun.set()
        go.wait()
        return real(entries, *more)

    log.append = append  # type: ignore[method-assign]
    return begun, go.set, sizes


def test_threads_get_their_own_indexes_and_order_is_kept(path: Path) -> None:
    with make_log(path) as log, GroupCommit(log) as group:
        results: dict[bytes, range] = {}

        def work(name: int) -> None:
            futures = []
            for number in range(50):
                entries = [b"%d %d %d" % (name, number, i) for i in range(number % 3)]
                futures.append((entries, group.submit(entries)))
            for entries, future in futures:
                indexes = future.result()
                assert len(indexes) == len(entries)
                results.update({entry: range(index, index) for index, entry in zip(indexes, entries, strict=True)})

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.size == len(results) == 8 * 49
        for entry, at in results.items():
            assert log.entry(at.start) == entry
        for name in range(8):
            mine = [at.start for entry, at in results.items() if entry.startswith(b"%d " % name)]
            assert len(mine) == 49
    assert codes(path) == []


def test_one_fdatasync_serves_everybody_who_waited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_log(path) as log:
        begun, go, sizes = hold(log)
        with GroupCommit(log) as group:
            futures = [group.submit(batch(0, 1))]
            begun.wait()
            futures += [group.submit(batch(i, i + 1)) for i in range(1, 30)]
            go()
            assert [future.result() for future in futures] == [range(i, i + 1) for i in range(30)]
        assert sizes == [1, 29]


def test_batches_are_closed_by_count_and_by_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "MAX_ENTRIES", 5)
    monkeypatch.setattr(commit, "MAX_BYTES", 1000)
    with make_log(path) as log:
        begun, go, sizes = hold(log)
        with GroupCommit(log) as group:
            first = group.submit([b"x"])
            begun.wait()
            waiting = [group.submit([b"x"] * 2) for _ in range(4)] + [group.submit([b"y" * 600]) for _ in range(4)]
            go()
            assert [f.result().start for f in (first, *waiting)] == [0, 1, 3, 5, 7, 9, 10, 11, 12]
        assert sizes == [1, 6, 4, 2]


def test_a_failure_reaches_everybody_and_a_big_entry_only_its_sender(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(path)
    with GroupCommit(log) as group:
        with pytest.raises(MalformedError):
            group.submit([b"x" * 65_536])
        assert group.submit([b"fine"]).result() == range(1)

        def fail(handle: int) -> None:
            raise OSError(5, "broken")

        monkeypatch.setattr(os, "fdatasync", fail)
        futures: list[Future[range]] = [group.submit([b"lost"]) for _ in range(5)]
        for future in futures:
            assert isinstance(future.exception(), StoreError)
        monkeypatch.undo()
        assert isinstance(group.submit([b"more"]).exception(), StoreError)  # the log is unusable from now on
    log.close()
    with reopen(path) as again:
        assert list(again.entries()) == [b"fine"]


def test_closing_appends_what_is_queued_and_refuses_more(path: Path) -> None:
    with make_log(path) as log:
        begun, go, _ = hold(log)
        group = GroupCommit(log)
        first = group.submit([b"a"])
        begun.wait()
        second = group.submit([b"b"])
        third = group.submit([b"c"])
        assert third.cancel()
        go()
        group.close()
        assert (first.result(), second.result()) == (range(1), range(1, 2))
        with pytest.raises(StoreError):
            group.submit([b"d"])
        group.close()
        assert list(log.entries()) == [b"a", b"b"]
