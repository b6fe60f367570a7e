"""Row-major little-endian bytes of a tensor that lies otherwise in its file: strided, transposed, big-endian.

Memory is a few MiB whatever the tensor: the answer is made in blocks, and the file is read in spans that hold what a
block needs. Views do the copying, so no element passes through Python on its own. No framework, no numpy.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

from genealog.errors import MalformedError

BLOCK = 4 << 20  # bytes of an answer that are made at once
SPAN = 4 << 20  # bytes of the file that are read at once
_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether the elements lie in one run, the last index first. Strides are in elements."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def span_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements lie between the first and the last of a tensor, both counted; 0 where it has none."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def gather(
    file: BinaryIO, start: int, width: int, shape: Sequence[int], strides: Sequence[int], *, swap: bool = False
) -> Iterator[memoryview]:
    """Yield the elements of a tensor in row-major order. Element [0, 0, …] lies at byte `start`.

    `width` is 1, 2, 4 or 8 bytes (of a part, for complex numbers: they have one more dimension of 2). Strides are in
    elements and not negative. `swap` turns big-endian into little-endian.
    Raises: MalformedError `tensor-truncated`.
    """
    if 0 in shape:
        return
    dims = _merged(shape, strides)
    inner = list(dims)  # what is made at once: as many of the last dimensions as fit a block
    while inner and width * math.prod(size for size, _ in inner) > BLOCK:
        inner.pop(0)
    outer = dims[: len(dims) - len(inner)]
    step, stride = 1, 0
    if outer:
        size, stride = outer.pop()
        step = max(1, BLOCK // (width * math.prod(size for size, _ in inner)))
        pieces = [(first, min(step, size - first)) for first in range(0, size, step)]
    else:
        pieces = [(0, 1)]
    reader = _Gather(file, start, width)
    for offset in _offsets(outer):
        for first, count in pieces:
            block = reader.block(offset + first * stride, [(count, stride), *inner])
            if swap:
                turned = array(_CODES[width], block.tobytes())
                turned.byteswap()
                yield memoryview(turned).cast("B")
            else:
                yield block.cast("B")


class _Gather:
    def __init__(self, file: BinaryIO, start: int, width: int) -> None:
        self._file = file
        self._start = start
        self._width = width

    def block(self, offset: int, dims: list[tuple[int, int]]) -> memoryview:
        """Return the elements of one block, `offset` elements behind the start."""
        total = math.prod(size for size, _ in dims)
        out = memoryview(bytearray(total * self._width)).cast(_CODES[self._width])
        places, behind = [], total
        for size, stride in dims:
            behind //= size
            if size > 1:
                places.append((size, stride, behind))
        self._fill(out, 0, offset, places)
        return out

    def _fill(self, out: memoryview, at: int, offset: int, dims: list[tuple[int, int, int]]) -> None:
        """Put the elements of `dims` (size, stride in the file, stride in `out`) into `out` from `at` on."""
        span = 1 + sum((size - 1) * stride for size, stride, _ in dims)
        if span * self._width <= SPAN or not dims:
            self._copy(out, at, self._read(offset, span), dims)
            return
        widest = max(range(len(dims)), key=lambda index: dims[index][1])
        size, stride, behind = dims[widest]
        rest = dims[:widest] + dims[widest + 1 :]
        below = 1 + sum((n - 1) * s for n, s, _ in rest)
        dense = 16 * math.prod(n for n, _, _ in rest) >= stride  # else most of what is read would be thrown away
        step = max(1, (SPAN // self._width - below) // stride + 1) if dense else 1
        for first in range(0, size, step):
            count = min(step, size - first)
            part = rest if count == 1 else [(count, stride, behind), *rest]
            self._fill(out, at + first * behind, offset + first * stride, part)

    def _copy(self, out: memoryview, at: int, found: memoryview, dims: list[tuple[int, int, int]]) -> None:
        """Copy from a span: the dimension with most elements by one slice, the others by loops."""
        long = max(range(len(dims)), key=lambda index: dims[index][0], default=None)
        if long is None:
            out[at] = found[0]
            return
        size, stride, behind = dims[long]
        rest = dims[:long] + dims[long + 1 :]
        stop = (size - 1) * behind + 1
        for source, target in _pairs(rest):
            first = at + target
            if stride:
                out[first : first + stop : behind] = found[source : source + (size - 1) * stride + 1 : stride]
            else:
                same = memoryview(found[source : source + 1].tobytes() * size).cast(_CODES[self._width])
                out[first : first + stop : behind] = same

    def _read(self, offset: int, count: int) -> memoryview:
        self._file.seek(self._start + offset * self._width)
        data = self._file.read(count * self._width)
        if len(data) != count * self._width:
            raise MalformedError("tensor-truncated", "the file ends inside a tensor")
        return memoryview(data).cast(_CODES[self._width])


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (size, stride) without dimensions of one element; neighbours that lie in one run become one."""
    dims: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == size * stride:
            dims[-1] = (dims[-1][0] * size, stride)
        else:
            dims.append((size, stride))
    return dims


def _offsets(dims: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield where each index of `dims` lies, the last index first."""
    if not dims:
        yield 0
        return
    size, stride = dims[0]
    for index in range(size):
        for offset in _offsets(dims[1:]):
            yield index * stride + offset


def _pairs(dims: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    if not dims:
        yield 0, 0
        return
    size, stride, behind = dims[0]
    for index in range(size):
        for source, target in _pairs(dims[1:]):
            yield index * stride + source, index * behind + target
