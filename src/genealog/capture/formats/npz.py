"""Tensors of numpy's npz (a zip file of arrays) and npy (one array, named as its file).

The header of an array is a Python literal: it is read by a grammar of three keys and never evaluated. Object arrays are
pickles, which are not read; nor are records and raw bytes: with one of them there is no weights ID. Text and times are
no weights, and a warning names them.

An array that is packed and not row-major is unpacked into a temporary file, which is bounded (`MAX_UNPACKED`).

Source: NEP 1 and `numpy/lib/_format_impl.py` (versions 1.0, 2.0, 3.0).
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, cast

from genealog.capture.formats.gather import gather
from genealog.capture.formats.zips import Member, read_members, unpack, unpack_into
from genealog.core.canonical import MAX_INTEGER
from genealog.core.layout import Layout, Loose, Run
from genealog.core.manifest import few
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAX_HEADER = 65_536
# Of an array that has to be unpacked aside: as many bytes as weights pack to at best, and what does no harm besides.
MAX_UNPACKED, FREE_UNPACKED = 32, 1 << 30
_DTYPES = {
    "b1": "BOOL", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "u4": "U32", "i8": "I64", "u8": "U64",
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip
_TEXT = "SUMm"  # kinds of arrays that hold no weights: text and times
_ITEM = re.compile(
    r"\s*'(?:(?P<descr>descr)'\s*:\s*'(?P<type>[^'\\]{1,32})'"
    r"|(?P<order>fortran_order)'\s*:\s*(?P<fortran>True|False)"
    r"|(?P<shape>shape)'\s*:\s*\((?P<sizes>[0-9L, ]*)\))\s*(?:,|(?=\}))"
)
_SIZES = re.compile(r"\s*(?:[0-9]{1,16}L?\s*,\s*)*(?:[0-9]{1,16}L?\s*)?")


@dataclass(frozen=True, slots=True)
class _Array:
    """What a header says; `data` is the length of everything before the first element."""

    type: str
    fortran: bool
    shape: tuple[int, ...]
    data: int

    @property
    def dtype(self) -> str | None:
        return _DTYPES.get(self.type[1:]) if self.type[0] in "<>|=" else None

    @property
    def size(self) -> int:
        return math.prod(self.shape) * int(self.type[2:])

    @property
    def swapped(self) -> bool:
        return self.type[0] == ">" and self.type[2:] != "1"

    @property
    def plain(self) -> bool:
        """Whether the bytes are row-major and little-endian as they lie."""
        return not self.swapped and (not self.fortran or sum(size != 1 for size in self.shape) < 2)

    def gather(self, file: BinaryIO, start: int) -> Iterator[memoryview]:
        strides, step = [0] * len(self.shape), 1
        order = range(len(self.shape)) if self.fortran else reversed(range(len(self.shape)))
        for index in order:
            strides[index], step = step, step * self.shape[index]
        width, shape = int(self.type[2:]), list(self.shape)
        if self.type[1] == "c":
            width, shape, strides = width // 2, [*shape, 2], [*(2 * stride for stride in strides), 1]
        return gather(file, start, width, shape, strides, swap=self.swapped)


def layout_of(file: BinaryIO, size: int, *, path: str) -> Layout:
    """Return the arrays of an npz or npy file.

    Raises: MalformedError `npz-zip`, `npz-header` (the grammar of an array's header), `npz-truncated`, `npz-unpacked`
    (an array that would fill the disk while it is read). Its tensors raise StoreError `disk-error` on a full disk.
    """
    if PurePath(path).suffix.lower() == ".npy":
        array = _header(file.read(min(size, MAX_HEADER + 12)))
        name = PurePath(path).stem
        if array.dtype is None:
            return _layout("npy", [], {name: array.type}, path)
        _check(array, size, name)
        return _layout("npy", [_tensor(name, array, None, 0)], {}, path)
    tensors, odd = [], dict[str, str]()
    for member in read_members(file, size, format_="npz").values():
        name = member.name.removesuffix(".npy")
        if name == member.name:
            odd[name] = _TEXT
            continue
        array = _header(_first(file, member))
        if array.dtype is None:
            odd[name] = array.type
            continue
        _check(array, member.size, name)
        tensors.append(_tensor(name, array, member, member.start))
    return _layout("npz", tensors, odd, path)


def _layout(format_: str, tensors: list[Run | Loose], odd: dict[str, str], path: str) -> Layout:
    """Return a layout; `odd` gives the type of each array that is not read: all but text and times may hold weights."""
    return Layout(
        format_,
        runs=tuple(tensor for tensor in tensors if isinstance(tensor, Run)),
        loose=tuple(tensor for tensor in tensors if isinstance(tensor, Loose)),
        warnings=_left_out(list(odd), path),
        unread=any(type_[1:2] not in tuple(_TEXT) for type_ in odd.values()),
    )


def _left_out(names: list[str], path: str) -> tuple[str, ...]:
    if not names:
        return ()
    what = f"{PurePath(path).name}: objects, records or text, not in the weights ID: {few(sorted(names))}"
    return (f"npz-not-read: {what}",)


def _first(file: BinaryIO, member: Member) -> bytes:
    """Return the beginning of a member: enough for a header."""
    head = b""
    for piece in unpack(file, member, format_="npz"):
        head += piece[: MAX_HEADER + 12]
        if len(head) >= min(member.size, MAX_HEADER + 12):
            break
    return head


def _header(head: bytes) -> _Array:
    version = head[6:8]
    if head[:6] != b"\x93NUMPY" or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise _bad("header", "an array does not begin as one", got=repr(head[:8]))
    prefix = 10 if version == b"\1\0" else 12
    length = int.from_bytes(head[8:prefix], "little")
    if length > MAX_HEADER or len(head) < prefix + length:
        raise _bad("truncated", "the header of an array is cut or too long", got=length)
    try:
        text = head[prefix : prefix + length].decode("utf-8" if version == b"\3\0" else "latin-1")
    except UnicodeDecodeError:
        raise _bad("header", "the header of an array is no text") from None
    return _parse(text, prefix + length)


def _parse(text: str, data: int) -> _Array:
    found: dict[str, str] = {}
    at = 1
    while text.startswith("{") and (item := _ITEM.match(text, at)):
        key = item["descr"] or item["order"] or item["shape"]
        if key in found:
            raise _bad("header", "a key of a header stands twice", got=key)
        found[key] = item["type"] or item["fortran"] or item["sizes"] or ""
        at = item.end()
    if "'descr'" in text and "descr" not in found and "[" in text:
        return _Array("|V1", fortran=False, shape=(), data=data)  # a record, which has no one type
    if found.keys() != {"descr", "fortran_order", "shape"} or text[at:].strip() != "}":
        raise _bad("header", "the header of an array does not follow the grammar", got=repr(text)[:120])
    if not _SIZES.fullmatch(found["shape"]):
        raise _bad("header", "no shape", got=repr(found["shape"])[:80])
    shape = tuple(int(size.strip().rstrip("L")) for size in found["shape"].split(",") if size.strip())
    if len(shape) > MAX_RANK or any(size > MAX_INTEGER for size in shape):
        raise _bad("header", "a shape out of range", got=repr(shape)[:80])
    return _Array(found["descr"], found["fortran_order"] == "True", shape, data)


def _check(array: _Array, size: int, name: str) -> None:
    if array.data + array.size != size:
        code = "truncated" if array.data + array.size > size else "header"
        raise _bad(code, f"the bytes of {name!r} do not fit its shape", got=size, expected=array.data + array.size)


def _tensor(name: str, array: _Array, member: Member | None, start: int) -> Run | Loose:
    dtype = array.dtype or ""
    if (member is None or member.stored) and array.plain:
        return Run(name, dtype, array.shape, start + array.data, start + array.data + array.size)

    aside = not (member is None or member.stored or array.plain)
    if member is not None and aside and member.size > MAX_UNPACKED * (member.stop - member.start) + FREE_UNPACKED:
        raise MalformedError(
            "npz-unpacked", f"{name!r} is packed, not in C order, and far bigger than its packed bytes",
            got=f"{member.size} bytes from {member.stop - member.start}", expected=f"≤ {MAX_UNPACKED} for one",
            hint="save it in C order (numpy.ascontiguousarray), or without compression (numpy.savez)",
        )  # fmt: skip

    def read(file: BinaryIO) -> Iterator[bytes | memoryview]:
        if member is None or member.stored:
            yield from array.gather(file, start + array.data)
        elif array.plain:
            yield from _behind(unpack(file, member, format_="npz"), array.data)
        else:  # to gather means to jump about, which a deflated member cannot
            with tempfile.TemporaryFile() as unpacked:
                unpack_into(cast("BinaryIO", unpacked), file, member, format_="npz")
                yield from array.gather(cast("BinaryIO", unpacked), array.data)

    return Loose(name, dtype, array.shape, read, array.size)


def _behind(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        if rest := piece[count:]:
            yield rest
        count = max(0, count - len(piece))


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(
        f"npz-{code}", message, got=got, expected=expected, hint="download the file again, or save the arrays again"
    )
