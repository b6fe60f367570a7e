"""Leases: what each worker on this machine serves from, so that a revocation can wait until nobody serves without it.

    <store>/leases/<random>.lease    magic (8) ‖ epoch ‖ adopted ‖ process ID    8 bytes each, little-endian

A worker makes its file before it reads the registry for the first time, and holds the file's lock (flock) as long as it
lives: the kernel lets go of it however the worker dies, so that a dead one is told from a slow one. In it stands the
size of the registry log that the worker serves at. A snapshot is good for one lease from when reading it *began*, and a
worker asks the clock for that whenever a call passes. So whoever has appended an entry waits until each living worker
says that it has it, or for one lease: then nobody serves from a snapshot without it, not even one that was stopped.

The clock is CLOCK_BOOTTIME, which goes on while a machine sleeps. Nobody compares the clocks of two machines, or of two
boots: a lease is a length of time, and each side measures it by itself.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genealog.store.disk import disk

LEASE = 2.0  # seconds: ten times what a gateway needs to look again, and as long as a revocation waits for a dead one
_SLACK = 0.02  # seconds on top, for clocks that do not tick together
_LOOK = 0.002  # seconds between two looks at the files
_MAGIC = int.from_bytes(b"GLLEASE1", "little")
_SIZE = 32
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_clock() -> float:
    """Return the seconds since this machine started, those in which it slept included."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Held:
    """What a living worker says: the epoch that it serves at (-1: none yet), and when it took that up."""

    pid: int
    epoch: int
    since: float  # of its clock


_SOMEBODY = Held(0, -1, 0.0)  # who has to be waited for


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Nobody serves from before `epoch` any more. Seconds in `took`.

    `workers` said so, of `expired` the lease ran out; `everywhere`: one lease was waited for, for other machines' sake.
    """

    epoch: int
    workers: int
    expired: int
    took: float
    everywhere: bool


class Lease:
    """The file of one worker. Raises: StoreError `disk-error`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make()

    def _make(self, epoch: int = -1) -> None:
        folder, name = self._folder, secrets.token_hex(8)
        self._path = folder / f"{name}.lease"
        made = folder / f".{name}"
        with disk("making a lease"):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                os.ftruncate(self._file, _SIZE)
                self._map = mmap.mmap(self._file, _SIZE)
                self._slots = memoryview(self._map).cast("q")
                self._slots[0], self._slots[1], self._slots[3] = _MAGIC, epoch, os.getpid()
                made.rename(self._path)  # whoever sees it sees it locked
            except BaseException:
                os.close(self._file)
                raise

    def publish(self, epoch: int) -> None:
        """Say that this worker serves at `epoch` from now on, and at nothing before it. Neither blocks nor fails."""
        self._slots[2] = int(boot_clock() * 1e9)
        self._slots[1] = epoch

    def keep(self) -> None:
        """Make another file if somebody took it away: a worker without one is not waited for. Cheap while it is there.

        Raises: StoreError `disk-error`; then this worker must not serve.
        """
        with disk("looking at a lease"):
            there = os.fstat(self._file).st_nlink > 0
        if not there:
            file, kept, slots = self._file, self._map, self._slots
            self._make(slots[1])
            slots.release()
            kept.close()
            os.close(file)

    def close(self) -> None:
        """Serve no more."""
        self._slots.release()
        self._map.close()
        with suppress(OSError):
            self._path.unlink()
        os.close(self._file)


def held(folder: Path) -> Iterator[Held]:
    """Yield what living workers say, and clear away what dead ones left. What cannot be read may be anybody's."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".lease")
    except FileNotFoundError:
        return
    except OSError:
        yield _SOMEBODY
        return
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:  # it went while we looked
            continue
        except OSError:
            yield _SOMEBODY
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            data = os.read(file, _SIZE)
            if len(data) == _SIZE and int.from_bytes(data[:8], "little") == _MAGIC:
                epoch, since, pid = (int.from_bytes(data[at : at + 8], "little", signed=True) for at in (8, 16, 24))
                yield Held(pid, epoch, since / 1e9)
            else:
                yield _SOMEBODY
        else:
            with suppress(OSError):
                path.unlink()
        finally:
            os.close(file)


def acknowledge(
    folder: Path,
    epoch: int,
    *,
    everywhere: bool = False,
    clock: Callable[[], float] = boot_clock,
    sleep: Callable[[float], None] = time.sleep,
) -> Acknowledged:
    """Return when no worker serves from before `epoch`, one lease after this was called at the latest.

    Call it when the entry is in the log. `everywhere`: workers of other machines may serve from this store, of whom
    there is nothing to see here, so one lease is always waited for.
    """
    began = clock()
    while True:
        now = clock()
        known = list(held(folder))  # who has made no file by now has not begun to read the log
        behind = sum(each.epoch < epoch for each in known)
        over = now - began > LEASE + _SLACK
        if over or not (behind or everywhere):
            return Acknowledged(epoch, len(known) - behind, behind, now - began, everywhere)
        sleep(_LOOK)
