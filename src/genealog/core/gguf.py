"""A strict reader of GGUF headers (versions 2 and 3): which tensors a file holds, and where their bytes lie.

Refused wherever two readers could see different tensors: a key or a name twice, overlapping bytes, holes beyond the
padding, bytes left over. Version 1 (32-bit counts, gone since August 2023) and big-endian files are refused with a
word. Values of the metadata are stepped over, never gathered: a vocabulary costs no memory. No file is opened here.

Source: ggml docs/gguf.md; ggml 0.9 `gguf.cpp`; `gguf` 0.19 constants.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

from genealog.core.canonical import MAX_INTEGER
from genealog.core.cursor import Cursor, ReadAt
from genealog.core.layout import Run

MAGIC = b"GGUF"
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME = 65_535  # the specification's limit of a key; ggml itself allows a tensor 63 bytes
MAX_TEXT = 4096  # longer values of the metadata are given as their digest
MAX_HELD = 64 << 20  # bytes of keys, values and names together
MAX_NESTING = 8
MAX_TENSORS = 200_000
MAX_PAIRS = 200_000
_SHARED_ALIGNMENT = 32

# number → name, elements of a block, bytes of a block
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

_SCALARS = {  # type → struct format
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_TEMPLATES = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Gguf:
    """A GGUF file: its tensors in the order of the file, and its metadata as text.

    A short value stands as it is, a float as Python prints it; an array, a chat template, or a text over 4 KiB, as
    `sha256:<hex>` over its bytes in the file, without their type and count.
    """

    version: int
    alignment: int
    data_start: int
    tensors: tuple[Run, ...]
    metadata: dict[str, str]


def parse_gguf(read_at: ReadAt, size: int) -> Gguf:
    """Return what the header of a GGUF file of `size` bytes says.

    Raises: MalformedError `gguf-truncated`, `gguf-version` (1, unknown, or big-endian), `gguf-header` (grammar, an
    unknown type, a shape that has no blocks), `gguf-duplicate-key`, `gguf-overlap` (overlap, hole, trailing bytes).
    """
    cursor = Cursor(read_at, 0, size, format_="gguf")
    version = _version(cursor)
    tensors, pairs = cursor.unsigned(8), cursor.unsigned(8)
    if tensors > size // 24 or pairs > size // 13:
        raise cursor.bad("truncated", "more tensors or keys than the file has room for", got=f"{tensors}, {pairs}")
    if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
        raise cursor.bad("header", "too many tensors or keys", got=f"{tensors}, {pairs}", expected=f"≤ {MAX_TENSORS}")
    metadata: dict[str, str] = {}
    held = 0
    for _ in range(pairs):
        key = _text(cursor, "a key")
        if key in metadata:
            raise cursor.bad("duplicate-key", "a key stands twice", got=repr(key)[:80])
        metadata[key] = _value(cursor, cursor.unsigned(4), short=not key.startswith(_TEMPLATES))
        held += len(key) + len(metadata[key])
        _check_held(cursor, held)
    alignment = _alignment(cursor, metadata.get("general.alignment"))
    infos = []
    for _ in range(tensors):
        infos.append(_info(cursor, alignment))
        held += len(infos[-1].name)
        _check_held(cursor, held)
    if len({info.name for info in infos}) < len(infos):
        raise cursor.bad("duplicate-key", "two tensors have one name")
    start = _padded(cursor.at, alignment)
    runs = tuple(Run(i.name, i.dtype, i.shape, start + i.start, start + i.stop) for i in infos)
    _check_cover(cursor, runs, start, size, alignment)
    return Gguf(version=version, alignment=alignment, data_start=start, tensors=runs, metadata=metadata)


def _check_held(cursor: Cursor, held: int) -> None:
    if held > MAX_HELD:
        raise cursor.bad("header", "names and values are too long together", expected=f"≤ {MAX_HELD} bytes")


def _version(cursor: Cursor) -> int:
    if cursor.left < 8 or cursor.take(4) != MAGIC:
        raise cursor.bad("header", "the file does not begin as GGUF", expected="GGUF")
    version = cursor.unsigned(4)
    if version in (2, 3):
        return version
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    what = "a big-endian file" if swapped in (1, 2, 3) else f"version {version}"
    raise cursor.bad("version", "this kind of GGUF is not read", got=what, expected="little-endian, version 2 or 3")


def _text(cursor: Cursor, what: str) -> str:
    length = cursor.unsigned(8)
    if length > MAX_NAME:
        raise cursor.bad("header", f"{what} is too long", got=length, expected=f"≤ {MAX_NAME} bytes")
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError:
        raise cursor.bad("header", f"{what} is not UTF-8", got=f"before byte {cursor.at}") from None


def _value(cursor: Cursor, kind: int, *, short: bool) -> str:
    if kind in _SCALARS:
        form = _SCALARS[kind]
        data = cursor.take(struct.calcsize(form))
        if kind == 7 and data not in (b"\0", b"\1"):
            raise cursor.bad("header", "a truth value is neither 0 nor 1", got=data.hex())
        return str(struct.unpack(form, data)[0])
    if kind == _STRING:
        length = cursor.unsigned(8)
        if short and length <= MAX_TEXT:
            return cursor.take(length).decode(errors="backslashreplace")
        digest = hashlib.sha256()
        _hash(cursor, length, digest)
    elif kind == _ARRAY:
        digest = hashlib.sha256()
        _array(cursor, digest, 0)
    else:
        raise cursor.bad("header", "unknown type of a value", got=kind, expected="0 to 12")
    return f"sha256:{digest.hexdigest()}"


def _array(cursor: Cursor, digest: hashlib._Hash, depth: int) -> None:
    """Hash the bytes of an array, and step over them."""
    kind, count = cursor.unsigned(4), cursor.unsigned(8)
    if kind in _SCALARS:
        _hash(cursor, count * struct.calcsize(_SCALARS[kind]), digest)
    elif kind == _STRING:
        cursor.check(count * 8)
        for _ in range(count):
            length = cursor.take(8)
            digest.update(length)
            _hash(cursor, int.from_bytes(length, "little"), digest)
    elif kind == _ARRAY:
        if depth == MAX_NESTING:
            raise cursor.bad("header", "arrays nested too deep", expected=f"≤ {MAX_NESTING} levels")
        cursor.check(count * 12)
        for _ in range(count):
            _array(cursor, digest, depth + 1)
    else:
        raise cursor.bad("header", "unknown type of an array", got=kind, expected="0 to 12")


def _hash(cursor: Cursor, length: int, digest: hashlib._Hash) -> None:
    cursor.check(length)
    while length:
        part = cursor.take(min(length, 64 << 10))
        digest.update(part)
        length -= len(part)


def _alignment(cursor: Cursor, text: str | None) -> int:
    if text is None:
        return _SHARED_ALIGNMENT
    alignment = int(text) if text.isdigit() else 0
    if alignment < 1 or alignment > 1 << 31 or alignment & (alignment - 1):
        raise cursor.bad("header", "general.alignment is no power of two", got=text[:20])
    return alignment


def _info(cursor: Cursor, alignment: int) -> Run:
    """Read one tensor info; its offsets still count from the beginning of the data."""
    name = _text(cursor, "the name of a tensor")
    rank = cursor.unsigned(4)
    if rank > MAX_DIMS:
        raise cursor.bad("header", f"{name!r} has too many dimensions", got=rank, expected=f"≤ {MAX_DIMS}")
    dims = [cursor.unsigned(8) for _ in range(rank)]
    kind, offset = cursor.unsigned(4), cursor.unsigned(8)
    if kind not in TYPES:
        raise cursor.bad("header", f"unknown type of {name!r}", got=kind, expected="a ggml_type")
    dtype, per_block, block = TYPES[kind]
    count = math.prod(dims)
    if max(dims, default=0) > MAX_INTEGER or count > MAX_INTEGER:
        raise cursor.bad("header", f"{name!r} is too big", got="×".join(map(str, dims)))
    if (dims[0] if dims else 1) % per_block:
        raise cursor.bad("header", f"a row of {name!r} is no whole number of blocks", got=dims, expected=per_block)
    if offset % alignment:
        raise cursor.bad("header", f"{name!r} is not aligned", got=offset, expected=f"a multiple of {alignment}")
    spelled = dtype if per_block == 1 else f"GGML:{dtype}"
    # GGML counts dimensions from the fastest; everybody else from the slowest.
    return Run(name, spelled, tuple(reversed(dims)), offset, offset + count // per_block * block)


def _check_cover(cursor: Cursor, runs: tuple[Run, ...], start: int, size: int, alignment: int) -> None:
    """Refuse a file whose tensors do not lie one after the other, each padded to the alignment, to its end."""
    position = start
    for run in sorted(runs, key=lambda run: (run.start, run.stop)):
        if run.start != position:
            raise cursor.bad("overlap", f"the bytes of {run.name!r} overlap others or leave a hole",
                             got=run.start, expected=position)  # fmt: skip
        if run.stop > size:
            raise cursor.bad("truncated", f"the file ends inside {run.name!r}", got=size, expected=f"≥ {run.stop}")
        position = _padded(run.stop, alignment)
    if size > position:
        raise cursor.bad("overlap", "the file goes on after its last tensor", got=size, expected=f"≤ {position} bytes")


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
