"""The spool, reading side: what is there, whose writer is alive, what can be deleted, what was lost.

A segment is final once a later one exists or its boot is over; only then bytes that are no frame are a `Torn` piece.
Before, they are a frame on its way. Losses are noted beside the segments and outlive them:

    <spool>/<emitter>/<boot>.<segment>.<offset>.<reason>.gap    one canonical `Gap`

One reader at a time: the sequencer calls this while it holds the log.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import google_crc32c

from genealog.core.canonical import Record, decode, encode
from genealog.errors import StoreError
from genealog.store.disk import close_quietly
from genealog.store.spool import HEADER, MAX_PAYLOAD, SEGMENT_NAME, sync_directory

End = tuple[str, int, int]
"""Boot, segment and size: everything that an emitter has written so far stands before this."""

_EMITTER = re.compile(r"[a-z][a-z0-9-]{0,63}")


class Found(NamedTuple):
    """A good frame: its payload, and the bytes offset ≤ i < end that it takes in its segment."""

    segment: int
    offset: int
    end: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Torn:
    """`size` bytes at the end of a segment that are no frame."""

    segment: int
    offset: int
    size: int
    sha256: str

    @property
    def end(self) -> int:
        """The size of the segment."""
        return self.offset + self.size


class Gap(Record, tag_field="t", tag="genealog/gap/v1"):
    """Something is not on record that may have been: bytes torn off, frame numbers left out, an outcome alone.

    `after` is the number of the last good frame up to there; `frames` how many are lost, where their numbers tell.
    """

    emitter: str
    boot: str
    segment: int
    offset: int
    after: int
    reason: Literal["torn", "missing", "no-intent"]
    frames: int | None = None
    size: int | None = None
    sha256: str | None = None
    call: str | None = None


class SpoolReader:
    """Reads one spool directory, which need not exist yet. Raises: StoreError `spool-unreadable` from every method."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def emitters(self) -> list[str]:
        """Return the emitters that have a folder."""
        if not _is_folder(self._directory):
            return []
        names = _names(self._directory)
        return sorted(name for name in names if _EMITTER.fullmatch(name) and _is_folder(self._directory / name))

    def boots(self, emitter: str) -> list[str]:
        """Return the boots that have segments, in order."""
        return sorted({boot for boot, _ in self._segments(emitter)})

    def end(self, emitter: str) -> End | None:
        """Return where the emitter's frames end now, None if it has no segments."""
        segments = self._segments(emitter)
        if not segments:
            return None
        boot, number = max(segments)
        try:
            return boot, number, self._path(emitter, boot, number).stat().st_size
        except OSError as error:
            raise _unreadable(emitter, error) from None

    def is_live(self, emitter: str) -> bool:
        """Say whether a process writes as `emitter` now. List the boots first: what was listed and is free is over."""
        try:
            fd = os.open(self._directory / f"{emitter}.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(emitter, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            raise _unreadable(emitter, error) from None
        finally:
            close_quietly(fd)
        return False

    def scan(self, emitter: str, boot: str, segment: int, offset: int, *, over: bool) -> Iterator[Found | Torn]:
        """Yield what stands in the boot from byte `offset` of `segment` on. `over`: nobody writes any more."""
        numbers = sorted(number for owner, number in self._segments(emitter) if owner == boot and number >= segment)
        for number in numbers:
            start = offset if number == segment else 0
            final = over or number != numbers[-1]
            try:
                with self._path(emitter, boot, number).open("rb") as stream:
                    yield from _frames(stream, number, start, final=final)
            except OSError as error:
                raise _unreadable(emitter, error) from None

    def payload(self, emitter: str, boot: str, segment: int, offset: int) -> bytes:
        """Return the payload of a frame that `scan` has found there."""
        try:
            with self._path(emitter, boot, segment).open("rb") as stream:
                for item in _frames(stream, segment, offset, final=True):
                    if isinstance(item, Found):
                        return item.payload
                    break
        except OSError as error:
            raise _unreadable(emitter, error) from None
        raise StoreError("spool-changed", f"a frame of {emitter} is gone from {boot}.{segment:06d} at {offset}")

    def delete(self, emitter: str, boot: str, before: int | None = None) -> int:
        """Delete the boot's segments, those below `before` only; durable on return. Returns how many there were."""
        doomed = [
            number for owner, number in self._segments(emitter) if owner == boot and (before is None or number < before)
        ]
        try:
            for number in sorted(doomed):
                self._path(emitter, boot, number).unlink()
            if doomed:
                sync_directory(self._directory / emitter)
        except OSError as error:
            raise _unreadable(emitter, error) from None
        return len(doomed)

    def note(self, gap: Gap) -> bool:
        """Note a loss, durable on return. Says whether it is new: the same loss is noted once."""
        folder = self._directory / gap.emitter
        path = folder / f"{gap.boot}.{gap.segment:06d}.{gap.offset:08d}.{gap.reason}.gap"
        temporary = path.with_suffix(".tmp")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists():
                return False
            with temporary.open("wb") as stream:
                stream.write(encode(gap) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(path)
            sync_directory(folder)
        except OSError as error:
            raise _unreadable(gap.emitter, error) from None
        return True

    def gaps(self) -> tuple[Gap, ...]:
        """Return every loss that was ever noted here."""
        found = []
        for emitter in self.emitters():
            folder = self._directory / emitter
            for name in sorted(_names(folder)):
                if name.endswith(".gap"):
                    try:
                        data = (folder / name).read_bytes()
                    except OSError as error:
                        raise _unreadable(emitter, error) from None
                    found.append(decode(data.removesuffix(b"\n"), Gap))
        return tuple(found)

    def _path(self, emitter: str, boot: str, number: int) -> Path:
        return self._directory / emitter / f"{boot}.{number:06d}.spool"

    def _segments(self, emitter: str) -> list[tuple[str, int]]:
        folder = self._directory / emitter
        matches = (SEGMENT_NAME.fullmatch(name) for name in _names(folder)) if _is_folder(folder) else ()
        return [(match[1], int(match[2])) for match in matches if match]


def _frames(stream: BufferedReader, segment: int, offset: int, *, final: bool) -> Iterator[Found | Torn]:
    stream.seek(offset)
    while header := stream.read(HEADER.size):
        payload = b""
        if len(header) == HEADER.size:
            length, checksum = HEADER.unpack(header)
            if 0 < length <= MAX_PAYLOAD:  # a tail of zeros has a good checksum: its length gives it away
                payload = stream.read(length)
                if len(payload) == length and google_crc32c.value(payload) == checksum:
                    end = offset + HEADER.size + length
                    yield Found(segment, offset, end, payload)
                    offset = end
                    continue
        if final:
            stream.seek(offset)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            yield Torn(segment, offset, stream.tell() - offset, digest)
        return


def _names(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise _unreadable(path.name, error) from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path.name, error) from None


def _unreadable(what: str, error: OSError) -> StoreError:
    return StoreError("spool-unreadable", f"the spool of {what} cannot be read", got=error.strerror)
