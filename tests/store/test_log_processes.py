"""Several processes on one log, and processes that are killed. Children are forked: a kill costs milliseconds."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genealog.errors import StoreError
from genealog.store.journal import Mark
from genealog.store.log import LocalLog
from log_samples import VERIFIER, batch, codes, errors, make_log, reopen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_log(tmp_path / "log").close()
    return tmp_path / "log"


def child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process, return its pid. Exit status 0 if it returns."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def append_named(path: Path, name: int, rounds: int, acknowledge: Callable[[int, bytes], None] | None = None) -> None:
    """Append batches of 1 to 5 entries that tell who wrote them, with a mark that counts them."""
    rolls = random.Random(name)
    with reopen(path) as log:
        count = 0
        for _ in range(rounds):
            entries = [b"%d %d" % (name, count + i) for i in range(rolls.randrange(1, 6))]
            count += len(entries)
            mark = Mark("boot", count, bytes(32))
            indexes = log.append(entries, {f"emitter-{name}": mark})
            for index, entry in zip(indexes, entries, strict=True):
                if acknowledge is not None:
                    acknowledge(index, entry)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_append_to_one_log_and_every_entry_is_there_once(path: Path, processes: int) -> None:
    pids = [child(lambda name=name: append_named(path, name, 30)) for name in range(processes)]
    with reopen(path, write=False) as reader:
        seen = 0
        while seen < 40:  # a reader in the middle of it sees only whole appends, in order
            seen = max(seen, reader.refresh())
            entries = list(reader.entries())
            for name in range(processes):
                mine = [entry for entry in entries if entry.startswith(b"%d " % name)]
                assert mine == [b"%d %d" % (name, i) for i in range(len(mine))]
                mark = reader.marks().get(f"emitter-{name}")
                assert (mark.high_water if mark else 0) == len(mine)
    assert [status(pid) for pid in pids] == [0] * processes
    assert codes(path) == []
    with reopen(path) as log:
        entries = list(log.entries())
        assert len(entries) == len(set(entries)) == sum(mark.high_water for mark in log.marks().values())
        epochs = log._view.tip.epoch
        assert epochs >= processes


class Pipe:
    """Where a child that will be killed tells which indexes were acknowledged."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._write = os.write

    def acknowledge(self, index: int, entry: bytes) -> None:
        self._write(self.writing, struct.pack(">QB", index, len(entry)) + entry)

    def read(self, data: bytes = b"") -> dict[int, bytes]:
        """Return what was told, after the child has ended. `data` was read before."""
        os.close(self.writing)
        with os.fdopen(self.reading, "rb") as stream:
            data += stream.read()
        found: dict[int, bytes] = {}
        while data:
            index, length = struct.unpack_from(">QB", data)
            found[index], data = data[9 : 9 + length], data[9 + length :]
        return found


def check(path: Path, acknowledged: dict[int, bytes]) -> None:
    """Everything acknowledged is there, the marks fit the entries, and the log goes on."""
    assert errors(path) == []
    with reopen(path) as log:
        assert {index: log.entry(index) for index in acknowledged} == acknowledged
        for name in range(4):
            mine = [entry for entry in log.entries() if entry.startswith(b"%d " % name)]
            mark = log.marks().get(f"emitter-{name}")
            assert (mark.high_water if mark else 0) == len(mine)
        size = log.size
        assert log.append([b"after"]).start == size
    assert errors(path) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_process_killed_at_a_random_moment_loses_nothing_acknowledged(path: Path, seed: int) -> None:
    pipe = Pipe()
    pids = [child(lambda name=name: append_named(path, name, 10**6, pipe.acknowledge)) for name in (0, 1)]
    time.sleep(random.Random(seed).uniform(0.02, 0.4))  # the moment is the point
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [status(pid) for pid in pids] == [-signal.SIGKILL] * 2
    check(path, pipe.read())


@pytest.mark.parametrize("processes", [2, 8])
def test_one_of_many_processes_is_killed_again_and_again_and_the_others_do_not_mind(path: Path, processes: int) -> None:
    steady = list(range(1, processes))
    pids = [child(lambda name=name: append_named(path, name, 40)) for name in steady]
    acknowledged: dict[int, bytes] = {}
    for life in range(12):
        pipe = Pipe()
        victim = child(lambda life=life, pipe=pipe: append_named(path, 100 + life, 10**6, pipe.acknowledge))
        rolls = random.Random(life)
        while len(data := os.read(pipe.reading, 9)) < 9 * (life % 2):  # it is appending: every other time
            pass
        time.sleep(rolls.uniform(0, 0.02))  # the moment is the point
        os.kill(victim, signal.SIGKILL)
        assert status(victim) == -signal.SIGKILL
        acknowledged |= pipe.read(data)
    assert [status(pid) for pid in pids] == [0] * len(steady)
    assert errors(path) == []
    with reopen(path) as log:
        entries = list(log.entries())
        assert {index: entries[index] for index in acknowledged} == acknowledged
        assert len(entries) == len(set(entries))
        for name in [*steady, *range(100, 112)]:
            mine = [entry for entry in entries if entry.startswith(b"%d " % name)]
            assert mine == [b"%d %d" % (name, i) for i in range(len(mine))]
            mark = log.marks().get(f"emitter-{name}")
            assert (mark.high_water if mark else 0) == len(mine)
            assert name >= 100 or len(mine) >= 40
    assert len(acknowledged) > 12
    assert set(codes(path)) <= {"torn-kept"}


def die_at(number: int, *, after: bool) -> None:
    """In this process, be killed at the n-th call that changes the disk, just before it or just after."""
    left = number

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            try:
                return real(*args, **more) if after or left else None
            finally:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("open", "write", "pwrite", "fdatasync", "fsync", "replace", "ftruncate", "mkdir"):
        setattr(os, name, wrap(getattr(os, name)))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_single_step_nothing_acknowledged_is_lost(tmp_path: Path, after: bool) -> None:
    def work(path: Path, pipe: Pipe, number: int) -> None:
        die_at(number, after=after)
        with reopen(path) as log:
            count = 0
            for size in (1, 300, 2):
                entries = [b"0 %d" % (count + i) for i in range(size)]
                count += size
                log._save_due = 0.0
                for index, entry in zip(
                    log.append(entries, {"emitter-0": Mark("b", count, bytes(32))}), entries, strict=True
                ):
                    pipe.acknowledge(index, entry)

    for number in range(1, 200):
        path = tmp_path / str(number)
        make_log(path).close()
        pipe = Pipe()
        pid = child(lambda path=path, pipe=pipe, number=number: work(path, pipe, number))
        ended = status(pid)
        acknowledged = pipe.read()
        check(path, acknowledged)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert number > 40
    assert len(acknowledged) == 303


def test_killed_at_every_step_of_creating_the_log_can_be_created_or_opened(tmp_path: Path) -> None:
    for number in range(1, 100):
        path = tmp_path / str(number)

        def work(path: Path = path, number: int = number) -> None:
            die_at(number, after=True)
            make_log(path)

        ended = status(child(work))
        try:
            log = make_log(path)
        except StoreError:  # log-exists: it got that far
            log = reopen(path)
        log.append(batch(0, 1))
        log.close()
        assert codes(path) == []
        if ended == 0:
            break
    assert number > 8


def test_a_forked_child_cannot_use_the_log_and_does_not_keep_its_lock(path: Path) -> None:
    log = reopen(path)
    reading, writing = os.pipe()

    def work() -> None:
        for use in (lambda: log.append([b"x"]), lambda: log.entry(0), log.refresh, log.checkpoint, log.marks):
            with pytest.raises(StoreError) as caught:
                use()
            assert caught.value.code == "forked"
        log.close()
        os.close(writing)
        os.read(reading, 1)  # until the parent has tried the lock

    with log.exclusive():
        pid = child(work)
        log.append([b"parent"])
    with reopen(path) as other:
        other.append([b"other"])
    os.close(writing)
    os.close(reading)
    assert status(pid) == 0
    log.append([b"parent again"])
    log.close()
    assert codes(path) == []


def test_the_lock_of_a_killed_process_is_free_though_its_child_lives(path: Path) -> None:
    ready, go = os.pipe()

    def work() -> None:
        log = reopen(path)
        with log.exclusive():
            grandchild = os.fork()
            if grandchild == 0:
                os.setsid()
                time.sleep(60)
            os.write(go, struct.pack(">I", grandchild))
            time.sleep(60)

    pid = child(work)
    (grandchild,) = struct.unpack(">I", os.read(ready, 4))
    try:
        os.kill(pid, signal.SIGKILL)
        assert status(pid) == -signal.SIGKILL
        with LocalLog.open(path, verifiers=[VERIFIER]) as log:
            assert log.size == 0
        with reopen(path) as log:
            log.append([b"mine"])
    finally:
        os.kill(grandchild, signal.SIGKILL)
