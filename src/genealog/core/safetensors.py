"""A strict reader of safetensors headers: which tensors a file holds, and where their bytes lie.

A header is a foreign document, so any spelling of its JSON is fine. It is refused wherever two readers could see
different tensors: a key twice, overlapping bytes, holes, bytes left over, offsets that disagree with the shape.
The grammar is read by hand, not by a JSON library: those keep the last of two equal keys, and turn a header of
100 MB into gigabytes of objects. No file is opened here.

Source: safetensors 0.8, README "Format" and `Metadata::validate`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from genealog.core.canonical import MAX_INTEGER
from genealog.core.weights import MAX_RANK
from genealog.errors import MalformedError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where one tensor lies: `start` and `stop` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A safetensors file: its tensors in the order of their bytes, which they cover without gap from `data_start`."""

    slots: tuple[TensorSlot, ...]
    data_start: int
    metadata: dict[str, str]


def data_start(head: bytes | bytearray, file_size: int) -> int:
    """Return the offset where the data begin, from the first 8 bytes of a safetensors file of `file_size` bytes.

    Raises: MalformedError `safetensors-truncated`, `safetensors-header-too-big`. Check before you read that much.
    """
    if len(head) < 8 or file_size < 8:
        raise _bad("truncated", "the file is too short for a header", got=file_size, expected="≥ 8 bytes")
    size = int.from_bytes(head[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise _bad("header-too-big", "the header is over the limit", got=size, expected=f"≤ {MAX_HEADER_BYTES}")
    if 8 + size > file_size:
        raise _bad("truncated", "the file ends inside its header", got=file_size, expected=f"≥ {8 + size} bytes")
    return 8 + size


def parse_safetensors_header(prefix: bytes | bytearray, file_size: int) -> Layout:
    """Return the layout of a safetensors file of `file_size` bytes; `prefix` is at least its first `data_start` bytes.

    Raises: MalformedError `safetensors-truncated`, `safetensors-header-too-big`, `safetensors-header` (grammar,
    unknown dtype, shape and offsets that disagree), `safetensors-duplicate-key`, `safetensors-overlap` (overlap, hole
    or trailing bytes).
    """
    start = data_start(prefix, file_size)
    if len(prefix) < start:
        raise _bad("truncated", "the header is cut", got=len(prefix), expected=f"{start} bytes")
    try:
        text = bytes(prefix[8:start]).decode()
    except UnicodeDecodeError as error:
        raise _bad("header", f"the header is not UTF-8: {error.reason}", got=f"byte {error.start}") from None
    header = _Header(text)
    slots, metadata = [], {}
    if not text.startswith("{"):
        raise _bad("header", "the header does not begin with {", got=repr(text[:1]))
    for name in header.members():
        if name == "__metadata__":
            metadata = {key: header.string() for key in header.members()}
        else:
            slots.append(_slot(name, header, start))
    header.end()
    slots.sort(key=lambda slot: (slot.start, slot.stop, slot.name))
    position = start
    for slot in slots:
        if slot.start != position:
            raise _bad("overlap", f"the bytes of {slot.name!r} overlap others or leave a hole",
                       got=slot.start, expected=position)  # fmt: skip
        position = slot.stop
    if position != file_size:
        code = "truncated" if position > file_size else "overlap"
        raise _bad(code, "the tensors do not cover the file", got=f"{file_size} bytes", expected=position)
    return Layout(slots=tuple(slots), data_start=start, metadata=metadata)


def _slot(name: str, header: _Header, base: int) -> TensorSlot:
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None
    for key in header.members():
        if key == "dtype":
            dtype = header.string()
        elif key == "shape":
            shape = header.integers()
        elif key == "data_offsets":
            offsets = header.integers()
        else:
            raise _bad("header", f"unknown key in {name!r}", got=repr(key)[:80])
    if dtype is None or shape is None or offsets is None or len(offsets) != 2:
        raise _bad("header", f"{name!r} lacks its dtype, shape or two data_offsets")
    if dtype not in DTYPE_BITS:
        raise _bad("header", f"unknown dtype of {name!r}", got=repr(dtype)[:80], expected=" ".join(DTYPE_BITS))
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise _bad("header", f"shape and offsets of {name!r} disagree",
                   got=f"{8 * (offsets[1] - offsets[0])} bits", expected=f"{bits} bits")  # fmt: skip
    return TensorSlot(name=name, dtype=dtype, shape=shape, start=base + offsets[0], stop=base + offsets[1])


class _Header:
    """Reads the one shape of JSON that a header has. Memory stays near the size of the text, whatever it says."""

    _SPACE = re.compile(r"[ \t\n\r]*")
    _STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
    _INTEGER = re.compile(r"(?:0|[1-9][0-9]{0,15})(?![0-9.eE])")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the keys of an object; the caller reads each value before the next key."""
        seen: set[str] = set()
        self._take("{")
        if self._accept("}"):
            return
        while True:
            key = self.string()
            if key in seen:
                raise _bad("duplicate-key", "a key stands twice", got=repr(key)[:80])
            seen.add(key)
            self._take(":")
            yield key
            if not self._accept(","):
                break
        self._take("}")

    def string(self) -> str:
        token = self._match(self._STRING, "a string")
        if "\\" not in token:
            return token[1:-1]
        value: str = json.loads(token)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _bad("header", "a string holds a lone surrogate", got=repr(value)[:80])
        return value

    def integers(self) -> tuple[int, ...]:
        numbers: list[int] = []
        self._take("[")
        if self._accept("]"):
            return ()
        while True:
            numbers.append(int(self._match(self._INTEGER, "an integer from 0 to 2**53 - 1")))
            if numbers[-1] > MAX_INTEGER or len(numbers) > MAX_RANK:
                raise _bad("header", "a number or a shape is too big", got=numbers[-1])
            if not self._accept(","):
                break
        self._take("]")
        return tuple(numbers)

    def end(self) -> None:
        self._skip()
        if self._at != len(self._text):
            raise _bad("header", "text after the header", got=self._next())

    def _next(self) -> str:
        return repr(self._text[self._at : self._at + 40])

    def _skip(self) -> None:
        if found := self._SPACE.match(self._text, self._at):
            self._at = found.end()

    def _accept(self, character: str) -> bool:
        self._skip()
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _take(self, character: str) -> None:
        if not self._accept(character):
            raise _bad("header", f"not a header at character {self._at}",
                       got=self._next(), expected=character)  # fmt: skip

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        self._skip()
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _bad("header", f"not a header at character {self._at}",
                       got=self._next(), expected=what)  # fmt: skip
        self._at = found.end()
        return found[0]


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(
        f"safetensors-{code}", message, got=got, expected=expected, hint="download or save the file again"
    )
