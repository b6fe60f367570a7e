"""ONNX models: initializers of the graph and of the graphs inside it, wherever their bytes lie.

`raw_data` and packed float fields are runs of bytes; integers as varints and external data are gathered. The name of an
initializer of an inner graph begins with the way to it: `<node>/<attribute>/<name>`. Tensors in `Constant` nodes are
part of the graph, not of the weights, and a warning counts them. No protobuf library is used.

Source: onnx 1.19 `onnx.proto` (TensorProto, GraphProto), docs/ExternalData.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO

from genealog.capture.formats.positioned import pieces, read_at
from genealog.capture.formats.siblings import Siblings, size_of
from genealog.core.canonical import MAX_INTEGER
from genealog.core.cursor import Cursor
from genealog.core.layout import Layout, Loose, Run
from genealog.core.manifest import few
from genealog.core.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, fields, signed
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAX_DEPTH = 32
MAX_TENSORS = MAX_GRAPHS = 200_000
MAX_NAME = 16 << 10
MAX_ENTRIES = 32
MAX_HELD = 64 << 20  # bytes of all names: those of inner graphs repeat the way to them
_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64 = 4, 5, 7, 10, 11
_STRING = 8

# data_type → dtype, bits of an element, the field that holds it when raw_data does not
TYPES = {
    1: ("F32", 32, _FLOATS), 2: ("U8", 8, _INT32), 3: ("I8", 8, _INT32), 4: ("U16", 16, _INT32),
    5: ("I16", 16, _INT32), 6: ("I32", 32, _INT32), 7: ("I64", 64, _INT64), 9: ("BOOL", 8, _INT32),
    10: ("F16", 16, _INT32), 11: ("F64", 64, _DOUBLES), 12: ("U32", 32, _UINT64), 13: ("U64", 64, _UINT64),
    14: ("C64", 64, _FLOATS), 15: ("C128", 128, _DOUBLES), 16: ("BF16", 16, _INT32), 17: ("F8_E4M3", 8, _INT32),
    18: ("F8_E4M3FNUZ", 8, _INT32), 19: ("F8_E5M2", 8, _INT32), 20: ("F8_E5M2FNUZ", 8, _INT32),
    21: ("U4", 4, _INT32), 22: ("I4", 4, _INT32), 23: ("F4", 4, _INT32), 24: ("F8_E8M0", 8, _INT32),
    25: ("U2", 2, _INT32), 26: ("I2", 2, _INT32), 27: ("F6_E2M3", 6, _INT32), 28: ("F6_E3M2", 6, _INT32),
}  # fmt: skip


@dataclass(slots=True)
class _Found:
    runs: list[Run] = field(default_factory=list)
    loose: list[Loose] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    sparse: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    constants: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


def layout_of(file: BinaryIO, size: int, *, path: str, siblings: Siblings) -> Layout:
    """Return the initializers of an ONNX model.

    With external data that is not beside the file there are no tensors, and a warning: half of the weights have no ID.
    Raises: MalformedError `onnx-truncated`, `onnx-header`, `onnx-tensor`, `onnx-duplicate-name`, `sibling-outside`.
    """
    walker = _Walker(file, siblings)
    walker.model(size)
    found = walker.found
    warnings = {
        "onnx-external-missing": ("named, and not beside it: no tensor was read", found.missing),
        "onnx-sparse": ("sparse initializers, which are not read", found.sparse),
        "onnx-strings": ("tensors of text, not in the weights ID", found.strings),
        "onnx-constants": (
            "tensors in Constant nodes belong to the graph, not to the weights ID",
            [str(found.constants)] if found.constants else [],
        ),
    }
    return Layout(
        format="onnx",
        runs=() if found.missing else tuple(found.runs),
        loose=() if found.missing else tuple(found.loose),
        warnings=tuple(f"{code}: {path}: {what}: {few(names)}" for code, (what, names) in warnings.items() if names),
        metadata=tuple(found.metadata.items()),
        unread=bool(found.missing or found.sparse),
    )


class _Walker:
    """Goes through the messages of a model by their tags."""

    def __init__(self, file: BinaryIO, siblings: Siblings) -> None:
        self.found = _Found()
        self._at = read_at(file)
        self._siblings = siblings
        self._sizes: dict[str, int | None] = {}
        self._graphs = self._held = 0

    def cursor(self, start: int, stop: int) -> Cursor:
        return Cursor(self._at, start, stop, format_="onnx")

    def fields(self, place: Field) -> Iterator[Field]:
        _demand(place, BYTES)
        return fields(self.cursor(place.start, place.stop))

    def text(self, place: Field) -> str:
        _demand(place, BYTES)
        if place.value > MAX_NAME:
            raise _bad("header", "a name is too long", got=place.value, expected=f"≤ {MAX_NAME} bytes")
        try:
            return self.cursor(place.start, place.stop).take(place.value).decode()
        except UnicodeDecodeError:
            raise _bad("header", "a name is not UTF-8", got=f"byte {place.start}") from None

    def model(self, size: int) -> None:
        graph: Field | None = None
        functions = 0
        for part in fields(self.cursor(0, size)):
            if part.number == 7:
                if graph is not None:  # protobuf would merge them, other readers take the last
                    raise _bad("header", "the model has two graphs")
                graph = part
            elif part.number == 1:
                self.found.metadata["onnx.ir_version"] = str(part.value)
            elif part.number in (2, 3):
                self.found.metadata["onnx.producer" if part.number == 2 else "onnx.producer_version"] = self.text(part)
            elif part.number == 25:
                functions += 1
                self._nodes((p for p in self.fields(part) if p.number == 7), f"function {functions}/", 1)
        if graph is None:
            raise _bad("header", "the model has no graph")
        self._graph(graph, "", 0)

    def _graph(self, place: Field, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _bad("header", "graphs nested too deep", expected=f"≤ {MAX_DEPTH} levels")
        for part in self.fields(place):
            if part.number == 5:
                self._tensor(part, prefix)
            elif part.number == 15:
                values = next((p for p in self.fields(part) if p.number == 1), None)
                self.found.sparse.append(self._named(prefix + (_Tensor.of(self, values).name if values else "?")))
        self._nodes((part for part in self.fields(place) if part.number == 1), prefix, depth)

    def _nodes(self, nodes: Iterator[Field], prefix: str, depth: int) -> None:
        for number, node in enumerate(nodes):
            name, output, kind, inner = "", "", "", []
            for part in self.fields(node):
                if part.number == 2:
                    output = output or self.text(part)
                elif part.number == 3:
                    name = self.text(part)
                elif part.number == 4:
                    kind = self.text(part)
                elif part.number == 5:
                    label, graphs, tensors = self._attribute(part)
                    self.found.constants += tensors if kind in ("Constant", "") else 0
                    inner += [(f"{label}.{i}" if i else label, graph) for i, graph in enumerate(graphs)]
            for label, graph in inner:
                self._graph(graph, f"{prefix}{name or output or f'node {number}'}/{label}/", depth + 1)

    def _attribute(self, place: Field) -> tuple[str, list[Field], int]:
        label, graphs, tensors = "", [], 0
        for part in self.fields(place):
            if part.number == 1:
                label = self.text(part)
            elif part.number in (6, 11):
                graphs.append(part)
                self._graphs += 1
                if self._graphs > MAX_GRAPHS:
                    raise _bad("header", "too many graphs", expected=f"≤ {MAX_GRAPHS}")
            elif part.number in (5, 10):
                tensors += 1
        return label, graphs, tensors

    def _named(self, name: str) -> str:
        """Note that there is an initializer of this name."""
        if name in self.found.names:
            raise _bad("duplicate-name", "two initializers have one name", got=repr(name)[:80])
        self.found.names.add(name)
        self._held += len(name)
        if len(self.found.names) > MAX_TENSORS or self._held > MAX_HELD:
            raise _bad("header", "too many initializers, or their names are too long together", got=len(name))
        return name

    def _tensor(self, place: Field, prefix: str) -> None:
        facts = _Tensor.of(self, place)
        name = self._named(prefix + facts.name)
        if facts.kind == _STRING:
            self.found.strings.append(name)
            return
        if facts.kind not in TYPES or facts.segmented:
            raise _bad("tensor", f"{name!r} is of a kind that is not read", got=facts.kind, expected="a data_type")
        dtype, bits, holder = TYPES[facts.kind]
        count = math.prod(facts.shape)
        length = -(-count * bits // 8)
        if length > MAX_INTEGER:
            raise _bad("tensor", f"{name!r} is too big", got=facts.shape)
        if facts.external is not None:
            self._external(name, dtype, facts, length)
            return
        raw = facts.raw
        if raw is None and holder in (_FLOATS, _DOUBLES) and len(facts.packed) == 1 and not facts.single:
            raw = facts.packed[0] if facts.packed[0].number == holder else None
        if raw is not None:
            if raw.value != length:
                raise _bad("tensor", f"the shape and the bytes of {name!r} disagree", got=raw.value, expected=length)
            self.found.runs.append(Run(name, dtype, facts.shape, raw.start, raw.stop))
        else:
            width = {_FLOATS: 4, _DOUBLES: 8, _INT64: 8}.get(holder) or max(1, bits // 8)
            gather = _gatherer(place, holder, width, length, six=bits == 6)
            self.found.loose.append(Loose(name, dtype, facts.shape, gather))

    def _external(self, name: str, dtype: str, facts: _Tensor, length: int) -> None:
        location = (facts.external or {}).get("location", "")
        try:
            offset = int((facts.external or {}).get("offset", "0"))
            said = int((facts.external or {}).get("length", str(length)))
        except ValueError:
            raise _bad("tensor", f"{name!r} has an offset that is no number") from None
        if said != length or offset < 0:
            raise _bad("tensor", f"the shape and the bytes of {name!r} disagree", got=said, expected=length)
        size = self._size(location)
        if size is None:
            if location not in self.found.missing:
                self.found.missing.append(location)
            return
        if offset + length > size:
            raise _bad("truncated", f"{location!r} ends inside {name!r}", got=size, expected=f"≥ {offset + length}")
        siblings = self._siblings

        def read(_: BinaryIO) -> Iterator[bytes]:
            with closing(siblings(location)) as file:
                yield from pieces(file, offset, offset + length, code="onnx-truncated")

        self.found.loose.append(Loose(name, dtype, facts.shape, read))

    def _size(self, location: str) -> int | None:
        """Return the size of a file beside the model, None if it is not there. Raises: `sibling-outside`."""
        if location not in self._sizes:
            self._sizes[location] = size_of(self._siblings, location)
        return self._sizes[location]


@dataclass(slots=True)
class _Tensor:
    """What a TensorProto says before its elements are read."""

    name: str = ""
    kind: int = 0
    shape: tuple[int, ...] = ()
    raw: Field | None = None
    packed: list[Field] = field(default_factory=list)  # whole runs of elements
    single: bool = False  # elements one by one, as proto2 wrote them
    external: dict[str, str] | None = None
    segmented: bool = False

    @classmethod
    def of(cls, walker: _Walker, place: Field) -> _Tensor:  # noqa: PLR0912 - a branch for each field
        facts, entries, outside, dims = cls(), {}, False, list[int]()
        seen: set[int] = set()
        for part in walker.fields(place):
            if part.number in (2, 8, 9, 14):
                if part.number in seen:  # the last one would count, or the first, depending on who reads
                    raise _bad("tensor", "a field of a tensor stands twice", got=part.number)
                seen.add(part.number)
            if part.number == 1:
                dims += _integers(walker, part)
                if len(dims) > MAX_RANK or any(not 0 <= size <= MAX_INTEGER for size in dims):
                    raise _bad("tensor", "a shape is out of range", got=f"{len(dims)} dimensions")
            elif part.number == 2:
                facts.kind = part.value
            elif part.number == 3:
                facts.segmented = True
            elif part.number == 8:
                facts.name = walker.text(part)
            elif part.number == 9:
                _demand(part, BYTES)
                facts.raw = part
            elif part.number == 13:
                key, value = _entry(walker, part)
                entries[key] = value
                if len(entries) > MAX_ENTRIES:
                    raise _bad("tensor", "too many words on external data", expected=f"≤ {MAX_ENTRIES}")
            elif part.number == 14:
                outside = part.value == 1
            elif part.number in (_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64):
                if part.wire == BYTES and len(facts.packed) < 2:
                    facts.packed.append(part)
                else:
                    facts.single = True
        facts.shape = tuple(dims)
        facts.external = entries if outside else None
        return facts


def _entry(walker: _Walker, place: Field) -> tuple[str, str]:
    key = value = ""
    for part in walker.fields(place):
        if part.number == 1:
            key = walker.text(part)
        elif part.number == 2:
            value = walker.text(part)
    return key, value


def _integers(walker: _Walker, part: Field) -> list[int]:
    """Return the numbers of a repeated int64, packed or not; at most one more than a shape may have."""
    if part.wire == VARINT:
        return [signed(part.value)]
    _demand(part, BYTES)
    cursor, numbers = walker.cursor(part.start, part.stop), list[int]()
    while cursor.left and len(numbers) <= MAX_RANK:
        numbers.append(signed(cursor.varint()))
    return numbers


def _gatherer(
    place: Field, holder: int, width: int, length: int, *, six: bool
) -> Callable[[BinaryIO], Iterator[bytes]]:
    """Return how the elements of a tensor are read from the field `holder`, `width` bytes each, `length` bytes in all.

    Elements of `six` bits stand one a byte in the field, and four in three bytes in a tensor.
    """

    def read(file: BinaryIO) -> Iterator[bytes]:
        at, total, pending = read_at(file), 0, bytearray()
        for part in fields(Cursor(at, place.start, place.stop, format_="onnx")):
            if part.number != holder:
                continue
            for element in _elements(at, part, holder, width):
                pending += element
                if len(pending) >= 64 << 10:
                    done = _sixes(pending) if six else bytes(pending)
                    total += len(done)
                    _check_length(total, length, final=False)
                    yield done
                    pending.clear()
        done = _sixes(pending) if six else bytes(pending)
        _check_length(total + len(done), length, final=True)
        yield done

    return read


def _sixes(values: bytearray) -> bytes:
    """Pack numbers of six bits, the first in the lowest bits."""
    out = bytearray()
    for at in range(0, len(values), 4):
        packed = sum((value & 63) << (6 * index) for index, value in enumerate(values[at : at + 4]))
        out += packed.to_bytes(3, "little")
    return bytes(out[: -(-len(values) * 6 // 8)])


def _elements(at: Callable[[int, int], bytes], part: Field, holder: int, width: int) -> Iterator[bytes]:
    cursor = Cursor(at, part.start, part.stop, format_="onnx")
    if holder in (_FLOATS, _DOUBLES):
        if part.wire not in (BYTES, FIXED32 if holder == _FLOATS else FIXED64) or (part.stop - part.start) % width:
            raise _bad("tensor", "floats are no whole number of elements", got=part.stop - part.start)
        while cursor.left:
            yield cursor.take(min(cursor.left, 64 << 10))
        return
    if part.wire not in (BYTES, VARINT):
        raise _bad("tensor", "integers are stored as floats", got=part.wire)
    while cursor.left:
        value, bits = signed(cursor.varint()), width * 8
        if holder == _UINT64:
            value &= (1 << 64) - 1
        if not -(1 << (bits - 1)) <= value < 1 << bits:
            raise _bad("tensor", "an element does not fit its type", got=value, expected=f"{bits} bits")
        yield (value & ((1 << bits) - 1)).to_bytes(width, "little")


def _check_length(got: int, expected: int, *, final: bool) -> None:
    if got > expected or (final and got != expected):
        raise _bad("tensor", "the shape and the elements of a tensor disagree", got=got, expected=f"{expected} bytes")


def _demand(part: Field, wire: int) -> None:
    if part.wire != wire:
        raise _bad("header", "a field has another wire type than its number says", got=part.number)


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(
        f"onnx-{code}", message, got=got, expected=expected, hint="download or export the model again"
    )
