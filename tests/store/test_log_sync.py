"""The thread that syncs: durable when the block ends, every error heard, nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from genealog.store.log_sync import BackgroundSync


def test_the_body_runs_while_the_other_thread_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    synced: list[int] = []

    def fdatasync(handle: int) -> None:
        inside.set()
        assert go.wait(60)
        synced.append(handle)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    background = BackgroundSync()
    for number in range(3):
        with background.syncing(number):
            assert inside.wait(60)
            assert synced == list(range(number))
            go.set()
        assert synced == list(range(number + 1))
        inside.clear()
        go.clear()
    background.close()


def test_an_error_of_the_disk_comes_out_of_its_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = [OSError(5, "Input/output error"), None, MemoryError(), None]

    def fdatasync(_: int) -> None:
        if (error := fails.pop(0)) is not None:
            raise error

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    background = BackgroundSync()
    for expected in (OSError, MemoryError):
        ran = False
        with pytest.raises(expected), background.syncing(1):
            ran = True
        assert ran
        with background.syncing(1):
            pass
    assert not fails
    background.close()


def test_an_error_of_the_body_waits_for_the_disk_and_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    background = BackgroundSync()
    with pytest.raises(ValueError, match="body"), background.syncing(7):
        raise ValueError("body")
    assert synced == [7]
    background.close()


def test_the_thread_ends_with_its_owner(tmp_path: Path) -> None:
    gc.collect()  # what other tests forgot ends first
    others = set(threading.enumerate())
    handle = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    closed, forgotten = BackgroundSync(), BackgroundSync()
    for each in (closed, forgotten):
        with each.syncing(handle):
            os.write(handle, b"x")
    os.close(handle)
    mine = [thread for thread in threading.enumerate() if thread not in others and thread.name == "genealog-sync"]
    assert len(mine) == 2
    closed.close()
    closed.close()
    del forgotten, each
    gc.collect()
    for thread in mine:
        thread.join(60)
        assert not thread.is_alive()
