"""KServe messages as bytes, over HTTP and gRPC, written by hand: the readers share nothing with it."""

from __future__ import annotations

import json
import struct
from typing import Any

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def varint(value: int) -> bytes:
    """A base-128 integer; a negative one in two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, value: bytes | str | int) -> bytes:
    """One field: a varint, or something with a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def parameter(name: str, value: bool | str | float) -> bytes:
    """An entry of a map of `InferParameter`."""
    if isinstance(value, bool):
        said = field(1, int(value))
    elif isinstance(value, int):
        said = field(2, value)
    elif isinstance(value, str):
        said = field(3, value)
    else:
        said = varint(4 << 3 | 1) + struct.pack("<d", value)
    return field(1, name) + field(2, said)


def tensor(name: str, datatype: str, shape: list[int], *, contents: bytes = b"", parameters: bytes = b"") -> bytes:
    """An `InferInputTensor` or `InferOutputTensor`."""
    packed = b"".join(map(varint, shape))
    rest = (field(4, parameters) if parameters else b"") + (field(5, contents) if contents else b"")
    return field(1, name) + field(2, datatype) + field(3, packed) + rest


def request(*inputs: bytes, raw: tuple[bytes, ...] = (), model: str = "echo", more: bytes = b"") -> bytes:
    """A `ModelInferRequest`."""
    return field(1, model) + more + b"".join(field(5, one) for one in inputs) + b"".join(field(7, one) for one in raw)


def response(*outputs: bytes, raw: tuple[bytes, ...] = (), model: str = "echo") -> bytes:
    """A `ModelInferResponse` of version 1."""
    head = field(1, model) + field(2, "1")
    return head + b"".join(field(5, one) for one in outputs) + b"".join(field(6, one) for one in raw)


def framed(*messages: bytes) -> bytes:
    """A body on record."""
    return b"".join(b"\0" + struct.pack(">I", len(message)) + message for message in messages)


def binary(head: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """An HTTP body with tensors behind its JSON, and its headers."""
    text = json.dumps(head).encode()
    return text + b"".join(tensors), {"inference-header-content-length": str(len(text))}
