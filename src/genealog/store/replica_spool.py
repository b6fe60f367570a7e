"""The second copy of spools, on another node: what durability D3 waits for.

    DIR/lock                                    held by whoever takes frames
    DIR/<node>/<emitter>/<boot>.<segment>.spool the same bytes as the first node's, so every reader of a spool reads it
    DIR/<node>/<emitter>/adopted                the boot up to which nothing is taken any more

How far the copy is, is the size of its newest segment: there is no other counter to disagree with. Frames are taken
whole, checked, in order, without holes. What was sent twice must be the same bytes. What the first node has in its call
log is deleted here when it says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import msgspec

from genealog.core.call import Boot, Emitter
from genealog.core.call_groups import Count
from genealog.errors import MalformedError, StoreError
from genealog.store.disk import disk, replace_file
from genealog.store.spool import HEADER, MAX_PAYLOAD, SEGMENT_NAME, sync_directory

_NODE = re.compile(r"[0-9a-f]{16}")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Where a batch of frames belongs. `oldest` is the first boot that the first node still has, `keep` the first
    segment of this boot that it has; `previous` is the size of the segment before, where this batch begins a new one.
    """

    emitter: Emitter
    boot: Boot
    segment: Count
    offset: Count
    oldest: str = ""
    keep: Count = 0
    previous: Count | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far the copy of an emitter is; `boot` None: there is none."""

    boot: str | None = None
    segment: int = 0
    size: int = 0


class _Numbered(msgspec.Struct):
    n: int


_number = msgspec.msgpack.Decoder(_Numbered)


@dataclass(slots=True)
class _Copy:
    """One emitter of one node: its newest boot and segment, and the number of the last frame if it is known."""

    folder: Path
    boot: str | None
    segment: int
    size: int
    last: int | None = None
    trimmed: tuple[str, int] = ("", 0)


class ReplicaSpool:
    """Takes frames into `directory`. Thread-safe; one process at a time.

    Raises: StoreError `replica-busy`, `replica-unwritable`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._copies: dict[tuple[str, str], _Copy] = {}
        with disk(f"opening a replica in {directory}"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreError(
                "replica-busy", "another process takes frames there", got=str(directory), hint="stop it first"
            ) from None

    def place(self, node: str, emitter: str) -> Place:
        """Return how far the copy of an emitter is. Raises: MalformedError `bad-batch`."""
        with self._mutex:
            copy = self._copy(node, emitter)
            return Place(boot=copy.boot, segment=copy.segment, size=copy.size)

    def take(self, node: str, batch: Batch, data: bytes) -> Place:
        """Put frames where they belong; they are on this disk on return. The same batch again changes nothing.

        Raises: MalformedError `bad-batch`; StoreError `replica-gap`, `replica-rollback`, `replica-adopted`,
        `disk-error`.
        """
        frames = _check(data)
        with self._mutex, disk("writing to a replica"):
            copy = self._copy(node, batch.emitter)
            if (batch.boot, batch.segment) != (copy.boot, copy.segment):
                if not self._begin(copy, batch):
                    return self._again(copy, batch, data)
            elif batch.offset > copy.size:
                raise _gap(f"byte {batch.offset} of segment {batch.segment}", f"byte {copy.size}")
            if (known := copy.size - batch.offset) > 0:
                self._same(copy.folder / _name(batch), batch.offset, data[:known])
                data = data[known:]
                frames = frames if not data else _check(data)
            if data:
                self._append(copy, batch, data, frames)
            self._trim(copy, batch)
            return Place(boot=copy.boot, segment=copy.segment, size=copy.size)

    def close(self) -> None:
        """Let somebody else take frames."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _copy(self, node: str, emitter: str) -> _Copy:
        if not _NODE.fullmatch(node):
            raise MalformedError("bad-batch", "not the label of a node", got=node[:40])
        if (found := self._copies.get((node, emitter))) is None:
            try:
                msgspec.convert(emitter, Emitter)
            except msgspec.ValidationError:
                raise MalformedError("bad-batch", "not the name of an emitter", got=emitter[:80]) from None
            folder = self._directory / node / emitter
            found = _Copy(folder, None, 0, 0)
            if folder.is_dir() and (ends := _segments(folder)):
                found.boot, found.segment = ends[-1]
                path = folder / f"{found.boot}.{found.segment:06d}.spool"
                found.size, found.last = _whole(path)
            self._copies[node, emitter] = found
        return found

    def _begin(self, copy: _Copy, batch: Batch) -> bool:
        """Begin a segment, or a boot. False: it belongs to a segment before."""
        adopted = copy.folder / "adopted"
        if adopted.exists() and batch.boot <= adopted.read_text().strip():
            raise StoreError("replica-adopted", "what this node left is in the log already", got=batch.boot)
        if copy.boot is not None and batch.boot < copy.boot:
            raise StoreError("replica-rollback", "a later boot is here already", got=batch.boot, expected=copy.boot)
        if batch.boot == copy.boot:
            if batch.segment < copy.segment:
                return False
            follows = batch.segment == copy.segment + 1 and batch.previous == copy.size
        else:
            follows = batch.segment == 0
        if not (follows or (batch.segment and batch.keep >= batch.segment)) or batch.offset:
            raise _gap(f"segment {batch.segment} of {batch.boot}", f"{copy.boot}.{copy.segment} from byte {copy.size}")
        if not follows or batch.boot != copy.boot:
            copy.last = None if batch.segment else 0
        copy.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (copy.folder / _name(batch)).touch(mode=0o600)
        for folder in (copy.folder, copy.folder.parent, copy.folder.parent.parent):
            sync_directory(folder)
        copy.boot, copy.segment, copy.size = batch.boot, batch.segment, 0
        return True

    def _trim(self, copy: _Copy, batch: Batch) -> None:
        if (batch.oldest, batch.keep) == copy.trimmed:
            return
        for boot, number in _segments(copy.folder):
            sequenced = boot < min(batch.oldest, batch.boot)
            if sequenced or (boot == batch.boot and number < min(batch.keep, batch.segment)):
                (copy.folder / f"{boot}.{number:06d}.spool").unlink()
        copy.trimmed = (batch.oldest, batch.keep)

    def _again(self, copy: _Copy, batch: Batch, data: bytes) -> Place:
        """Look at a batch that was here: what is gone was in the log."""
        path = copy.folder / _name(batch)
        if path.exists():
            self._same(path, batch.offset, data)
        return Place(boot=copy.boot, segment=copy.segment, size=copy.size)

    def _same(self, path: Path, offset: int, data: bytes) -> None:
        with path.open("rb") as stream:
            stream.seek(offset)
            if stream.read(len(data)) != data:
                raise StoreError(
                    "replica-rollback", "other bytes are here already", got=f"{path.name} from byte {offset}",
                    hint="the spool of the first node was changed, or two nodes have one name",
                )  # fmt: skip

    def _append(self, copy: _Copy, batch: Batch, data: bytes, frames: list[int]) -> None:
        if copy.last is not None and frames[0] != copy.last + 1:
            raise _gap(f"frame {frames[0]}", f"frame {copy.last + 1}")
        fd = os.open(copy.folder / _name(batch), os.O_WRONLY | os.O_CLOEXEC)
        try:
            view = memoryview(data)
            at = copy.size
            while view:
                written = os.pwrite(fd, view, at)
                at, view = at + written, view[written:]
            os.ftruncate(fd, at)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        copy.size, copy.last = at, frames[-1]


def node_label(origin: str) -> str:
    """Return the label under which a replica keeps the spools of the store with this origin."""
    return hashlib.sha256(origin.encode()).hexdigest()[:16]


def adopted(folder: Path, boot: str) -> None:
    """Take nothing more of `boot` and those before. Durable on return."""
    replace_file(folder / "adopted", f"{boot}\n".encode())


def _check(data: bytes) -> list[int]:
    """Return the numbers of the frames in `data`. Raises: MalformedError `bad-batch` unless they are whole, good, and
    count up by one.
    """
    numbers: list[int] = []
    at = 0
    try:
        while at < len(data):
            length, checksum = HEADER.unpack_from(data, at)
            payload = data[at + HEADER.size : at + HEADER.size + length]
            if not 0 < length <= MAX_PAYLOAD or len(payload) != length or google_crc32c.value(payload) != checksum:
                raise MalformedError("bad-batch", "this is no frame", got=f"at byte {at}")
            numbers.append(_number.decode(payload).n)
            at += HEADER.size + length
    except (msgspec.MsgspecError, struct.error):
        raise MalformedError("bad-batch", "this is no frame", got=f"at byte {at}") from None
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise MalformedError("bad-batch", "frames are numbered without holes", got=str(numbers[:3]))
    return numbers


def _whole(path: Path) -> tuple[int, int | None]:
    """Return the size of the whole frames in a segment and the number of the last: the rest was never acknowledged."""
    data = path.read_bytes()
    at, last = 0, None
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        payload = data[at + HEADER.size : at + HEADER.size + length]
        if not length or len(payload) != length or google_crc32c.value(payload) != checksum:
            break
        at, last = at + HEADER.size + length, _number.decode(payload).n
    return at, last


def _name(batch: Batch) -> str:
    return f"{batch.boot}.{batch.segment:06d}.spool"


def _segments(folder: Path) -> list[tuple[str, int]]:
    matches = (SEGMENT_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted((match[1], int(match[2])) for match in matches if match)


def _gap(got: str, expected: str) -> StoreError:
    return StoreError("replica-gap", "what comes before is not here", got=got, expected=expected)
