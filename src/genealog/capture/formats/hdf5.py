"""HDF5 files that hold weights: Keras `.weights.h5`, legacy `.h5`. h5py reads the directory, we read the data.

A tensor's name is its HDF5 path; the group `model_weights` of a legacy file is left away, so that saving the model or
only its weights gives the same names. The state of an optimizer is not part of the weights, and a warning says so.

h5py is asked where things lie and nothing else: chunks are unpacked here, in bounded memory (libhdf5 would let a chunk
grow to whatever its compression says). External links, external storage and virtual datasets point out of the file and
are refused. libhdf5 parses the directory in this process, and it is C: see the threat model. Why so: ADR 0025.

Source: HDF5 file format 3.0; h5py 3.16; Keras 3.15 `saving_lib.H5IOStore`, `legacy_h5_format`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

from genealog.capture.formats.gather import gather
from genealog.capture.formats.positioned import PIECE, pieces
from genealog.core.layout import Layout, Loose, Run
from genealog.core.manifest import few
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAX_NODES = 200_000
MAX_CHUNKS = 500_000  # of all datasets together
MAX_HELD = 64 << 20  # bytes of all names
MAX_BAND = 256 << 20  # bytes of the chunks that one row of chunks unpacks to
MAX_RATIO = 1_100  # deflate cannot pack better than 1032 to 1: more is a claim, not data
OPTIMIZERS = ("optimizer", "optimizer_weights", "_optimizer")
_LEGACY = "model_weights"
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_NAMES = {
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128", "b1": "BOOL",
    **{f"{kind.lower()}{size}": f"{kind}{size * 8}" for kind in "IU" for size in (1, 2, 4, 8)},
}  # fmt: skip


@dataclass(slots=True)
class _Found:
    runs: list[Run]
    loose: list[Loose]
    optimizer: int
    others: list[str]
    unread: list[str]
    metadata: dict[str, str]
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class _Chunk:
    start: int
    size: int
    mask: int


def layout_of(file: BinaryIO, size: int, *, path: str) -> Layout:
    """Return the datasets of an HDF5 file; without h5py none, and a warning.

    Raises: MalformedError `hdf5-malformed` (libhdf5 cannot read it), `hdf5-external`, `hdf5-tensor`, `hdf5-truncated`.
    """
    return read_hdf5(file, size, base=0, format_="hdf5", path=path)


def read_hdf5(file: BinaryIO, size: int, *, base: int, format_: str, path: str) -> Layout:
    """Return the layout of an HDF5 file that begins at byte `base` of `file` and is `size` bytes long."""
    if find_spec("h5py") is None:
        what = f"hdf5-not-read: {path}: needs h5py (pip install 'genealog[formats]'), so no tensor was read"
        return Layout(format_, warnings=(what,), unread=True)
    try:
        found = _walk(_Part(file, base, size), base, size)
    except MalformedError:
        raise
    except Exception as error:  # noqa: BLE001 - h5py raises whatever libhdf5 says: OSError, RuntimeError, KeyError, …
        raise _bad("malformed", "libhdf5 cannot read this file", got=type(error).__name__) from None
    warnings = {
        "hdf5-unread": ("stored in a way that is not read, so no tensor was", found.unread),
        "hdf5-not-tensors": ("datasets of text, not in the weights ID", found.others),
        "optimizer-state": (
            "tensors of an optimizer, not in the weights ID",
            [str(found.optimizer)] if found.optimizer else [],
        ),
    }
    return Layout(
        format=format_,
        runs=() if found.unread else tuple(found.runs),
        loose=() if found.unread else tuple(found.loose),
        warnings=tuple(f"{code}: {path}: {what}: {few(names)}" for code, (what, names) in warnings.items() if names),
        metadata=tuple(found.metadata.items()),
        unread=bool(found.unread),
    )


class _Part:
    """A part of a file, as a file for h5py: reads only."""

    def __init__(self, file: BinaryIO, base: int, size: int) -> None:
        self._file = file
        self._base = base
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        self._file.seek(self._base + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def read(self, count: int = -1) -> bytes:
        self._file.seek(self._base + self._at)
        left = max(0, self._size - self._at)
        data = self._file.read(left if count < 0 else min(count, left))
        self._at += len(data)
        return data


def _walk(part: _Part, base: int, size: int) -> _Found:
    import h5py

    found, nodes, held = _Found([], [], 0, [], [], {}), 0, 0
    with h5py.File(part, "r") as root:
        for key in ("keras_version", "backend"):
            value = root.attrs.get(key, root[_LEGACY].attrs.get(key) if _LEGACY in root else None)
            if isinstance(value, str | bytes):
                found.metadata[f"keras.{key}"] = value.decode(errors="replace") if isinstance(value, bytes) else value
        open_: list[tuple[str, Any, int]] = [("", root, 0)]
        groups = {int(h5py.h5o.get_info(root.id).addr)}
        while open_:
            prefix, group, depth = open_.pop()
            if depth > MAX_RANK:
                raise _bad("malformed", "groups nested too deep", expected=f"≤ {MAX_RANK} levels")
            for name in group:
                nodes, held = nodes + 1, held + len(prefix) + len(name)
                if nodes > MAX_NODES or held > MAX_HELD:
                    raise _bad("malformed", "too many names, or links between groups", expected=f"≤ {MAX_NODES}")
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise _bad("external", "a link is not followed: it may lead out of the file", got=repr(name)[:80])
                item = group[name]
                if isinstance(item, h5py.Group):
                    address = int(h5py.h5o.get_info(item.id).addr)
                    if address in groups:  # paths would double with each level, or never end
                        raise _bad("malformed", "a group stands in two places", got=repr(name)[:80])
                    groups.add(address)
                    open_.append((f"{prefix}{name}/", item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    _dataset(prefix + name, item, found, base, size)
    return found


def _dataset(path: str, item: Any, found: _Found, base: int, size: int) -> None:
    if path.partition("/")[0] in OPTIMIZERS:
        found.optimizer += 1
        return
    name = path.removeprefix(f"{_LEGACY}/")
    dtype, width, swap = _dtype(item)
    if dtype is None or item.shape is None:
        numbers = item.shape is not None and item.dtype.kind in "biufcV"  # V: records, or numbers of an unnamed kind
        (found.unread if numbers else found.others).append(name)
        return
    if item.is_virtual or item.external:
        raise _bad("external", "a dataset whose bytes lie in other files", got=repr(name)[:80])
    shape = tuple(int(length) for length in item.shape)
    total = math.prod(shape) * width
    if total > MAX_RATIO * size or len(shape) > MAX_RANK:
        raise _bad("tensor", f"{name!r} is bigger than its file can hold", got=shape)
    part = width // 2 if dtype[0] == "C" else width  # of a complex number each half has its own order of bytes
    inner = (*shape, width // part)
    offset = item.id.get_offset()
    if total == 0:
        found.runs.append(Run(name, dtype, shape, 0, 0))
    elif offset is not None:
        start = base + int(offset)
        if int(offset) < 0 or int(offset) + total > size:
            raise _bad("truncated", f"the file ends inside {name!r}", got=size, expected=f"{offset} + {total} bytes")
        if not swap:
            found.runs.append(Run(name, dtype, shape, start, start + total))
        else:
            found.loose.append(Loose(name, dtype, shape, _swapped(start, part, inner)))
    elif item.chunks is None:
        found.loose.append(Loose(name, dtype, shape, _constant(_stored(item, total), total, part, swap=swap)))
    else:
        _chunked(name, item, found, base, size, (dtype, width, swap))


def _dtype(item: Any) -> tuple[str | None, int, bool]:
    """Return a dtype's spelling, its width in bytes and whether it is big-endian; no spelling for what is no number."""
    dtype = item.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and item.attrs.get("dtype") in ("bfloat16", b"bfloat16"):
        return "BF16", 2, False  # as Keras stores it
    name = _NAMES.get(f"{dtype.kind}{dtype.itemsize}") if dtype.subdtype is None else None
    return name, dtype.itemsize, dtype.byteorder == ">"


def _swapped(start: int, width: int, shape: tuple[int, ...]) -> Callable[[BinaryIO], Iterator[memoryview]]:
    strides = [1]
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * length)

    def read(file: BinaryIO) -> Iterator[memoryview]:
        return gather(file, start, width, shape, strides[::-1], swap=True)

    return read


def _stored(item: Any, total: int) -> bytes:
    """Return the bytes of a small dataset that lies in its own header, or one element where nothing was stored."""
    import h5py
    import numpy as np

    if item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:  # at most 64 KiB by the format
        if total > 1 << 16:
            raise _bad("tensor", "a compact dataset is too big", got=total)
        return bytes(item[()].tobytes())
    return bytes(np.asarray(item.fillvalue, dtype=item.dtype).tobytes())


def _constant(data: bytes, total: int, width: int, *, swap: bool) -> Callable[[BinaryIO], Iterator[bytes]]:
    data = _reversed(data, width) if swap else data

    def read(_: BinaryIO) -> Iterator[bytes]:
        block, left = data * max(1, PIECE // len(data)), total
        while left:
            yield block[:left]
            left -= min(left, len(block))

    return read


def _chunked(name: str, item: Any, found: _Found, base: int, size: int, kind: tuple[str, int, bool]) -> None:
    plist = item.id.get_create_plist()
    filters = [int(plist.get_filter(index)[0]) for index in range(plist.get_nfilters())]
    if not set(filters) <= {_DEFLATE, _SHUFFLE, _FLETCHER}:
        found.unread.append(name)
        return
    dtype, width, swap = kind
    shape, chunk = tuple(int(n) for n in item.shape), tuple(int(n) for n in item.chunks)
    band = min(chunk[0], shape[0]) * math.prod(shape[1:]) * width
    if band > MAX_BAND or math.prod(chunk) * width > MAX_BAND:
        raise _bad("tensor", f"the chunks of {name!r} are too big", got=chunk, expected=f"≤ {MAX_BAND} bytes a row")
    chunks: dict[tuple[int, ...], _Chunk] = {}

    def note(info: Any) -> bool | None:
        chunks[tuple(info.chunk_offset)] = _Chunk(base + int(info.byte_offset), int(info.size), info.filter_mask)
        return True if found.chunks + len(chunks) > MAX_CHUNKS else None  # whatever is not None ends the walk

    item.id.chunk_iter(note)
    found.chunks += len(chunks)
    if found.chunks > MAX_CHUNKS:
        raise _bad("tensor", f"{name!r} has too many chunks", expected=f"≤ {MAX_CHUNKS}")
    for piece in chunks.values():
        if piece.start + piece.size > base + size or piece.size > 2 * MAX_BAND:
            raise _bad("truncated", f"the file ends inside {name!r}", got=size)
    part = width // 2 if dtype[0] == "C" else width
    plan = _Chunks(name, shape, chunk, width, filters, chunks, _stored(item, 0), part if swap else 1)
    found.loose.append(Loose(name, dtype, shape, plan.read))


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Puts a chunked dataset together, one row of chunks after the other."""

    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    width: int
    filters: list[int]
    chunks: Mapping[tuple[int, ...], _Chunk]
    fill: bytes
    swap: int  # bytes that are turned around together

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the bytes of the dataset, row-major and little-endian."""
        import numpy as np

        bands: dict[int, list[tuple[int, ...]]] = {}
        for offset in self.chunks:
            bands.setdefault(offset[0], []).append(offset)
        for top in range(0, self.shape[0], self.chunk[0]):
            rows = min(self.chunk[0], self.shape[0] - top)
            out: Any = np.empty((rows, *self.shape[1:]), f"V{self.width}")
            out[...] = np.frombuffer(self.fill, f"V{self.width}")[0]
            for offset in bands.get(top, ()):
                block = np.frombuffer(self._unpack(file, self.chunks[offset]), f"V{self.width}").reshape(self.chunk)
                into = (slice(0, rows), *(slice(at, at + n) for at, n in zip(offset[1:], self.chunk[1:], strict=True)))
                room = out[into]
                room[...] = block[tuple(slice(0, n) for n in room.shape)]
            data = memoryview(out.view("u1").reshape(-1)).cast("B")
            for at in range(0, len(data), PIECE):
                piece = bytes(data[at : at + PIECE])
                yield _reversed(piece, self.swap) if self.swap > 1 else piece

    def _unpack(self, file: BinaryIO, chunk: _Chunk) -> bytes:
        data = b"".join(pieces(file, chunk.start, chunk.start + chunk.size, code="hdf5-truncated"))
        wanted = math.prod(self.chunk) * self.width
        for index, filter_ in reversed(list(enumerate(self.filters))):
            if chunk.mask >> index & 1:  # this filter was left out for this chunk
                continue
            if filter_ == _FLETCHER:
                data = data[:-4]
            elif filter_ == _DEFLATE:
                data = self._inflate(data, wanted)
            elif filter_ == _SHUFFLE:
                data = _unshuffled(data, self.width)
        if len(data) != wanted:
            raise _bad("tensor", f"a chunk of {self.name!r} has another size", got=len(data), expected=wanted)
        return data

    def _inflate(self, data: bytes, wanted: int) -> bytes:
        inflate = zlib.decompressobj()
        try:
            out = inflate.decompress(data, wanted + 8)  # a checksum may have been packed with it
        except zlib.error as error:
            raise _bad("tensor", f"a chunk of {self.name!r} cannot be unpacked: {error}") from None
        if not inflate.eof:
            raise _bad("tensor", f"a chunk of {self.name!r} is longer or shorter than it says", expected=wanted)
        return out


def _unshuffled(data: bytes, width: int) -> bytes:
    """Undo the filter that puts first bytes first; bytes beyond the last whole element stay at the end."""
    count = len(data) // width
    out = bytearray(data)
    for index in range(width):
        out[index : count * width : width] = data[index * count : (index + 1) * count]
    return bytes(out)


def _reversed(data: bytes, width: int) -> bytes:
    out = bytearray(len(data))
    for index in range(width):
        out[index::width] = data[width - 1 - index :: width]
    return bytes(out)


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(f"hdf5-{code}", message, got=got, expected=expected, hint="download or save the file again")
