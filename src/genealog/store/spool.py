"""The spool, writing side: where a capturing process leaves its frames.

    <spool>/<emitter>.lock                      flock of the process that writes as <emitter>; holds its last boot ID
    <spool>/<emitter>/<boot>.<segment>.spool    frames, mode 0600

    frame = u32 length | u32 CRC-32C of the payload | payload        big endian, one write(2) each, length > 0

An emitter is a place to write (`gateway-0`), taken by one process at a time. A boot is one such taking; the boots of
an emitter are ordered by their counter. Whoever holds the lock is alive; once it is free the boot is over, and bytes at
its end that are no frame were torn off by a crash before anybody was told that they were written. A frame that cannot
be written whole is taken back, so that nothing good ever stands behind something broken.

What a payload says is not looked at here (`core.frames`); the reading side is `store.spool_reader`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import google_crc32c

from genealog.core.frames import MAX_BODY
from genealog.errors import MalformedError, StoreError

SEGMENT = 64 * 1024 * 1024
MAX_PAYLOAD = 2 * MAX_BODY
RESERVE = 2 * MAX_BODY  # free space below which no new call is let in
ROTATE_AFTER = 60.0  # seconds: bodies lie in clear in the open segment, so it must not get old

HEADER = struct.Struct(">II")
SEGMENT_NAME = re.compile(r"([0-9]{8}-[0-9a-f]{8})\.([0-9]{6})\.spool")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,40}")
_BOOT = re.compile(rb"([0-9]{8})-[0-9a-f]{8}\n")
_LOOKS = 1000  # tries to get past somebody who only looks at a lock
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class SpoolWriter:
    """Writes the frames of one process. Takes the lowest free emitter `<kind>-0`, `<kind>-1`… of `directory`.

    Safe to use from several threads. A forked child cannot write here: it opens its own.
    Raises: StoreError `spool-unwritable`, `spool-lock-damaged`.
    """

    def __init__(
        self,
        directory: Path,
        kind: str = "gateway",
        *,
        segment_bytes: int = SEGMENT,
        rotate_after: float = ROTATE_AFTER,
        reserve: int = RESERVE,
    ) -> None:
        if not _KIND.fullmatch(kind):
            raise MalformedError("bad-emitter", "an emitter's kind has lower-case letters, digits and -", got=kind)
        self._segment_bytes = segment_bytes
        self._rotate_after = rotate_after
        self._reserve = reserve
        self._mutex = threading.Lock()
        self._sync_mutex = threading.Lock()
        self._pid = os.getpid()
        self._broken: str | None = None
        self._fd = self._lock_fd = -1
        self._number = -1
        self._size = 0  # bytes in the open segment
        self._written = 0  # bytes in all segments
        self._synced = 0  # of those, bytes known to be on the disk
        self._syncing = False  # somebody asks for durability: a segment goes to the disk before the next one opens
        self._rotate_at = 0.0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd, self.emitter = _take_emitter(directory, kind)
            self._path = directory / self.emitter
            self._path.mkdir(mode=0o700, exist_ok=True)
            self.boot = _next_boot(self._lock_fd, self._path)
            sync_directory(directory)
            self._rotate()
        except OSError as error:
            self.close()
            raise StoreError("spool-unwritable", f"cannot write a spool in {directory}", got=error.strerror) from None
        except StoreError:
            self.close()
            raise
        _writers.add(self)

    def write(self, payload: bytes) -> None:
        """Hand one frame to the kernel (durability D1): from here on it survives the death of this process.

        Raises: StoreError `spool-full` (the frame was taken back; there may be room later), `spool-broken` (for
        good), `spool-forked`; MalformedError `frame-too-big`.
        """
        if not 0 < len(payload) <= MAX_PAYLOAD:
            raise MalformedError(
                "frame-too-big", "no frame has this size", got=len(payload), expected=f"≤ {MAX_PAYLOAD}"
            )
        header = HEADER.pack(len(payload), google_crc32c.value(payload))
        if self._pid != os.getpid():
            self._check_owner()
        with self._mutex:
            if self._broken is not None:
                raise self._error()
            try:
                if self._due():
                    self._rotate()
                written = os.writev(self._fd, (header, payload))
                if written != len(header) + len(payload):
                    raise OSError(errno.ENOSPC, "short write")
            except OSError as error:
                raise self._take_back(error) from None
            self._size += written
            self._written += written

    @property
    def position(self) -> tuple[int, int]:
        """Segment and byte where the next frame goes, or the one before it ends: what a second copy must reach."""
        return self._number, self._size

    @property
    def folder(self) -> Path:
        """Where the segments are."""
        return self._path

    def sync(self) -> None:
        """Return when every frame written before is on the disk (durability D2).

        Threads that wait here together share one fdatasync. Raises: StoreError `spool-broken`: after a failed fsync
        nobody knows what is on the disk, so this writer never writes again.
        """
        self._check_owner()
        wanted = self._written
        with self._sync_mutex:
            if self._synced >= wanted:
                return
            try:
                with self._mutex:
                    self._check_whole()
                    covered = self._written
                    fds = [os.dup(self._fd)]
                    if not self._syncing:
                        self._syncing = True
                        fds += self._open_earlier()
                try:
                    for fd in fds:
                        os.fdatasync(fd)
                finally:
                    for fd in fds:
                        os.close(fd)
                if self._synced == 0:
                    sync_directory(self._path)
            except OSError as error:
                self._broken = error.strerror or "fdatasync failed"
                raise self._error() from None
            self._synced = covered

    def tidy(self) -> None:
        """Begin another segment if the open one is full or old, so that an idle writer's bodies do not stay in clear:
        the sequencer deletes a segment that is followed by another. What fails here fails the next `write`.
        """
        with self._mutex:
            if self._pid != os.getpid() or self._broken is not None or not self._due():
                return
            try:
                self._rotate()
            except OSError as error:
                if error.errno not in _FULL:  # no room: the open segment goes on
                    self._broken = error.strerror or "a new segment could not be begun"

    def check_writable(self) -> None:
        """Raise before a call is let in that could not be recorded: StoreError `spool-full`, or as `write`."""
        self._check_owner()
        self._check_whole()
        try:
            room = os.fstatvfs(self._fd)
            if not os.fstat(self._fd).st_nlink:
                self._broken = "somebody deleted its file"
        except OSError as error:
            raise StoreError("spool-unwritable", "the spool cannot be examined", got=error.strerror) from None
        self._check_whole()
        if (free := room.f_bavail * room.f_frsize) < self._reserve:
            raise _full(f"{free} bytes free", f"≥ {self._reserve}")

    def close(self) -> None:
        """Let go of the emitter: this boot is over."""
        if self._pid == os.getpid():
            with self._mutex:
                self._broken = self._broken or "it was closed"
                self._let_go()

    def _let_go(self) -> None:
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._fd = self._lock_fd = -1

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                "spool-forked", "this spool belongs to the parent process", hint="open a SpoolWriter after the fork"
            )

    def _check_whole(self) -> None:
        if self._broken is not None:
            raise self._error()

    def _error(self) -> StoreError:
        return StoreError(
            "spool-broken", "this spool takes no more frames", got=self._broken, hint="start a new process"
        )

    def _due(self) -> bool:
        return self._size > 0 and (self._size >= self._segment_bytes or time.monotonic() >= self._rotate_at)

    def _rotate(self) -> None:
        path = self._path / f"{self.boot}.{self._number + 1:06d}.spool"
        if self._syncing:
            os.fdatasync(self._fd)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._number += 1
        self._size = 0
        self._rotate_at = time.monotonic() + self._rotate_after
        if self._syncing:
            sync_directory(self._path)

    def _open_earlier(self) -> list[int]:
        """Open the segments that were left before anybody asked for durability. Gone means sequenced, and safe."""
        fds = []
        for number in range(self._number):
            with suppress(FileNotFoundError):
                path = self._path / f"{self.boot}.{number:06d}.spool"
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return fds

    def _take_back(self, error: OSError) -> StoreError:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = "half a frame could not be taken back"
            return self._error()
        if error.errno in _FULL:
            return _full(error.strerror)
        self._broken = error.strerror or "a write failed"
        return self._error()


_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A lock lives as long as any copy of its descriptor: a forked child must not keep a dead parent alive."""
    for writer in tuple(_writers):
        writer._let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def _take_emitter(directory: Path, kind: str) -> tuple[int, str]:
    number = 0
    while True:
        emitter = f"{kind}-{number}"
        fd = os.open(directory / f"{emitter}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _locked(fd):
                return fd, emitter
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        number += 1


def _locked(fd: int) -> bool:
    """Take the lock unless a writer has it. A reader that asks whether one is alive shares it for a moment."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _next_boot(lock_fd: int, path: Path) -> str:
    """Return a boot ID above every earlier one, after it has reached the disk: a counter that goes back loses calls."""
    found = os.pread(lock_fd, 64, 0)
    match = _BOOT.fullmatch(found)
    if found and match is None:
        raise StoreError(
            "spool-lock-damaged",
            f"the lock file of {path.name} does not hold a boot ID",
            got=found[:40],
            hint="drain the spool, then move its folder and lock file away",
        )
    names = [entry.name for entry in path.iterdir()]
    segments = (SEGMENT_NAME.fullmatch(name) for name in names)
    counters = [int(segment[1][:8]) for segment in segments if segment] + [int(match[1]) if match else 0]
    boot = f"{max(counters) + 1:08d}-{os.urandom(4).hex()}"
    os.pwrite(lock_fd, f"{boot}\n".encode(), 0)
    os.fsync(lock_fd)
    return boot


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _full(got: object, expected: object = None) -> StoreError:
    return StoreError(
        "spool-full", "no room to record calls", got=got, expected=expected, hint="free disk space; nothing was lost"
    )
