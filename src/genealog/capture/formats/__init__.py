"""Which reader reads which file: by the end of its name and by its first bytes, both.

A reader is a function `layout_of(file, size, *, path)` that looks at headers, directories or pickles and says where the
tensors of the file lie (`core.layout.Layout`); it hashes nothing and runs nothing. `capture.files` does the hashing.
Safetensors are not in this table: their header is read in the same pass that hashes them (`capture.safetensors`).

A file whose name belongs to a format and whose first bytes do not is hashed as a file, with a warning. One that begins
well and is cut or inconsistent raises MalformedError, its code prefixed with the format: `torch-truncated`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import BinaryIO, Protocol, cast

from genealog.capture.formats.siblings import Siblings
from genealog.core.layout import Layout

HEAD_BYTES = 512  # what `begins` is given, or the whole file if that is shorter


class LayoutOf(Protocol):
    """Says where the tensors of one file lie.

    `file` is seekable and buffered, at byte 0, of `size` bytes. `path` is what its tree calls it: for words.
    Raises: MalformedError, its code prefixed with the format.
    """

    def __call__(self, file: BinaryIO, size: int, /, *, path: str) -> Layout:
        """Return the layout."""


class SpreadLayoutOf(Protocol):
    """The same for a format that spreads over several files of one tree (an index and its shards).

    `siblings` opens the others; `Loose.read` calls it too, later. What such a layout says of its tensors must not be
    cached under the key of its first file alone.
    """

    def __call__(self, file: BinaryIO, size: int, /, *, path: str, siblings: Siblings) -> Layout:
        """Return the layout."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One row: `module` has the function `layout_of`, imported when the first such file is met.

    `ends` are lower-case ends of file names; `begins` tells from the first bytes whether the file can be of the format.
    One that `spreads` is given its siblings.
    """

    format: str
    module: str
    ends: tuple[str, ...]
    begins: Callable[[bytes], bool]
    spreads: bool = False

    def layout_of(self, file: BinaryIO, size: int, *, path: str, siblings: Siblings) -> Layout:
        """Return the layout of an open file, as `LayoutOf` says; `siblings` is made by `siblings.siblings_in`."""
        read = import_module(f"{__name__}.{self.module}").layout_of
        if self.spreads:
            return cast("SpreadLayoutOf", read)(file, size, path=path, siblings=siblings)
        return cast("LayoutOf", read)(file, size, path=path)


def _starts(*heads: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(heads)


def _anything(head: bytes) -> bool:
    return bool(head)


ZIP = b"PK\x03\x04"
NPY = b"\x93NUMPY"
HDF5 = b"\x89HDF\r\n\x1a\n"

# The first row that fits both ways reads the file.
READERS: tuple[Reader, ...] = (
    Reader("torch", "torch", (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"), _anything),
    Reader("npz", "npz", (".npz",), _starts(ZIP, b"PK\x05\x06")),
    Reader("npy", "npz", (".npy",), _starts(NPY)),
    Reader("gguf", "gguf", (".gguf",), _starts(b"GGUF")),
    # A ModelProto: its first field is one of those that such a message has, usually ir_version.
    Reader(
        "onnx",
        "onnx",
        (".onnx",),
        _starts(*(bytes((tag,)) for tag in b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72")),
        spreads=True,
    ),
    Reader("keras", "keras", (".keras",), _starts(ZIP)),
    Reader("hdf5", "hdf5", (".h5", ".hdf5"), _starts(HDF5)),
    # The first key of a checkpoint's table is empty: nothing shared with the key before, and no bytes.
    Reader("tensorflow", "tensorflow", (".index",), _starts(b"\0\0"), spreads=True),
)


def named_for(path: str) -> tuple[Reader, ...]:
    """Return the readers whose file names end as this one does."""
    name = PurePath(path).name.lower()
    return tuple(reader for reader in READERS if name.endswith(reader.ends))


def reader_for(path: str, head: bytes) -> Reader | None:
    """Return the reader of the file at `path` that begins with `head`, or None."""
    return next((reader for reader in named_for(path) if reader.begins(head)), None)
