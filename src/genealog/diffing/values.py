"""How far the numbers of a changed tensor moved: the greatest and the mean difference, and how many are equal.

Bytes of both sides are read in pieces and hashed on the way: what does not hash to the tensor that is compared gives no
figures. NumPy makes it fast and is not needed. Quantised types are no numbers here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genealog.capture.formats.positioned import pieces
from genealog.capture.formats.siblings import siblings_in
from genealog.capture.listing import list_tree
from genealog.core.layout import Loose, Run
from genealog.custody.held import layout_of
from genealog.diffing.report import Change
from genealog.diffing.sides import Side
from genealog.errors import GenealogError
from genealog.registry import left_out

BLOCK = 1 << 16  # elements that are compared at once
# dtype → struct and NumPy code; BF16 is the upper half of a float32
NUMBERS = {
    "F64": "d", "F32": "f", "F16": "e", "BF16": "H", "I64": "q", "I32": "i", "I16": "h", "I8": "b",
    "U64": "Q", "U32": "I", "U16": "H", "U8": "B", "BOOL": "B",
}  # fmt: skip

Open = Callable[[], Iterator[bytes | memoryview]]


@dataclass(slots=True)
class _Sums:
    elements: int = 0
    equal: int = 0
    greatest: float = 0.0
    total: float = 0.0
    finite: int = 0

    def facts(self) -> dict[str, str]:
        found = {
            "elements": str(self.elements),
            "equal_elements": str(self.equal),
            "max_difference": repr(self.greatest),
            "mean_difference": repr(self.total / self.finite if self.finite else 0.0),
        }
        if self.finite < self.elements:
            found["not_finite"] = str(self.elements - self.finite)  # infinite or no number, on either side
        return found


def add_values(a: Side, b: Side, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Return `changes` with figures for each changed tensor of one shape whose bytes are at hand on both sides."""
    readers = [_readers(side) for side in (a, b)]
    return tuple(
        change
        if change.what != "changed"
        else replace(change, facts={**change.facts, **_figures(a, b, readers, change)})
        for change in changes
    )


def _figures(a: Side, b: Side, readers: Sequence[dict[str, Open]], change: Change) -> dict[str, str]:
    facts, opens = [], []
    for side, found in zip((a, b), readers, strict=True):
        own = side.tensors[change.name] if side.tensors else ("", (), "")
        reader = found.get(side.tied.get(change.name, change.name))
        if own[0] not in NUMBERS:
            return {"values": f"{own[0]} is not compared as numbers"}
        if reader is None:
            return {"values": f"the bytes of {side.label} are not at hand"}
        facts.append(own)
        opens.append(reader)
    if facts[0][1] != facts[1][1]:
        return {"values": "the shapes differ"}
    try:
        return _compare(opens[0](), opens[1](), facts)
    except (GenealogError, OSError):
        return {"values": "the bytes could not be read, or changed since they were hashed"}


def _compare(a: Iterator[Any], b: Iterator[Any], facts: Sequence[tuple[str, tuple[int, ...], str]]) -> dict[str, str]:
    sums, digests = _Sums(), (hashlib.sha256(), hashlib.sha256())
    kinds = facts[0][0], facts[1][0]
    widths = [struct.calcsize(NUMBERS[kind]) for kind in kinds]
    blocks = [_blocks(stream, width * BLOCK) for stream, width in zip((a, b), widths, strict=True)]
    add = _with_numpy if find_spec("numpy") else _plainly
    for x, y in zip(*blocks, strict=True):
        digests[0].update(x)
        digests[1].update(y)
        add(sums, x, y, kinds)
    if any(digest.hexdigest() != fact[2] for digest, fact in zip(digests, facts, strict=True)):
        return {"values": "the bytes changed since they were hashed"}
    return sums.facts()


def _with_numpy(sums: _Sums, x: bytes, y: bytes, kinds: tuple[str, str]) -> None:
    import numpy as np

    def numbers(data: bytes, kind: str) -> Any:
        raw = np.frombuffer(data, f"<{NUMBERS[kind].replace('e', 'f2') if kind == 'F16' else NUMBERS[kind]}")
        return (raw.astype("<u4") << 16).view("<f4").astype("f8") if kind == "BF16" else raw.astype("f8")

    with np.errstate(all="ignore"):
        first, second = numbers(x, kinds[0]), numbers(y, kinds[1])
        if kinds[0] == kinds[1]:  # bit for bit: no number equals itself, and 2⁵³ + 1 is not 2⁵³
            width = len(x) // len(first)
            equal = np.frombuffer(x, f"<u{width}") == np.frombuffer(y, f"<u{width}")
        else:
            equal = first == second
        gaps = np.abs(first - second)
        known = gaps[np.isfinite(gaps)]
        total = float(known.sum())  # infinite where the sum is more than a number can be
    sums.elements += len(gaps)
    sums.equal += int(equal.sum())
    sums.finite += len(known)
    if len(known):
        sums.greatest = max(sums.greatest, float(known.max()))
        sums.total += total


def _plainly(sums: _Sums, x: bytes, y: bytes, kinds: tuple[str, str]) -> None:
    widths = [struct.calcsize(NUMBERS[kind]) for kind in kinds]
    rows = zip(_numbers(x, kinds[0]), _numbers(y, kinds[1]), strict=True)
    for index, (first, second) in enumerate(rows):
        if kinds[0] == kinds[1]:
            at = index * widths[0]
            same = x[at : at + widths[0]] == y[at : at + widths[0]]
        else:
            same = first == second
        gap = abs(first - second)
        sums.elements += 1
        sums.equal += same
        if gap == gap and gap != float("inf"):  # noqa: PLR0124 - not a number
            sums.finite += 1
            sums.greatest = max(sums.greatest, gap)
            sums.total += gap


def _numbers(data: bytes, kind: str) -> Iterable[float]:
    for (value,) in struct.iter_unpack(f"<{NUMBERS[kind]}", data):
        yield struct.unpack("<f", struct.pack("<I", value << 16))[0] if kind == "BF16" else float(value)


def _blocks(stream: Iterator[bytes | memoryview], size: int) -> Iterator[bytes]:
    """Yield the bytes of a stream in blocks of one size, the last one shorter."""
    held = bytearray()
    for piece in stream:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _readers(side: Side) -> dict[str, Open]:
    """Return how to read each tensor whose file lies here, by name."""
    if side.place is None or not side.place.exists():
        return {}
    found: dict[str, Open] = {}
    try:
        listed, _ = list_tree(side.place, exclude=left_out(side.place, side.statement))
    except GenealogError:
        return {}
    for file in listed:
        real = Path(file.real)
        try:
            layout = layout_of(real, file.path, siblings=siblings_in(listed, file.path))
        except (GenealogError, OSError):
            continue
        items: tuple[Run | Loose, ...] = (*layout.runs, *layout.loose) if layout else ()
        for item in items:
            found.setdefault(item.name, _opener(real, item))
    return found


def _opener(path: Path, item: Run | Loose) -> Open:
    def read() -> Iterator[bytes | memoryview]:
        with closing(path.open("rb")) as file:
            if isinstance(item, Run):
                yield from pieces(file, item.start, item.stop, code="bytes-differ")
            else:
                yield from item.read(file)

    return read
