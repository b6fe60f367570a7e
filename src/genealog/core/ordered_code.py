"""Ordered code: how TensorFlow spells the name of a slice of a variable, as a key of a checkpoint's index.

Source: tensorflow/core/lib/strings/ordered_code.cc, tensorflow/core/util/saved_tensor_slice_util.cc.
"""

from __future__ import annotations

from collections.abc import Sequence

FULL = -1  # the length that stands for a whole dimension
Extent = tuple[int, int]  # start and length


def slice_key(name: bytes, extents: Sequence[Extent]) -> bytes:
    """Return the key of the slice of the variable `name`; a whole dimension is (0, FULL)."""
    escaped = b"".join({0: b"\0\xff", 255: b"\xff\0"}.get(byte, bytes((byte,))) for byte in name)
    key = _unsigned(0) + escaped + b"\0\1" + _unsigned(len(extents))
    return key + b"".join(_signed(start) + _signed(length) for start, length in extents)


def _unsigned(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes((len(data),)) + data


def _signed(value: int) -> bytes:
    """Spell a 64-bit number: as many one-bits as it has bytes, a zero, then the number, so that spellings sort."""
    length = (~value if value < 0 else value).bit_length() // 7 + 1
    data = (value & (1 << 80) - 1).to_bytes(10, "big")[-length:]
    ones = ((1 << length) - 1) << (8 * length - length)  # the first `length` bits of `length` bytes
    return bytes(a ^ b for a, b in zip(data, ones.to_bytes(length, "big"), strict=True))
