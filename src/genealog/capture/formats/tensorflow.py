"""TensorFlow checkpoints: `variables.index` of a SavedModel, `ckpt-1.index`, with the data files beside them.

The index is a table of protobuf entries; a tensor's bytes are one run of a data file, or slices of it in several. Names
stay as they are in the index. Tensors of text, the state of an optimizer and the counter of saves are not part of the
weights, and warnings say so. Every tensor is checked against the CRC that its entry carries.

Source: tensorflow 2.20 core/util/tensor_bundle, core/protobuf/tensor_bundle.proto, core/framework/types.proto.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO

import google_crc32c

from genealog.capture.formats.positioned import pieces, read_at
from genealog.capture.formats.siblings import Siblings, size_of
from genealog.core.canonical import MAX_INTEGER
from genealog.core.cursor import Cursor
from genealog.core.layout import Layout, Loose
from genealog.core.manifest import few
from genealog.core.ordered_code import FULL, Extent, slice_key
from genealog.core.protobuf import BYTES, Field, fields, signed
from genealog.core.sstable import is_table, read_table, unmask
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAX_INDEX = 256 << 20
MAX_SHARDS = 100_000
MAX_PIECES = 10_000_000  # runs that one sliced variable is put together from

# data type → dtype, bytes of an element
TYPES = {
    1: ("F32", 4), 2: ("F64", 8), 3: ("I32", 4), 4: ("U8", 1), 5: ("I16", 2), 6: ("I8", 1), 8: ("C64", 8),
    9: ("I64", 8), 10: ("BOOL", 1), 14: ("BF16", 2), 17: ("U16", 2), 18: ("C128", 16), 19: ("F16", 2),
    22: ("U32", 4), 23: ("U64", 8), 24: ("F8_E5M2", 1), 25: ("F8_E4M3", 1), 26: ("F8_E4M3FNUZ", 1),
    28: ("F8_E5M2FNUZ", 1),
}  # fmt: skip
_TEXT = (7, 20, 21)  # strings, resources, variants: no numbers
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # every checkpoint has it: which object owns which tensor
_COUNTER = "save_counter/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(slots=True)
class _Entry:
    """What the index says of one tensor, or of one slice of it."""

    kind: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: list[tuple[Extent, ...]] = field(default_factory=list)


def layout_of(file: BinaryIO, size: int, *, path: str, siblings: Siblings) -> Layout:
    """Return the tensors of a checkpoint whose index is `file`.

    A file called .index that is no such table, and a checkpoint whose data is not there, have no tensors, and a
    warning. Raises: MalformedError `tensorflow-header`, `tensorflow-checksum`, `tensorflow-tensor`,
    `tensorflow-truncated`.
    """
    at = read_at(file)
    if not is_table(at, size):
        return Layout(
            "tensorflow", warnings=(f"tensorflow-no-table: {path}: called .index, and no checkpoint's index",)
        )
    if size > MAX_INDEX:
        raise _bad("header", "the index is too big", got=size, expected=f"≤ {MAX_INDEX} bytes")
    try:
        entries = dict(read_table(at, size, format_="tensorflow"))
    except MalformedError as error:
        if error.code != "tensorflow-snappy":
            raise
        packed = f"tensorflow-snappy: {path}: packed with Snappy, so no tensor was read"
        return Layout("tensorflow", warnings=(packed,), unread=True)
    shards = _header(entries.pop(b"", b""))
    prefix = posixpath.basename(path).removesuffix(".index")
    return _Bundle(entries, shards, prefix, siblings).layout(path)


class _Bundle:
    def __init__(self, entries: dict[bytes, bytes], shards: int, prefix: str, siblings: Siblings) -> None:
        self._entries = entries
        self._shards = shards
        self._prefix = prefix
        self._siblings = siblings
        self._sizes: dict[int, int | None] = {}

    def layout(self, path: str) -> Layout:
        loose, texts, state = list[Loose](), list[str](), 0
        for key, value in self._entries.items():
            if key.startswith(b"\0"):  # a slice: its variable names it
                continue
            name, entry = _name(key), _entry(value)
            if entry.kind in _TEXT:
                texts += [name] if name != _GRAPH else []
            elif name == _COUNTER or name.startswith(("optimizer/", "_optimizer/")) or "/.OPTIMIZER_SLOT/" in name:
                state += 1
            else:
                loose.append(self._tensor(key, name, entry))
        missing = [self._shard(number) for number, size in sorted(self._sizes.items()) if size is None]
        warnings = {
            "tensorflow-shard-missing": ("not beside the index: no tensor was read", missing),
            "tensorflow-strings": ("tensors of text, not in the weights ID", texts),
            "optimizer-state": (
                "tensors of an optimizer or a counter of saves, not in the weights ID",
                [str(state)] if state else [],
            ),
        }
        return Layout(
            format="tensorflow",
            loose=() if missing else tuple(loose),
            warnings=tuple(
                f"{code}: {path}: {what}: {few(names)}" for code, (what, names) in warnings.items() if names
            ),
            unread=bool(missing),
        )

    def _tensor(self, key: bytes, name: str, entry: _Entry) -> Loose:
        if entry.kind not in TYPES:
            raise _bad("tensor", f"{name!r} is of a kind that is not read", got=entry.kind)
        dtype, width = TYPES[entry.kind]
        if not entry.slices:
            self._check(name, entry, math.prod(entry.shape) * width)
            return Loose(name, dtype, entry.shape, self._whole(name, entry))
        parts = []
        for extents in entry.slices:
            value = self._entries.get(slice_key(key, extents))
            if value is None:
                raise _bad("tensor", f"a slice of {name!r} is not in the index")
            part = _entry(value)
            box = _box(name, extents, entry.shape)
            if part.kind != entry.kind or part.slices:
                raise _bad("tensor", f"a slice of {name!r} is of another kind than the whole")
            self._check(name, part, math.prod(length for _, length in box) * width)
            parts.append((box, part))
        if sum(math.prod(length for _, length in box) for box, _ in parts) != math.prod(entry.shape):
            raise _bad("tensor", f"the slices of {name!r} overlap or leave a hole")
        return Loose(name, dtype, entry.shape, self._joined(name, entry.shape, width, parts))

    def _check(self, name: str, entry: _Entry, expected: int) -> None:
        if entry.size != expected or entry.size > MAX_INTEGER:
            raise _bad("tensor", f"the shape and the bytes of {name!r} disagree", got=entry.size, expected=expected)
        size = self._size(entry.shard)
        if size is not None and not 0 <= entry.offset <= size - entry.size:
            raise _bad("truncated", f"the data of {name!r} lies beyond its file", got=size,
                       expected=f"≥ {entry.offset + entry.size} bytes")  # fmt: skip

    def _shard(self, number: int) -> str:
        return f"{self._prefix}.data-{number:05d}-of-{self._shards:05d}"

    def _size(self, shard: int) -> int | None:
        if not 0 <= shard < self._shards:
            raise _bad("tensor", "a tensor lies in a file that there is none of", got=shard, expected=self._shards)
        if shard not in self._sizes:
            self._sizes[shard] = size_of(self._siblings, self._shard(shard))
        return self._sizes[shard]

    def _whole(self, name: str, entry: _Entry) -> Callable[[BinaryIO], Iterator[bytes]]:
        def read(_: BinaryIO) -> Iterator[bytes]:
            crc = 0
            with closing(self._siblings(self._shard(entry.shard))) as file:
                for data in pieces(file, entry.offset, entry.offset + entry.size, code="tensorflow-truncated"):
                    crc = google_crc32c.extend(crc, data)
                    yield data
            if crc != unmask(entry.crc):
                raise _bad("checksum", f"{name!r} is not what its checksum says")

        return read

    def _joined(
        self, name: str, shape: tuple[int, ...], width: int, parts: Sequence[tuple[tuple[Extent, ...], _Entry]]
    ) -> Callable[[BinaryIO], Iterator[bytes]]:
        """Return how slices become one tensor again: row by row, from whichever slices hold a part of the row."""
        # Below the last dimension that is cut, a slice lies in one run.
        cut = max((axis for box, _ in parts for axis, (_, n) in enumerate(box) if n != shape[axis]), default=0)
        row = math.prod(shape[cut + 1 :]) * width
        if math.prod(shape[:cut]) * len(parts) > MAX_PIECES:
            raise _bad("tensor", f"{name!r} is cut into too many pieces", expected=f"≤ {MAX_PIECES}")

        def read(index: BinaryIO) -> Iterator[bytes]:
            for _, part in parts:  # their checksums first: the pieces come in another order
                for _data in self._whole(name, part)(index):
                    pass
            opened: dict[int, BinaryIO] = {}
            try:
                for outer in _indexes(shape[:cut]):
                    done = 0
                    for box, part in sorted(parts, key=lambda item: item[0][cut] if item[0] else (0, 0)):
                        inside = [
                            at - start for at, (start, n) in zip(outer, box, strict=False) if start <= at < start + n
                        ]
                        if len(inside) != cut:
                            continue
                        start, count = box[cut] if box else (0, 1)
                        if start != done:
                            raise _bad("tensor", f"the slices of {name!r} overlap or leave a hole")
                        done += count
                        before = 0
                        for at, (_, n) in zip(inside, box, strict=False):
                            before = before * n + at
                        if part.shard not in opened:
                            opened[part.shard] = self._siblings(self._shard(part.shard))
                        first = part.offset + before * count * row
                        yield from pieces(opened[part.shard], first, first + count * row, code="tensorflow-truncated")
                    if done != (shape[cut] if shape else 1):
                        raise _bad("tensor", f"the slices of {name!r} overlap or leave a hole")
            finally:
                for file in opened.values():
                    file.close()

        return read


def _indexes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every index of an array of this shape, the last dimension first."""
    for number in range(math.prod(shape)):
        index, rest = [], number
        for size in reversed(shape):
            index.append(rest % size)
            rest //= size
        yield tuple(reversed(index))


def _box(name: str, extents: tuple[Extent, ...], shape: tuple[int, ...]) -> tuple[Extent, ...]:
    """Return a slice with whole dimensions spelled out. Raises: MalformedError `tensorflow-tensor`."""
    if len(extents) != len(shape):
        raise _bad("tensor", f"a slice of {name!r} has another rank", got=len(extents), expected=len(shape))
    box = tuple((0, size) if length == FULL else (start, length)
                for (start, length), size in zip(extents, shape, strict=True))  # fmt: skip
    if any(start < 0 or length < 0 or start + length > size for (start, length), size in zip(box, shape, strict=True)):
        raise _bad("tensor", f"a slice of {name!r} is not inside it", got=box)
    return box


def _header(data: bytes) -> int:
    """Return the number of data files."""
    shards, endian = 0, 0
    for part in _fields(data):
        if part.number == 1:
            shards = part.value
        elif part.number == 2:
            endian = part.value
    if endian or not 0 < shards <= MAX_SHARDS:
        raise _bad("header", "big-endian, or a number of data files that cannot be", got=f"{endian}, {shards}")
    return shards


def _entry(data: bytes) -> _Entry:
    entry = _Entry()
    for part in _fields(data):
        if part.number == 1:
            entry.kind = part.value
        elif part.number == 2:
            entry.shape = tuple(_sizes(data[part.start : part.stop]))
        elif part.number == 3:
            entry.shard = signed(part.value)
        elif part.number == 4:
            entry.offset = signed(part.value)
        elif part.number == 5:
            entry.size = signed(part.value)
        elif part.number == 6:
            entry.crc = part.value
        elif part.number == 7:
            entry.slices.append(tuple(_extents(data[part.start : part.stop])))
    if len(entry.shape) > MAX_RANK or any(not 0 <= size <= MAX_INTEGER for size in entry.shape):
        raise _bad("tensor", "a shape is out of range", got=entry.shape[:8])
    return entry


def _sizes(shape: bytes) -> Iterator[int]:
    for part in _fields(shape):
        if part.number == 2:
            _demand(part)
            inner = _fields(shape[part.start : part.stop])
            yield next((signed(size.value) for size in inner if size.number == 1), 0)
        elif part.number == 3 and part.value:
            raise _bad("tensor", "a shape that is not known")


def _extents(slice_: bytes) -> Iterator[Extent]:
    for part in _fields(slice_):
        if part.number == 1:
            _demand(part)
            found = {field_.number: signed(field_.value) for field_ in _fields(slice_[part.start : part.stop])}
            yield found.get(1, 0), found.get(2, FULL)


def _fields(data: bytes) -> Iterator[Field]:
    return fields(Cursor(lambda at, count: data[at : at + count], 0, len(data), format_="tensorflow"))


def _demand(part: Field) -> None:
    if part.wire != BYTES:
        raise _bad("header", "a field has another wire type than its number says", got=part.number)


def _name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _bad("header", "the name of a tensor is not UTF-8", got=repr(key)[:80]) from None


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(
        f"tensorflow-{code}", message, got=got, expected=expected, hint="download or save the checkpoint again"
    )
