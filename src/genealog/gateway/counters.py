"""What a worker counts, in a small file that its parent maps too: numbers only, each written by one process.

    counters = Counters.create(path)      in the worker (or in its parent, before it starts)
    counters.ended("complete", 200, …)
    Counters.open(path).read()            in the parent, at any time

A number may be read while it is written: eight bytes at a place that eight divides come whole or not at all on the
machines that this runs on. The file has no history: a worker begins at nothing, and whoever sums counters over
restarts keeps the old sums.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

FINISHES = ("complete", "client_abandoned", "upstream_error", "refused", "unknown")
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")  # of the answer that the client got
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds, ≤
PLAIN = (
    "in_flight",  # requests that have no end yet
    "request_bytes",
    "response_bytes",
    "busy",  # refused because of `max_calls`
    "behind",  # refused because of `max_behind`
    "unwritable",  # refused because the spool takes nothing
    "retries",  # attempts after the first
    "spool_bytes",  # in the worker's spool when it last looked
    "connections",  # of clients, now
    "upstream_connections",  # now
    "first_byte_microseconds",  # sum over `first_bytes` answers
    "first_bytes",
    "microseconds",  # sum over all that ended
    "decisions",  # that policies were asked for
    "denied",  # calls that policy did not let be made
    "flagged",  # calls that it only noted something of
    "waived",  # calls that passed by a break-glass
    "cut",  # answers that were cut because their model was revoked
    "break_glass",  # whether calls pass by one now
)
_PLAIN = {name: at for at, name in enumerate(PLAIN)}
_FINISH = {name: len(PLAIN) + at for at, name in enumerate(FINISHES)}
_CLASS = len(PLAIN) + len(FINISHES)
_BUCKET = _CLASS + len(CLASSES)
_SLOTS = _BUCKET + len(BUCKETS) + 1  # the last bucket has no end


@dataclass(frozen=True, slots=True)
class Counted:
    """What a worker had counted at one moment. `seconds` has one number for each of `BUCKETS`, and one for the rest."""

    plain: dict[str, int]
    finishes: dict[str, int]
    classes: dict[str, int]
    seconds: tuple[int, ...]


class Counters:
    """The numbers of one worker. Used by one thread; read by anybody."""

    __slots__ = ("_map", "slots")

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self.slots = memoryview(mapped).cast("Q")

    @classmethod
    def create(cls, path: Path | None) -> Counters:
        """Begin at nothing, in a new file; without a path, in memory."""
        if path is None:
            return cls(mmap.mmap(-1, _SLOTS * 8))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _SLOTS * 8)
            return cls(mmap.mmap(fd, _SLOTS * 8))
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: Path) -> Counters:
        """Map the file of another process. Raises: OSError, or ValueError where it is none."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != _SLOTS * 8:
                raise ValueError("no file of counters of this version")
            return cls(mmap.mmap(fd, _SLOTS * 8))
        finally:
            os.close(fd)

    def add(self, name: str, amount: int = 1) -> None:
        """Add to one of `PLAIN`."""
        self.slots[_PLAIN[name]] += amount

    def put(self, name: str, amount: int) -> None:
        """Set one of `PLAIN`."""
        self.slots[_PLAIN[name]] = amount

    def ended(self, finish: str, status: int | None, seconds: float) -> None:
        """Count an attempt that ended, by what is on record of it."""
        slots = self.slots
        slots[_FINISH[finish]] += 1
        slots[_CLASS + (status // 100 - 1 if status is not None and 100 <= status < 600 else 5)] += 1
        slots[_BUCKET + bisect_left(BUCKETS, seconds)] += 1
        slots[_PLAIN["microseconds"]] += int(seconds * 1e6)

    def read(self) -> Counted:
        """Return what stands there now."""
        values = self.slots.tolist()
        return Counted(
            plain=dict(zip(PLAIN, values, strict=False)),
            finishes={name: values[at] for name, at in _FINISH.items()},
            classes={name: values[_CLASS + at] for at, name in enumerate(CLASSES)},
            seconds=tuple(values[_BUCKET:_SLOTS]),
        )

    def close(self) -> None:
        """Let go of the file."""
        self.slots.release()
        self._map.close()
