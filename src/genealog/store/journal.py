"""The frame: the bytes of one append, and the one truth that a log keeps. Everything else is derived from frames.

    8     magic "GLJRNL1\\n"
    8     epoch         u64, grows when another process takes over the writing
    8     first         u64, index of the first entry
    4     count         u32, number of entries, may be 0
    4     marks length  u32
    4     body length   u32
    32    prev          digest of the frame before, zeros in the first frame of a log
    …     marks         per emitter, sorted: u8 length, emitter | u8 length, boot | u64 high water | 32 leaf hash
    …     body          per entry: u16 length, bytes
    32    digest        SHA-256 over everything above                                         (all big endian)

One append is one frame, so a batch and its marks become durable together or not at all. A frame lies in the
segment file in which its first entry falls (65,536 indexes a file) and may run past that segment's last index.
This module turns values into bytes and back, and says whether a damaged end was ever acknowledged. It opens no file
(`segments` does).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from genealog.errors import MalformedError

MAGIC = b"GLJRNL1\n"
SEGMENT = 65_536  # indexes that one segment file covers
MAX_ENTRY = 65_535  # bytes (c2sp.org/tlog-tiles: an entry has a 16-bit length)
MAX_COUNT = 65_536  # entries in one frame
MAX_BODY = 64 * 1024 * 1024  # bytes; a reader holds one frame in memory
MAX_MARKS = 16 * 1024 * 1024  # bytes
NO_DIGEST = bytes(32)  # `prev` of the first frame

HEADER = struct.Struct(">8sQQIII32s")
_MARK = struct.Struct(">Q32s")
_DIGEST = 32
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Mark:
    """How far an emitter is sequenced: its boot, the highest frame number taken, the leaf hash of its last entry."""

    boot: str
    high_water: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a frame, checked for limits only."""

    epoch: int
    first: int
    count: int
    marks_length: int
    body_length: int
    prev: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole frame, from magic to digest."""
        return HEADER.size + self.marks_length + self.body_length + _DIGEST

    @property
    def body_offset(self) -> int:
        """Where the body starts inside the frame."""
        return HEADER.size + self.marks_length


@dataclass(frozen=True, slots=True)
class Frame:
    """One append, read back and checked against its own digest."""

    epoch: int
    first: int
    prev: bytes
    marks: Mapping[str, Mark]
    entries: tuple[bytes, ...]
    digest: bytes
    length: int

    @property
    def stop(self) -> int:
        """The index after the last entry: the size of the log with this frame."""
        return self.first + len(self.entries)


def segment_of(index: int) -> int:
    """Return the first index of the segment into which `index` falls: the name of its file."""
    return index - index % SEGMENT


def encode_frame(entries: Sequence[bytes], marks: Mapping[str, Mark], *, epoch: int, first: int, prev: bytes) -> bytes:
    """Return the frame of one append; its last 32 bytes are its digest.

    Raises: MalformedError `entry-too-big`, `batch-too-big`, `bad-mark`.
    """
    sizes = list(map(len, entries))
    if (largest := max(sizes, default=0)) > MAX_ENTRY:
        raise MalformedError(
            "entry-too-big", "an entry does not fit the log", got=f"{largest} bytes", expected=f"≤ {MAX_ENTRY} bytes"
        )
    packed = _encode_marks(marks)
    body = sum(sizes) + 2 * len(sizes)
    if len(entries) > MAX_COUNT or body > MAX_BODY or len(packed) > MAX_MARKS:
        raise MalformedError(
            "batch-too-big",
            "one append is one frame, and this one is too large",
            got=f"{len(entries)} entries, {body} bytes",
            expected=f"≤ {MAX_COUNT} entries, ≤ {MAX_BODY} bytes",
            hint="append it in several calls",
        )
    parts = [b""] * (1 + 2 * len(sizes))
    parts[0] = HEADER.pack(MAGIC, epoch, first, len(entries), len(packed), body, prev) + packed
    parts[1::2] = [size.to_bytes(2, "big") for size in sizes]
    parts[2::2] = entries
    data = b"".join(parts)
    return data + sha256(data).digest()


def decode_header(data: bytes) -> Header:
    """Read the first 68 bytes of a frame. Raises: MalformedError `frame-truncated`, `frame-header`."""
    if len(data) < HEADER.size:
        raise MalformedError("frame-truncated", "a frame is cut off", got=f"{len(data)} bytes", expected=HEADER.size)
    magic, epoch, first, count, marks_length, body_length, prev = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MalformedError("frame-header", "no frame starts here", got=magic.hex(), expected=MAGIC.hex())
    header = Header(epoch, first, count, marks_length, body_length, prev)
    if count > MAX_COUNT or body_length > MAX_BODY or marks_length > MAX_MARKS or body_length < 2 * count:
        raise MalformedError("frame-header", "the lengths in the header of a frame are impossible", got=header)
    return header


def decode_frame(data: bytes) -> Frame:
    """Read exactly one frame.

    Raises: MalformedError `frame-truncated`, `frame-header`, `frame-digest`, `frame-body`.
    """
    header = decode_header(data)
    if len(data) != header.length:
        raise MalformedError("frame-truncated", "a frame is cut off", got=len(data), expected=header.length)
    digest = sha256(memoryview(data)[:-_DIGEST]).digest()
    if digest != data[-_DIGEST:]:
        raise MalformedError(
            "frame-digest", "the bytes of a frame were changed", got=digest.hex(), expected=data[-_DIGEST:].hex()
        )
    marks = _decode_marks(data[HEADER.size : header.body_offset])
    entries = split_body(data[header.body_offset : -_DIGEST], header.count)
    return Frame(header.epoch, header.first, header.prev, marks, entries, digest, header.length)


def split_body(body: bytes, count: int) -> tuple[bytes, ...]:
    """Cut a body into its entries. Raises: MalformedError `frame-body` unless it holds exactly `count`."""
    entries: list[bytes] = []
    offset = 0
    while offset + 2 <= len(body):
        start = offset + 2
        offset = start + int.from_bytes(body[offset:start], "big")
        entries.append(body[start:offset])
    if offset != len(body) or len(entries) != count:
        raise MalformedError("frame-body", "the entries of a frame do not fill it", got=len(entries), expected=count)
    return tuple(entries)


def is_torn(tail: bytes, offset: int) -> bool:
    """Tell a write that never finished from damage, for the bytes from a bad frame at `offset` to the end of the file.

    An interrupted write leaves a prefix of the frame; a power loss may leave sectors out, which read as zeros.
    Anything else was written in full, so it may have been acknowledged, and must not be dropped.
    """
    try:
        if decode_header(tail).length > len(tail):
            return True
    except MalformedError as error:
        if error.code == "frame-truncated":
            return True
    start = 0
    while start < len(tail):
        stop = start + _SECTOR - (offset + start) % _SECTOR
        if not any(tail[start:stop]):
            return True
        start = stop
    return False


def later_frame(tail: bytes) -> int | None:
    """Return where a whole frame lies behind the bad one that starts `tail`, None if there is none."""
    start = tail.find(MAGIC, 1)
    while start >= 0:
        try:
            decode_frame(tail[start : start + decode_header(tail[start : start + HEADER.size]).length])
        except MalformedError:
            start = tail.find(MAGIC, start + 1)
        else:
            return start
    return None


def _encode_marks(marks: Mapping[str, Mark]) -> bytes:
    parts: list[bytes] = []
    for name in sorted(marks):  # text sorts by code point, and so does its UTF-8
        mark = marks[name]
        emitter, boot = _utf8(name), _utf8(mark.boot)
        names_fit = 1 <= len(emitter) <= 255 and 1 <= len(boot) <= 255
        if not names_fit or len(mark.leaf) != 32 or not 0 <= mark.high_water < 2**64:
            raise MalformedError("bad-mark", "not the mark of an emitter", got=f"{name!r}: {mark}")
        parts += (bytes([len(emitter)]), emitter, bytes([len(boot)]), boot, _MARK.pack(mark.high_water, mark.leaf))
    return b"".join(parts)


def _decode_marks(data: bytes) -> dict[str, Mark]:
    marks: dict[str, Mark] = {}
    offset = 0
    try:
        while offset < len(data):
            emitter, offset = _short(data, offset)
            boot, offset = _short(data, offset)
            marks[emitter] = Mark(boot, *_MARK.unpack_from(data, offset))
            offset += _MARK.size
    except (struct.error, IndexError, UnicodeDecodeError):
        raise MalformedError("frame-body", "the marks of a frame cannot be read", got=data[:80].hex()) from None
    if _encode_marks(marks) != data:
        raise MalformedError("frame-body", "the marks of a frame are not spelled canonically", got=data[:80].hex())
    return marks


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return b""


def _short(data: bytes, offset: int) -> tuple[str, int]:
    start = offset + 1
    stop = start + data[offset]
    return data[start:stop].decode(), stop
