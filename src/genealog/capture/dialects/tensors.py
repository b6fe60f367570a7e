"""Tensors as KServe v2 sends them, over HTTP or gRPC: one spelling to commit to, whatever way they came.

What is committed to are the bytes of the binary spelling: elements in row-major order, little-endian, a Boolean as one
byte, an element of BYTES behind its length in four bytes. Values that came as JSON, or typed in protobuf, are brought
into it where that loses nothing: a whole number in its range, a number whose nearest double is one of the type. So the
same tensor has the same digest in every spelling. Of any other value its own spelling is committed to, as `json`.

Source: KServe Open Inference Protocol v2 and its binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from genealog.capture.dialects.foreign import LONGEST, Number, Unreadable, ascii_key, joined, spelled
from genealog.core.call_groups import Part
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex

_INTEGERS = {
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip
_FLOATS = {"FP16": "e", "FP32": "f", "FP64": "d"}
_MOST_TEXTS = 64  # elements of a tensor that are texts to be found again; more are data
_MOST_DIMENSIONS = 64
_LONGEST_INTEGER = 20  # digits and sign of 64 bits


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a message. `data` is its binary spelling; None where it is `elsewhere` or could not be brought
    into it, and then `other` is what was said instead.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | None
    other: bytes = b""
    elsewhere: bool = False  # in shared memory: `other` says where

    @property
    def kind(self) -> str:
        """`tensor`, `json` or `reference`."""
        return "tensor" if self.data is not None else "reference" if self.elsewhere else "json"

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of what is committed to."""
        return sha256_hex(self.other if self.data is None else self.data)

    def part(self, message: int) -> Part:
        """Return the commitment; `role` is the name, and the media type has the datatype and the shape."""
        shape = ",".join(map(str, self.shape))
        return Part(
            index=message,
            role=joined([self.name])[:LONGEST],
            sha256=self.sha256,
            type=self.kind,
            media_type=f'application/octet-stream;datatype={ascii_key(self.datatype)[:LONGEST]};shape="{shape}"',
            size=None if self.data is None else len(self.data),
        )

    def texts(self) -> Iterator[str]:
        """Yield the elements of a BYTES tensor that are UTF-8, where they are few."""
        if self.datatype != "BYTES" or self.data is None or math.prod(self.shape) > _MOST_TEXTS:
            return
        for element in elements(self.data):
            try:
                text = element.decode()
            except UnicodeDecodeError:
                continue
            if text:
                yield text


def content(messages: Iterable[Sequence[Tensor]]) -> bytes | None:
    """Return the canonical message of an answer: for each response that has tensors, what they are, in their order.

    None where there is none.
    """
    spelled_out = [
        [
            {
                "datatype": joined([tensor.datatype]),
                "name": joined([tensor.name]),
                "sha256": tensor.sha256,
                "shape": list(tensor.shape),
                "type": tensor.kind,
            }
            for tensor in tensors
        ]
        for tensors in messages
        if tensors
    ]
    return encode({"responses": spelled_out, "t": "genealog/content/v1"}) if spelled_out else None


def shape_of(dimensions: Iterable[int | None]) -> tuple[int, ...]:
    """Return a shape. Raises: Unreadable `tensor-shape` for anything that is none."""
    shape = tuple(size for size in dimensions if size is not None)
    if len(shape) > _MOST_DIMENSIONS or any(not 0 <= size < 1 << 53 for size in shape):
        raise Unreadable("tensor-shape")
    return shape


def elements(data: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor; what is no element ends it."""
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            return
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def packed_bytes(values: Iterable[bytes]) -> bytes:
    """Return the binary spelling of the elements of a BYTES tensor."""
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))


def from_json(name: str, datatype: str, shape: tuple[int, ...], values: list[object]) -> Tensor:
    """Return the tensor that a JSON array spells, flat or nested."""
    flat: list[object] = []
    _flatten(values, flat)
    try:
        data = _packed(datatype, flat) if len(flat) == math.prod(shape) else None
    except (ValueError, OverflowError, struct.error):
        data = None
    return Tensor(name, datatype, shape, data, b"" if data is not None else spelled(values))


def _flatten(values: list[object], flat: list[object]) -> None:
    for value in values:
        if isinstance(value, list):
            _flatten(value, flat)
        else:
            flat.append(value)


def _packed(datatype: str, values: list[object]) -> bytes:
    """Return the binary spelling. Raises: ValueError, OverflowError or struct.error where it would lose something."""
    if datatype == "BYTES":
        return packed_bytes(_text(value) for value in values)
    if datatype == "BOOL":
        return bytes(_boolean(value) for value in values)
    if datatype in _INTEGERS:
        return struct.pack(f"<{len(values)}{_INTEGERS[datatype]}", *map(_integer, values))
    if datatype in _FLOATS:
        floats = tuple(map(_float, values))
        data = struct.pack(layout := f"<{len(values)}{_FLOATS[datatype]}", *floats)
        if struct.unpack(layout, data) == floats:
            return data
    raise ValueError(datatype)


def _text(value: object) -> bytes:
    if not isinstance(value, str) or isinstance(value, Number):
        raise ValueError
    return value.encode()


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _integer(value: object) -> int:
    if not isinstance(value, Number) or len(value) > _LONGEST_INTEGER:
        raise ValueError
    return int(value)


def _float(value: object) -> float:
    if not isinstance(value, Number) or math.isinf(found := float(value)):
        raise ValueError
    return found
