"""A strict reader of zip directories, for weights that come in zip files (torch, npz, Keras).

A zip file can say two things at once: one in its directory, another before its members; in two directories; behind
bytes that nobody lists. Readers differ in what they believe. So a file is read only if it can be read one way: members
follow each other from byte 0 without gap up to the one directory, which ends with the file, and each member's own
header agrees with it. Encrypted members, comments, other methods than stored and deflated are refused.

Source: APPNOTE.TXT 6.3.10 §4.3 to §4.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from genealog.errors import MalformedError, StoreError

MAX_MEMBERS = 1_000_000
MAX_DIRECTORY = 256 << 20  # bytes
PIECE = 1 << 20

_NONE_16, _NONE_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside: its packed bytes are those from `start` to `stop`; `size` is their number once unpacked."""

    name: str
    stored: bool
    start: int
    stop: int
    size: int
    crc: int


def read_members(file: BinaryIO, size: int, *, format_: str) -> Mapping[str, Member]:
    """Return the members of a zip file of `size` bytes by name, in the order of their bytes.

    Raises: MalformedError `<format>-zip` for what is cut, says two things or is not read here.
    """
    return _Directory(file, size, format_).members()


def unpack(file: BinaryIO, member: Member, *, format_: str) -> Iterator[bytes]:
    """Yield the bytes of a member in pieces of a MiB at most. Raises: MalformedError `<format>-zip`."""
    inflate = None if member.stored else zlib.decompressobj(-15)
    at, done, crc = member.start, 0, 0
    try:
        while at < member.stop:
            file.seek(at)
            data = file.read(min(PIECE, member.stop - at))
            if not data:
                break
            at += len(data)
            more = True
            while more:
                piece = data if inflate is None else inflate.decompress(data, PIECE)
                data = b"" if inflate is None else inflate.unconsumed_tail
                more = bool(data) or (inflate is not None and len(piece) == PIECE)  # some may be held back
                done, crc = done + len(piece), zlib.crc32(piece, crc)
                if done > member.size:
                    raise _bad(format_, f"{member.name!r} is longer than the directory says", got=done)
                if piece:
                    yield piece
    except zlib.error as error:
        raise _bad(format_, f"{member.name!r} cannot be unpacked: {error}") from None
    if done != member.size or crc != member.crc or not (inflate is None or inflate.eof):
        raise _bad(format_, f"{member.name!r} is not what its checksum says", got=f"{done} bytes", expected=member.size)


def unpack_into(out: BinaryIO, file: BinaryIO, member: Member, *, format_: str) -> None:
    """Write the bytes of a member into a temporary file.

    Raises: MalformedError `<format>-zip`; StoreError `disk-error` where there is no room.
    """
    for piece in unpack(file, member, format_=format_):
        try:
            out.write(piece)
            out.flush()
        except OSError as error:
            raise StoreError(
                "disk-error", f"unpacking {member.name!r} into a temporary file: {error.strerror or error}",
                hint="make room in the folder for temporary files, or name another one in TMPDIR",
            ) from None  # fmt: skip


class _Directory:
    def __init__(self, file: BinaryIO, size: int, format_: str) -> None:
        self._file = file
        self._size = size
        self._format = format_

    def members(self) -> dict[str, Member]:
        start, stop, count = self._place()
        data = self._at(start, stop - start)
        found, offset = list[tuple[int, Member, int]](), 0
        while offset < len(data):
            entry, header, flags, offset = self._entry(data, offset)
            found.append((header, entry, flags))
        if len(found) != count:
            raise self._bad("the directory does not hold what its end says", got=len(found), expected=count)
        found.sort(key=lambda item: item[0])
        members, position = dict[str, Member](), 0
        folded = set[str]()
        for number, (header, entry, flags) in enumerate(found):
            after = found[number + 1][0] if number + 1 < len(found) else start
            if header != position:
                what = f"{entry.name!r} overlaps another member or leaves a hole"
                raise self._bad(what, got=header, expected=position)
            member = self._local(header, entry, flags)
            gap = after - member.stop
            if gap not in ((12, 16, 20, 24) if flags & _DESCRIPTOR else (0,)):
                raise self._bad(f"{entry.name!r} overlaps what follows or leaves a hole", got=gap)
            position = after
            if entry.name.casefold() in folded:
                raise self._bad("two members have one name", got=repr(entry.name)[:80])
            folded.add(entry.name.casefold())
            members[entry.name] = member
        if position != start:
            raise self._bad("bytes that no member owns stand before the directory", got=start, expected=position)
        return members

    def _place(self) -> tuple[int, int, int]:
        """Return where the directory starts and stops, and how many members it lists."""
        if self._size < 22:
            raise self._bad("the file is too short for a directory", got=self._size)
        end = self._size - 22
        signature, disk, first, here, count, length, start, comment = struct.unpack("<4s4H2LH", self._at(end, 22))
        if signature != b"PK\x05\x06" or comment:
            raise self._bad("the file does not end with a directory", got=repr(signature))
        stop = end
        if end >= 20 and self._at(end - 20, 4) == b"PK\x06\x07":
            _, where_disk, where, disks = struct.unpack("<4sLQL", self._at(end - 20, 20))
            if where_disk or disks != 1 or where + 56 != end - 20:
                raise self._bad("the long end of the directory is not where it belongs", got=where)
            long = struct.unpack("<4sQ2H2L4Q", self._at(where, 56))
            if long[0] != b"PK\x06\x06" or long[1] != 44 or long[4] or long[5] or long[6] != long[7]:
                raise self._bad("the long end of the directory is broken")
            pairs = ((count, long[7], _NONE_16), (length, long[8], _NONE_32), (start, long[9], _NONE_32))
            if any(short not in (full, none) for short, full, none in pairs):
                raise self._bad("the two ends of the directory disagree")
            count, length, start = (full for _, full, _ in pairs)
            here, stop = min(count, _NONE_16), where
        if disk or first or min(here, _NONE_16) != min(count, _NONE_16):
            raise self._bad("parts of an archive are not read")
        if start + length != stop or length > MAX_DIRECTORY or count > MAX_MEMBERS:
            raise self._bad("the directory is not right before its end, or too big", got=start + length, expected=stop)
        return start, stop, count

    def _entry(self, data: bytes, at: int) -> tuple[Member, int, int, int]:
        """Return a member (its bytes not yet placed), where its header is, its flags, and where the next entry is."""
        if len(data) - at < 46 or data[at : at + 4] != b"PK\x01\x02":
            raise self._bad("an entry of the directory is broken", got=f"byte {at}")
        flags, method = struct.unpack_from("<2H", data, at + 8)
        crc, packed, size, *lengths, disk = struct.unpack_from("<3L4H", data, at + 16)
        (header,) = struct.unpack_from("<L", data, at + 42)
        behind = at + 46 + sum(lengths)
        if behind > len(data) or disk:
            raise self._bad("an entry of the directory is cut", got=f"byte {at}")
        raw = data[at + 46 : at + 46 + lengths[0]]
        extra = data[at + 46 + lengths[0] : at + 46 + lengths[0] + lengths[1]]
        size, packed, header = self._long(extra, (size, packed, header))
        if flags & _ENCRYPTED:
            raise self._bad("a member is encrypted", got=repr(raw)[:80])
        if method not in (0, 8) or (method == 0 and packed != size):
            raise self._bad("a member is packed in a way that is not read", got=repr(raw)[:80])
        try:
            name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
        except UnicodeDecodeError:
            raise self._bad("a name that cannot be read", got=repr(raw)[:80]) from None
        if not name or "\\" in name or "\0" in name:
            raise self._bad("a name that cannot be read", got=repr(raw)[:80])
        return Member(name, method == 0, 0, packed, size, crc), header, flags, behind

    def _local(self, at: int, entry: Member, flags: int) -> Member:
        """Check the header before a member against the directory, and return the member where it lies."""
        head = self._at(at, 30)
        signature, own_flags, method, crc, packed, size, name, extra = struct.unpack("<4s2x2H4x3L2H", head)
        raw = self._at(at + 30, name + extra)
        packed_size = entry.stop
        size, packed = self._long(raw[name:], (size, packed))
        same = (crc, packed, size) == (entry.crc, packed_size, entry.size)
        later = flags & _DESCRIPTOR and crc in (0, entry.crc) and packed in (0, packed_size) and size in (0, entry.size)
        if (
            signature != b"PK\x03\x04" or own_flags != flags or (method == 0) != entry.stored or not (same or later)
            or raw[:name] != entry.name.encode()
        ):  # fmt: skip
            raise self._bad(f"the header of {entry.name!r} and the directory disagree")
        start = at + 30 + name + extra
        return Member(entry.name, entry.stored, start, start + packed_size, entry.size, entry.crc)

    def _long(self, extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
        """Return sizes and offset with those that need 64 bits taken from the extra field."""
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                body = extra[at + 4 : at + 4 + length]
                long, taken = [], 0
                for value in values:
                    if value == _NONE_32:
                        if len(body) < taken + 8:
                            raise self._bad("a long size is cut")
                        value = int.from_bytes(body[taken : taken + 8], "little")  # noqa: PLW2901
                        taken += 8
                    long.append(value)
                return tuple(long)
            at += 4 + length
        return values

    def _at(self, at: int, count: int) -> bytes:
        if at < 0 or at + count > self._size:
            raise self._bad("the file is cut", got=self._size, expected=f"≥ {at + count} bytes")
        self._file.seek(at)
        data = self._file.read(count)
        if len(data) != count:
            raise self._bad("the file is cut", got=self._size)
        return data

    def _bad(self, message: str, *, got: object = None, expected: object = None) -> MalformedError:
        return _bad(self._format, message, got=got, expected=expected)


def _bad(format_: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(
        f"{format_}-zip", f"this zip file can be read in more than one way, or not at all: {message}", got=got,
        expected=expected, hint="download or save the file again",
    )  # fmt: skip
