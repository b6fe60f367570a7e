"""Where the tensors of one file lie, whatever its format: what a reader of headers, directories or pickles finds.

A reader looks at the few bytes that say what there is and gives a `Layout`; it hashes nothing. `capture.files` then
reads the file once: the tensors that lie in one run of bytes (`Run`) are hashed in that same pass; those that do not
(strided, compressed, stored as text) are read in pieces afterwards (`Loose`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Run:
    """A tensor whose row-major little-endian bytes are the bytes `start` to `stop` of the file, and nothing else.

    Two runs may be the same bytes (tied names) or overlap (views of one storage).
    """

    name: str
    dtype: str  # safetensors spelling, GGML types as GGML:Q4_1
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Loose:
    """A tensor whose bytes have to be gathered: `read` yields them, row-major and little-endian, in bounded pieces.

    `size` is how many bytes it will yield, where the reader knows: then a file that promises too many is refused before
    any of them is made.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[BinaryIO], Iterator[bytes | memoryview]]
    size: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one file. `warnings` are lines `code: what`; `metadata` is what the file says of itself.

    `unread` says that the file holds numbers besides, which could not be read: then no weights ID may be made of it.
    """

    format: str  # gguf, torch, npz, onnx, keras, hdf5, tensorflow
    runs: tuple[Run, ...] = ()
    loose: tuple[Loose, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    unread: bool = False
