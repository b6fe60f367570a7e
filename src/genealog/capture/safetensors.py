"""Digests of the tensors in a safetensors file, and the private copy that an engine loads from.

Hash-then-open is a race, and so is a shared map: whoever can write the file can change a page after it was hashed.
`read_private` therefore reads once into memory of our own; digests and tensor views are over those very bytes.
The header is read by `core.safetensors`. No framework is imported, no dtype is interpreted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from genealog.capture.reading import read_once
from genealog.core.safetensors import MAX_HEADER_BYTES, Layout, data_start, parse_safetensors_header
from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError


class TensorHasher:
    """Takes the bytes of one safetensors file in order (`update`) and makes its tensor entries.

    A file whose first nine bytes cannot begin a safetensors file (a text pointer of Git LFS, say) is `foreign`: it has
    no tensors and no error. One that begins well and is cut or inconsistent raises MalformedError (`core.safetensors`).
    """

    def __init__(self, size: int) -> None:
        self.layout: Layout | None = None
        self.foreign = size < 9
        self._size = size
        self._head = bytearray()
        self._at = 0
        self._hash = hashlib.sha256()
        self._entries: list[TensorEntry] = []

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        if self.foreign:
            return
        if self.layout is None:
            self._head += data
            data = self._read_header()
        if self.layout is None:
            return
        while len(self._entries) < len(self.layout.slots):
            slot = self.layout.slots[len(self._entries)]
            part = data[: slot.stop - self._at]
            self._hash.update(part)
            self._at += len(part)
            data = data[len(part) :]
            if self._at < slot.stop:
                return
            digest = self._hash.hexdigest()
            self._entries.append(TensorEntry(dtype=slot.dtype, name=slot.name, sha256=digest, shape=slot.shape))
            self._hash = hashlib.sha256()

    def tensors(self) -> tuple[TensorEntry, ...]:
        """Return the entries once every byte was taken, sorted by name."""
        return tuple(sorted(self._entries, key=lambda entry: entry.name))

    def _read_header(self) -> memoryview:
        """Parse the header as soon as all of it is there, and return the data after it."""
        if len(self._head) < 9:
            return memoryview(b"")
        if int.from_bytes(self._head[:8], "little") > MAX_HEADER_BYTES or self._head[8:9] != b"{":
            self.foreign = True
            return memoryview(b"")
        self._at = data_start(self._head, self._size)
        if len(self._head) < self._at:
            return memoryview(b"")
        head, self._head = self._head, bytearray()
        self.layout = parse_safetensors_header(head, self._size)
        return memoryview(head)[self._at :]


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A safetensors file in memory that nobody else can write to.

    `data` is the whole file; `sha256` (hex) and `tensors` (sorted by name) were computed from it. `views` gives for
    each tensor its dtype in safetensors spelling, its shape, and its row-major little-endian bytes inside `data`.
    """

    data: memoryview
    sha256: str
    tensors: tuple[TensorEntry, ...]
    views: Mapping[str, tuple[str, tuple[int, ...], memoryview]]
    metadata: Mapping[str, str]


def read_private(path: str | os.PathLike[str], *, tick: Callable[[int], None] | None = None) -> PrivateFile:
    """Read a safetensors file once, into memory of our own, and hash what was read.

    `tick` gets the number of bytes of each chunk.
    Raises: MalformedError `not-safetensors` and those of `core.safetensors`; as `capture.reading.read_once`.
    """
    read = read_once(path, also=TensorHasher, keep=True, tick=tick)
    hasher, data = read.consumer, read.copy
    if hasher is None or hasher.layout is None or data is None:
        raise MalformedError("not-safetensors", "this is not a safetensors file", got=repr(str(path)))
    views = {slot.name: (slot.dtype, slot.shape, data[slot.start : slot.stop]) for slot in hasher.layout.slots}
    return PrivateFile(
        data=data, sha256=read.sha256, tensors=hasher.tensors(), views=views, metadata=hasher.layout.metadata
    )
