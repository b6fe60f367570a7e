"""What principals have used, exact over all processes of one machine: a file of slots that they share.

    slot    digest of the name (16) ‖ minute ‖ requests ‖ tokens ‖ day ‖ spent ‖ month ‖ spent    8 bytes each, LE

A slot belongs to a name by open addressing. Whoever changes one holds the file's lock (flock), some microseconds long;
the kernel lets go of it when a process dies. Times are Unix seconds, periods their quotients; months are counted from
1970. Money is in millionths of whatever currency the limits of that name are in. A period that is over counts as
nothing used, so nobody has to clear anything. The file holds no name, and may be deleted: counting begins again.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from genealog.errors import StoreError
from genealog.store.disk import disk

SLOTS = 16_384
_SLOT = struct.Struct("<16s7Q")
_COUNTS = struct.Struct("<7Q")
_FREE = bytes(16)
_BACK = 2  # periods that a clock may go back without everything beginning again


@dataclass(frozen=True, slots=True)
class Allowed:
    """How much one name may use. None: as much as it likes."""

    requests: int | None = None  # a minute
    tokens: int | None = None  # a minute
    day: int | None = None  # money
    month: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one name has used in the minute, day and month of `at`. `over` is the field of `Allowed` that is used up."""

    at: float
    requests: int
    tokens: int
    day: int
    month: int
    over: str | None = None


class Counters:
    """The file of slots at `path`, made on first use. One process's: not to be used after a fork.

    Raises: StoreError `disk-error`, `counters-full` where more names count this month than there are slots.
    """

    def __init__(self, path: Path, *, slots: int = SLOTS) -> None:
        self._slots = slots
        self._mutex = threading.Lock()
        self._known: dict[str, tuple[int, bytes]] = {}
        self._day, self._month = -1, 0
        with disk("opening the counters of the limits"):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(self._file).st_size < slots * _SLOT.size:
                    os.ftruncate(self._file, slots * _SLOT.size)
                self._map = mmap.mmap(self._file, slots * _SLOT.size)
            except BaseException:
                os.close(self._file)
                raise
        self._closed = weakref.finalize(self, os.close, self._file)

    def begin(self, name: str, allowed: Allowed, now: float) -> Usage:
        """Count one request of `name`, unless something is used up: then nothing is counted, and `over` says what."""
        minute, (day, month) = int(now) // 60, self._periods(now)
        with self._mutex:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                at = self._place(name, month)
                was_minute, requests, tokens, was_day, in_day, was_month, in_month = _COUNTS.unpack_from(self._map, at)
                if minute > was_minute or was_minute - minute > _BACK:
                    was_minute, requests, tokens = minute, 0, 0
                if day > was_day or was_day - day > _BACK:
                    was_day, in_day = day, 0
                if month > was_month or was_month - month > _BACK:
                    was_month, in_month = month, 0
                over = None
                if allowed.month is not None and in_month >= allowed.month:
                    over = "month"
                elif allowed.day is not None and in_day >= allowed.day:
                    over = "day"
                elif allowed.tokens is not None and tokens >= allowed.tokens:
                    over = "tokens"
                elif allowed.requests is not None and requests >= allowed.requests:
                    over = "requests"
                else:
                    requests += 1
                    _COUNTS.pack_into(self._map, at, was_minute, requests, tokens, was_day, in_day, was_month, in_month)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return Usage(now, requests, tokens, in_day, in_month, over)

    def charge(self, name: str, at: float, *, tokens: int = 0, money: int = 0) -> None:
        """Count what a call that ended at `at` was. Of a period that is over, nothing is counted."""
        self._change(name, at, tokens, money, exact=False)

    def restore(self, name: str, at: float, *, day: int, month: int) -> None:
        """Say what was spent so far in the day and month of `at`, from the log: it knows better than this file."""
        self._change(name, at, 0, 0, exact=True, spent=(day, month))

    def used(self, name: str, now: float) -> Usage:
        """Return what `name` has used, and count nothing."""
        minute, (day, month) = int(now) // 60, self._periods(now)
        with self._mutex:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            try:
                at = self._find(_digest(name))
                counts = _COUNTS.unpack_from(self._map, at) if at is not None else (0,) * 7
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        was_minute, requests, tokens, was_day, in_day, was_month, in_month = counts
        live = was_minute == minute
        return Usage(
            now,
            requests if live else 0,
            tokens if live else 0,
            in_day if was_day == day else 0,
            in_month if was_month == month else 0,
        )

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        self._closed()

    def _change(
        self, name: str, at: float, tokens: int, money: int, *, exact: bool, spent: tuple[int, int] = (0, 0)
    ) -> None:
        minute, (day, month) = int(at) // 60, self._periods(at)
        with self._mutex:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                place = self._place(name, month)
                counts = list(_COUNTS.unpack_from(self._map, place))
                if tokens and minute > counts[0]:
                    counts[0:3] = [minute, 0, 0]
                if day > counts[3]:
                    counts[3:5] = [day, 0]
                if month > counts[5]:
                    counts[5:7] = [month, 0]
                if minute == counts[0]:
                    counts[2] += tokens
                if day == counts[3]:
                    counts[4] = spent[0] if exact else counts[4] + money
                if month == counts[5]:
                    counts[6] = spent[1] if exact else counts[6] + money
                _COUNTS.pack_into(self._map, place, *counts)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _periods(self, at: float) -> tuple[int, int]:
        """Return day and month, the second counted anew only when the first changes."""
        day = int(at) // 86_400
        if day != self._day:
            moment = time.gmtime(at)
            self._day, self._month = day, (moment.tm_year - 1970) * 12 + moment.tm_mon
        return day, self._month

    def _place(self, name: str, month: int) -> int:
        """Return where the counts of `name` are, in a slot of its own. With the lock held."""
        known = self._known.get(name)
        if known is not None and self._map[known[0] - 16 : known[0]] == known[1]:
            return known[0]
        digest = _digest(name)
        at = self._find(digest)
        if at is None:
            at = self._claim(digest, month)
        if len(self._known) >= self._slots:
            self._known.clear()
        self._known[name] = (at, digest)
        return at

    def _find(self, digest: bytes) -> int | None:
        first = int.from_bytes(digest[:8], "little")
        for step in range(self._slots):
            at = (first + step) % self._slots * _SLOT.size
            owner = self._map[at : at + 16]
            if owner == digest:
                return at + 16
            if owner == _FREE:
                return None
        return None

    def _claim(self, digest: bytes, month: int) -> int:
        """Take a free slot, or one that nobody has used since last month."""
        first = int.from_bytes(digest[:8], "little")
        for step in range(self._slots):
            at = (first + step) % self._slots * _SLOT.size
            owner, _, _, _, _, _, used_in, _ = _SLOT.unpack_from(self._map, at)
            if owner == _FREE or used_in < month - 1:
                _SLOT.pack_into(self._map, at, digest, 0, 0, 0, 0, 0, 0, 0)
                return at + 16
        raise StoreError(
            "counters-full", "more principals with limits have called than can be counted", got=self._slots,
            hint="give limits to fewer principals, or take `limits` from [[issuers]]",
        )  # fmt: skip


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]
