"""What a worker could not put on record and let pass (`on_spool_error = "fail_open"`): counted where it survives it.

    <spool>/<emitter>/<boot>.lost    one page: magic, frames not written, Unix milliseconds of the first and the last

The page is made and filled with zeros while there is still room, and mapped: counting is a store to memory that the
kernel has, so it needs no disk and outlives `kill -9`. It does not outlive a power cut that comes before the kernel
wrote it. Whoever has the store's signer states what it says in the registry log (`Ledger.state_losses`).
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genealog.errors import StoreError

_MAGIC = b"GLLOST01"
_PAGE = 4096
_COUNTS = struct.Struct("<QQQ")
_NAME = re.compile(r"([0-9]{8}-[0-9a-f]{8})\.lost")


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames of one emitter and boot that were not written, and when the first and the last were, in milliseconds."""

    emitter: str
    boot: str
    frames: int
    since: int
    until: int


class LostPage:
    """The page of one boot. Used by one thread. Raises: StoreError `spool-unwritable` if there is no room for it."""

    def __init__(self, folder: Path, boot: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._path = folder / f"{boot}.lost"
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _PAGE)
                self._page = mmap.mmap(fd, _PAGE)
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError("spool-unwritable", f"cannot make a page in {folder}", got=error.strerror) from None
        self._page[: len(_MAGIC)] = _MAGIC

    @property
    def frames(self) -> int:
        """How many were counted."""
        return int(_COUNTS.unpack_from(self._page, len(_MAGIC))[0])

    def count(self, frames: int) -> None:
        """Add what was not written just now. Neither blocks nor fails."""
        now = int(self._clock() * 1000)
        before, since, _ = _COUNTS.unpack_from(self._page, len(_MAGIC))
        struct.pack_into("<QQ", self._page, len(_MAGIC) + 8, since or now, now)
        struct.pack_into("<Q", self._page, len(_MAGIC), before + frames)

    def close(self) -> None:
        """Let go of the page; what it says stays."""
        counted = self.frames
        self._page.close()
        if not counted:
            with suppress(OSError):
                self._path.unlink()


def lost_frames(directory: Path) -> tuple[Lost, ...]:
    """Return what the pages of a spool directory say; a page that counts nothing is left out."""
    found = []
    for path in sorted(directory.glob("*/*.lost")):
        match = _NAME.fullmatch(path.name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError("spool-unreadable", f"the page {path.name} cannot be read", got=error.strerror) from None
        if match is None or not data.startswith(_MAGIC) or len(data) != _PAGE:
            continue
        frames, since, until = _COUNTS.unpack_from(data, len(_MAGIC))
        if frames:
            found.append(Lost(path.parent.name, match[1], frames, since, until))
    return tuple(found)
