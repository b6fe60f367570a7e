"""Tensors of PyTorch checkpoints: zip files (torch ≥ 1.6) and the older row of pickles. Other pickles are only scanned.

The pickle is read by `core.pickles`, which runs nothing; here its notes are understood: which storage, from which
offset, with which strides. What a note does not say plainly (quantised, sparse, subclassed, changed after it was made)
is named in a warning, and there is no weights ID. What loading the file would run besides is `pickle-unsafe`. The rules
for names stand in ADR 0018. Big-endian files are named and not read.

Source: torch 2.13 `serialization.py` (`_save`, `_legacy_save`), `_utils.py` (`_rebuild_*`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import BinaryIO

from genealog.capture.formats.gather import gather, is_row_major, span_of
from genealog.capture.formats.names import flatten, is_training_state, weights_of
from genealog.capture.formats.zips import Member, read_members
from genealog.core.canonical import MAX_INTEGER
from genealog.core.layout import Layout, Loose, Run
from genealog.core.manifest import few
from genealog.core.pickles import Made, Persistent, Scan, Unsafe, is_global, is_library_class, scan_pickle
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# What a pickle of the old row begins with: protocol 2, then MAGIC.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MAX_PICKLES = 10_000  # in one file, one after the other

_STORAGES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1), "ComplexFloatStorage": ("C64", 8),
    "ComplexDoubleStorage": ("C128", 16), "UntypedStorage": ("U8", 1), "_UntypedStorage": ("U8", 1),
}  # fmt: skip
_DTYPES = {
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "int64": ("I64", 8),
    "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1), "uint8": ("U8", 1), "bool": ("BOOL", 1),
    "uint16": ("U16", 2), "uint32": ("U32", 4), "uint64": ("U64", 8), "complex64": ("C64", 8),
    "complex128": ("C128", 16), "float8_e4m3fn": ("F8_E4M3", 1), "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2": ("F8_E5M2", 1), "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1), "float8_e8m0fnu": ("F8_E8M0", 1),
}  # fmt: skip
_QUANTISED = ("QUInt8Storage", "QInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
_PLAIN_CLASSES = ("Parameter", "Buffer", "Tensor")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a storage lie."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A note that is understood: `start` is a byte of the file, strides are in elements."""

    dtype: str
    width: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int


Place = Callable[[str, int], _Place]


class _NotPlain(Exception):  # noqa: N818 - a finding that ends one look, no fault
    """A value that is made as a tensor is, but not in a way that gives its bytes."""


def layout_of(file: BinaryIO, size: int, *, path: str) -> Layout:
    """Return the tensors of a checkpoint, and what loading it would run.

    Raises: MalformedError `torch-zip`, `torch-no-pickle`, `torch-pickle`, `torch-storage`, `torch-truncated`,
    `torch-out-of-storage`, `torch-names`.
    """
    head = file.read(512)
    file.seek(0)
    name = few([PurePath(path).name])
    if head.startswith(b"PK"):
        return _zip(file, size, name)
    if head.startswith(LEGACY):
        return _legacy(file, size, name)
    if head[257:262] == b"ustar":
        what = f"torch-tar: {name}: a tar file, as torch wrote before 2017: not looked at, loading it may run anything"
        return Layout("torch", warnings=(what,))
    return _pickles(file, size, name)


def _zip(file: BinaryIO, size: int, name: str) -> Layout:
    members = read_members(file, size, format_="torch")
    root = next(iter(members), "").partition("/")[0] + "/"
    inside = {path.removeprefix(root): member for path, member in members.items() if path.startswith(root)}
    scans = {p: _scan(file, m) for p, m in members.items() if p.endswith(".pkl")}
    unsafe = [found for scan in scans.values() for found in scan.unsafe]
    warnings = _unsafe(unsafe, name)
    if not scans:
        return Layout("zip", warnings=(f"torch-foreign: {name}: a zip file without a pickle is no checkpoint",))
    if "constants.pkl" in inside or any(path.startswith("code/") for path in inside):
        what = f"torch-script: {name}: a program of TorchScript, its tensors are not in the weights ID"
        return Layout("torch", warnings=(*warnings, what), unread=True)
    if "data.pkl" not in inside or len(inside) != len(members) or len(scans) != 1:
        raise _bad("no-pickle", "a checkpoint is one folder with one data.pkl", got=few(sorted(members)))
    if _text(file, inside.get("byteorder")) not in (None, b"little"):
        what = f"torch-big-endian: {name}: written on a big-endian machine, its tensors are not in the weights ID"
        return Layout("torch", warnings=(*warnings, what), unread=True)
    (scan,) = scans.values()
    if scan.broken is not None or scan.stop != inside["data.pkl"].stop:
        raise _bad("pickle", "the pickle of this checkpoint cannot be read", got=scan.broken or "bytes behind its end")

    def place(key: str, length: int) -> _Place:
        member = inside.get(f"data/{key}")
        if member is None or not member.stored or member.size != length:
            got = "no such member" if member is None else f"{member.size} bytes"
            raise _bad("storage", f"the storage {key!r} is not as the pickle says", got=got, expected=f"{length} bytes")
        return _Place(member.start, member.stop)

    return _layout(scan.value, _Storages(place), name, warnings)


def _scan(file: BinaryIO, member: Member) -> Scan:
    if not member.stored:
        raise _bad("zip", "a pickle in a checkpoint is packed", got=repr(member.name)[:80], expected="stored")
    file.seek(member.start)
    return scan_pickle(file, at=member.start)


def _text(file: BinaryIO, member: Member | None) -> bytes | None:
    if member is None:
        return None
    file.seek(member.start)
    return file.read(min(member.size, 16))


def _legacy(file: BinaryIO, size: int, name: str) -> Layout:
    unsafe: list[Unsafe] = []
    scans = []
    for _ in range(5):  # magic number, protocol, system, what was saved, keys of its storages
        scans.append(scan_pickle(file, at=file.tell()))
        unsafe += scans[-1].unsafe
        if scans[-1].broken is not None:
            raise _bad("pickle", "the pickles of this checkpoint cannot be read", got=scans[-1].broken)
    magic, protocol, _, saved, keys = (scan.value for scan in scans)
    if (magic, protocol) != (MAGIC, PROTOCOL) or not isinstance(keys, list):
        raise _bad("pickle", "this is no checkpoint of a known protocol", got=repr(protocol)[:40], expected=PROTOCOL)
    warnings = _unsafe(unsafe, name)
    widths = _widths(scans[3].pids)
    places: dict[str, _Place] = {}
    at = scans[-1].stop
    for key in keys:
        if not isinstance(key, str) or key in places or key not in widths:
            raise _bad("storage", "the keys of the storages are not those of the pickle", got=repr(key)[:80])
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        stop = at + 8 + count * widths[key]
        if stop > size:
            raise _bad("truncated", "the file ends inside a storage", got=size, expected=f"≥ {stop} bytes")
        places[key] = _Place(at + 8, stop)
        at = stop

    def place(key: str, length: int) -> _Place:
        found = places.get(key)
        if found is None or found.stop - found.start != length:
            raise _bad("storage", f"the storage {key!r} is not as the pickle says", expected=f"{length} bytes")
        return found

    return _layout(saved, _Storages(place), name, warnings)


def _widths(pids: tuple[object, ...]) -> dict[str, int]:
    """Return how many bytes an element of each storage has: as its first mention says, which torch goes by too."""
    widths: dict[str, int] = {}
    for pid in pids:
        if isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage" and isinstance(pid[2], str):
            kind = str(pid[1]).rpartition(".")[2]
            widths.setdefault(pid[2], _STORAGES[kind][1] if kind in _STORAGES else 4 if kind == "QInt32Storage" else 1)
    return widths


def _pickles(file: BinaryIO, size: int, name: str) -> Layout:
    """Scan the pickles of a file, one after the other; no tensors are looked for."""
    unsafe: list[Unsafe] = []
    warnings: list[str] = []
    at = 0
    for number in range(MAX_PICKLES):
        file.seek(at)
        scan = scan_pickle(file, at=at)
        if number and scan.broken is not None and not scan.unsafe:
            warnings.append(f"pickle-trailing: {name}: bytes behind a pickle were not understood, from byte {at}")
            break
        unsafe += scan.unsafe
        if scan.broken is not None:
            warnings.append(f"pickle-broken: {name}: {scan.broken.message}; what stands behind was not looked at")
            break
        at = scan.stop
        if at >= size:
            break
    warnings.append(f"pickle-no-tensors: {name}: hashed as a file: it is no checkpoint of torch")
    return Layout("pickle", warnings=(*_unsafe(unsafe, name), *warnings))


def _unsafe(found: list[Unsafe], name: str) -> tuple[str, ...]:
    """Return the one line that says what loading this file would run besides, if anything.

    Classes of libraries come last: no call of a shell hides behind "and 4 more".
    """
    if not found:
        return ()
    first = {item.what: item for item in reversed(found)}
    ordered = sorted(first.values(), key=lambda item: (is_library_class(item.what), item.at))
    items = [f"{item.what[:80]} at byte {item.at}" for item in ordered]
    return (f"pickle-unsafe: {few(items)} in {name}",)


class _Storages:
    """Turns notes of tensors into places."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def tensor(self, value: object) -> _Tensor | None:
        """Return the tensor that a note makes, or None for what is none. Raises: _NotPlain, MalformedError."""
        if not isinstance(value, Made) or not isinstance(value.args, tuple):
            return None
        args = value.args
        if is_global(value.by, "torch._utils", "_rebuild_parameter") and args:
            found = self._inner(value, args[0])
        elif is_global(value.by, "torch._utils", "_rebuild_parameter_with_state") and len(args) == 4:
            if not _empty(args[3]):
                raise _NotPlain
            found = self._inner(value, args[0])
        elif is_global(value.by, "torch._tensor", "_rebuild_from_type_v2") and len(args) == 4:
            plain = is_global(args[1], "torch.nn.parameter", *_PLAIN_CLASSES) or is_global(args[1], "torch", "Tensor")
            if not plain or not _empty(args[3]):
                raise _NotPlain
            found = self._inner(value, Made(by=args[0], args=args[2], at=value.at))
        elif is_global(value.by, "torch._utils", "_rebuild_tensor", "_rebuild_tensor_v2") and len(args) >= 4:
            storage, offset, shape, strides = args[:4]
            found = self._view(storage, offset, shape, strides, None, args[6:])
        elif is_global(value.by, "torch._utils", "_rebuild_tensor_v3") and len(args) >= 7:
            storage, offset, shape, strides = args[:4]
            found = self._view(storage, offset, shape, strides, args[6], args[7:])
        elif _tensor_like(value.by):
            raise _NotPlain
        else:
            return None
        if value.state or value.items or value.pairs:
            raise _NotPlain  # BUILD can give a tensor another content
        return found

    def _inner(self, outer: Made, value: object) -> _Tensor:
        found = None if value is outer or not isinstance(value, Made) else self._plain(value)
        if found is None:
            raise _NotPlain
        return found

    def _plain(self, value: Made) -> _Tensor | None:
        """As `tensor`, for what stands inside a parameter: a tensor, not one more parameter around it."""
        if not is_global(value.by, "torch._utils", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            raise _NotPlain
        return self.tensor(value)

    def _view(
        self, storage: object, offset: object, shape: object, strides: object, dtype: object, rest: tuple[object, ...]
    ) -> _Tensor:
        if any(not _empty(item) for item in rest):
            raise _NotPlain  # conjugated or negated when it is read
        place, kind = self._storage(storage)
        if dtype is not None:
            if not is_global(dtype, "torch", *_DTYPES):
                raise _NotPlain
            kind = _DTYPES[str(dtype).rpartition(".")[2]]
        spelling, width = kind
        sizes, steps = _dims(shape), _dims(strides)
        if len(sizes) != len(steps) or not _count(offset):
            raise _bad("out-of-storage", "a tensor has no place", got=repr(offset)[:80])
        start = place.start + int(str(offset)) * width
        if start + span_of(sizes, steps) * width > place.stop:
            raise _bad("out-of-storage", "a tensor reaches beyond its storage", got=f"{sizes} by {steps}")
        return _Tensor(spelling, width, sizes, steps, start)

    def _storage(self, value: object) -> tuple[_Place, tuple[str, int]]:
        pid = value.pid if isinstance(value, Persistent) else None
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _NotPlain
        _, kind, key, _, count = pid[:5]
        view = pid[5] if len(pid) == 6 else None
        for module in ("torch", "torch.cuda", "torch.storage"):
            if is_global(kind, module, *_QUANTISED):
                raise _NotPlain
            if is_global(kind, module, *_STORAGES):
                break
        else:
            raise _NotPlain
        if not isinstance(key, str) or not _count(count):
            raise _bad("storage", "a storage without key or size", got=repr(key)[:80])
        spelling, width = _STORAGES[str(kind).rpartition(".")[2]]
        place = self._place(key, int(str(count)) * width)
        if view is None:
            return place, (spelling, width)
        if not isinstance(view, tuple) or len(view) != 3 or not _count(view[1]) or not _count(view[2]):
            raise _bad("storage", "a view of a storage has no place", got=repr(key)[:80])
        start = place.start + view[1] * width
        if start + view[2] * width > place.stop:
            raise _bad("out-of-storage", "a view reaches beyond its storage", got=repr(key)[:80])
        return _Place(start, start + view[2] * width), (spelling, width)


def _layout(saved: object, storages: _Storages, name: str, warnings: tuple[str, ...]) -> Layout:
    if is_training_state(name):
        return Layout("torch", warnings=(*warnings, f"torch-training: {name}: state of a trainer, in no weights ID"))
    odd: list[str] = []

    def leaf(path: str, value: object) -> _Tensor | None:
        try:
            return storages.tensor(value)
        except _NotPlain:
            odd.append(path)
            return None

    weights, notes = weights_of(saved, is_tensor=_tensor_like_value)
    found = flatten(weights, leaf)
    if odd:
        what = "quantised, sparse or special tensors, which are not read"
        notes = [*notes, f"torch-not-read: {what}: {few(odd)}"]
    runs, loose = [], []
    for path, tensor in found.items():
        if is_row_major(tensor.shape, tensor.strides) or 0 in tensor.shape:
            length = math.prod(tensor.shape) * tensor.width
            runs.append(Run(path, tensor.dtype, tensor.shape, tensor.start, tensor.start + length))
        else:
            loose.append(Loose(path, tensor.dtype, tensor.shape, partial(_gathered, tensor=tensor)))
    lines = (f"{code}: {name}: {what}" for code, _, what in (note.partition(": ") for note in notes))
    return Layout("torch", runs=tuple(runs), loose=tuple(loose), warnings=(*warnings, *lines), unread=bool(odd))


def _gathered(file: BinaryIO, *, tensor: _Tensor) -> Iterator[memoryview]:
    width, shape, strides = tensor.width, tensor.shape, tensor.strides
    if width == 16:  # complex numbers of two halves
        width, shape, strides = 8, (*shape, 2), (*(2 * step for step in strides), 1)
    return gather(file, tensor.start, width, shape, strides)


def _tensor_like(callee: object) -> bool:
    """Tell whether a call makes a tensor, in whatever way."""
    if is_global(callee, "torch", "Tensor") or is_global(callee, "torch.nn.parameter", *_PLAIN_CLASSES):
        return True
    name = str(callee)
    return name.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")) or (
        name.startswith(("torch.", "torch.cuda.", "torch.sparse.")) and name.endswith("Tensor")
    )


def _tensor_like_value(value: object) -> bool:
    return isinstance(value, Made) and not isinstance(value.by, str) and _tensor_like(value.by)


def _dims(value: object) -> tuple[int, ...]:
    if isinstance(value, Made) and is_global(value.by, "torch", "Size") and isinstance(value.args, tuple):
        value = value.args[0] if len(value.args) == 1 else None
    if not isinstance(value, (tuple, list)) or len(value) > MAX_RANK or not all(_count(item) for item in value):
        raise _bad("out-of-storage", "a tensor without a shape")
    return tuple(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _empty(value: object) -> bool:
    """Tell whether a value is None, False or holds nothing."""
    if isinstance(value, Made):
        return not (value.args or value.pairs or value.items or value.state)
    return not value if isinstance(value, (tuple, list, dict, bool, type(None))) else False


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(f"torch-{code}", message, got=got, expected=expected, hint="download or save the file again")
