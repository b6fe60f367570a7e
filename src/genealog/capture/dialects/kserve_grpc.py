"""KServe v2 inference over gRPC: the same tensors as over HTTP, in protobuf. No generated code, no schema at run time.

A body is what `gateway.grpc` records: every message of one direction in order, each behind gRPC's own five bytes, a
zero and its length, big-endian. A unary call has one message. In a stream the index of a part is that of its message;
the parameters of messages after the first have its index before their names.

Source: KServe `grpc_predict_v2.proto` with Triton's `ModelStreamInfer`; github.com/grpc, PROTOCOL-HTTP2 for the prefix.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from genealog.capture.dialects.blocks import asked, parameters
from genealog.capture.dialects.foreign import Number, Unreadable
from genealog.capture.dialects.kserve_http import model_of
from genealog.capture.dialects.tensors import Tensor, content, packed_bytes, shape_of
from genealog.core.call_groups import RequestFacts, ResponseFacts
from genealog.core.cursor import Cursor
from genealog.core.protobuf import BYTES, fields, signed
from genealog.errors import MalformedError

_STREAM = "/ModelStreamInfer"
_WORDS = frozenset(("model_version",))
_MOST = 65_536  # tensors of one body: every one is a part
_Fields = dict[int, list[Any]]  # bytes of what has a length, else the number


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    return asked(lambda: _request(body))


def _request(body: bytes) -> RequestFacts:
    said: dict[str, Any] = {}
    opened: list[str] = []
    read: list[list[Tensor]] = []
    for index, message in enumerate(_messages(body)):
        known = _fields(message)
        before = f"{index}." if index else ""
        opened.append(f"{before}parameters")
        named = {"model_version": _text(known, 2), "id": _text(known, 3), "parameters": _parameters(_long(known, 4))}
        outputs = [_text(_fields(output), 1) for output in _long(known, 6)]
        said |= {f"{before}{name}": value for name, value in (named | {"outputs": outputs}).items() if value}
        read.append(_tensors(_long(known, 5), _long(known, 7)))
        _check(read)
    return RequestFacts(
        parameters=parameters(said, words=_WORDS, without=(), opened=opened),
        sampler={},
        parts=tuple(tensor.part(index) for index, tensors in enumerate(read) for tensor in tensors),
        last_texts=tuple(text for tensor in (read[-1] if read else ()) for text in tensor.texts()),
    )


def read_response(
    body: bytes,
    *,
    operation: str = "",
    status: int | None = None,
    content_type: str | None = None,  # noqa: ARG001
    content_encoding: str | None = None,  # noqa: ARG001
) -> ResponseFacts:
    """As `dialects.Reader`. `status` is gRPC's: 0 is success."""
    error = "upstream-error" if status else None
    model = None
    read: list[list[Tensor]] = []
    try:
        for message in _messages(body):
            known = _fields(message)
            if operation.endswith(_STREAM):
                error = "upstream-error" if any(_long(known, 1)) else error
                known = _fields(b"".join(_long(known, 2)))  # pieces of one message merge
            model = model_of({"model_name": _text(known, 1), "model_version": _text(known, 2)}) or model
            read.append(_tensors(_long(known, 5), _long(known, 6)))
            _check(read)
    except Unreadable as unreadable:
        return ResponseFacts(model=model, error=error, malformed=str(unreadable))
    return ResponseFacts(
        content=content(read),
        texts=tuple(text for tensors in read for tensor in tensors for text in tensor.texts()),
        parts=tuple(tensor.part(index) for index, tensors in enumerate(read) for tensor in tensors),
        model=model,
        error=error,
    )


def _messages(body: bytes) -> Iterator[bytes]:
    """Yield each message. Raises: Unreadable `message-truncated`, `message-compressed`."""
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + 5])
        if len(body) < at + 5 + size:
            raise Unreadable("message-truncated")
        if body[at]:
            raise Unreadable("message-compressed")
        yield body[at + 5 : at + 5 + size]
        at += 5 + size


def _fields(message: bytes) -> _Fields:
    """Return the fields by their number, in order. Raises: Unreadable `not-protobuf`."""
    found: _Fields = {}
    cursor = Cursor(lambda at, count: message[at : at + count], 0, len(message), format_="protobuf")
    try:
        for field in fields(cursor):
            value = message[field.start : field.stop] if field.wire == BYTES else field.value
            found.setdefault(field.number, []).append(value)
    except MalformedError:
        raise Unreadable("not-protobuf") from None
    return found


def _long(known: _Fields, number: int) -> list[bytes]:
    """Return the values of a field that have a length. Raises: Unreadable `not-protobuf`."""
    found = known.get(number, [])
    if not all(isinstance(value, bytes) for value in found):
        raise Unreadable("not-protobuf")
    return found


def _check(read: list[list[Tensor]]) -> None:
    if len(read) > _MOST or sum(map(len, read[-1:])) > _MOST:
        raise Unreadable("too-many-tensors")


def _text(known: _Fields, number: int) -> str:
    try:
        return (_long(known, number) or [b""])[-1].decode()
    except UnicodeDecodeError:
        raise Unreadable("text-not-unicode") from None


def _tensors(items: list[bytes], raw: list[bytes]) -> list[Tensor]:
    """Return the tensors of a message: those with `raw` bytes take them in order, but for those in shared memory."""
    tensors: list[Tensor] = []
    rest = iter(raw)
    for item in items:
        known = _fields(item)
        name, datatype = _text(known, 1), _text(known, 2)
        shape = shape_of(signed(size) for size in _varints(known.get(3, [])))
        said = b"".join(_long(known, 5))
        if "shared_memory_region" in _parameters(_long(known, 4)):
            where = b"".join(sorted(known[4]))
            tensors.append(Tensor(name, datatype, shape, None, where, elsewhere=True))
        elif raw and not said:
            data = next(rest, None)
            if data is None:
                raise Unreadable("tensor-bytes-missing")
            tensors.append(Tensor(name, datatype, shape, data))
        else:
            tensors.append(Tensor(name, datatype, shape, _typed(datatype, _fields(said)), said))
    if next(rest, None) is not None:
        raise Unreadable("tensor-bytes-left")
    return tensors


def _typed(datatype: str, contents: _Fields) -> bytes | None:
    """Return the binary spelling of typed contents; None where they do not fit the datatype."""
    try:
        match datatype:
            case "BOOL":
                return bytes(value != 0 for value in _varints(contents.get(1, [])))
            case "INT8" | "INT16" | "INT32":
                layout = {"INT8": "b", "INT16": "h", "INT32": "i"}[datatype]
                return _packed(layout, map(signed, _varints(contents.get(2, []))))
            case "INT64":
                return _packed("q", map(signed, _varints(contents.get(3, []))))
            case "UINT8" | "UINT16" | "UINT32":
                layout = {"UINT8": "B", "UINT16": "H", "UINT32": "I"}[datatype]
                return _packed(layout, _varints(contents.get(4, [])))
            case "UINT64":
                return _packed("Q", _varints(contents.get(5, [])))
            case "FP32":
                return _fixed(contents.get(6, []), 4)
            case "FP64":
                return _fixed(contents.get(7, []), 8)
            case "BYTES":
                return packed_bytes(_long(contents, 8))
    except (struct.error, TypeError):
        return None
    return None


def _packed(layout: str, values: Iterable[int]) -> bytes:
    found = tuple(values)
    return struct.pack(f"<{len(found)}{layout}", *found)


def _fixed(values: list[Any], width: int) -> bytes:
    return b"".join(value if isinstance(value, bytes) else value.to_bytes(width, "little") for value in values)


def _varints(values: list[Any]) -> Iterator[int]:
    """Yield a repeated field of varints, packed or not. Raises: Unreadable `not-protobuf`."""
    for value in values:
        if isinstance(value, int):
            yield value
            continue
        number = shift = 0
        for byte in value:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise Unreadable("not-protobuf")
            if byte < 0x80:
                yield number & 0xFFFFFFFFFFFFFFFF
                number = shift = 0
        if shift:
            raise Unreadable("not-protobuf")


def _parameters(entries: list[bytes]) -> dict[str, object]:
    """Return a map of `InferParameter` as JSON would have it."""
    found: dict[str, object] = {}
    for entry in entries:
        known = _fields(entry)
        for number, values in _fields(b"".join(_long(known, 2))).items():
            found[_text(known, 1)] = _parameter(number, values[-1])
    return found


def _parameter(number: int, value: Any) -> object:
    if isinstance(value, bytes):
        return _text({number: [value]}, number)
    match number:
        case 1:
            return value != 0
        case 2:
            return Number(signed(value))
        case 4:
            return Number(repr(struct.unpack("<d", value.to_bytes(8, "little"))[0]))
    return Number(value)
