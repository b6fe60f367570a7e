"""How what came out differs from what was recorded: bit for bit, by weights, by numbers within a tolerance, or beyond.

Numbers are per tensor: largest absolute and relative difference, and in units in the last place of its own dtype. They
need both files at hand and numpy; without, the digests still say which tensors differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from genealog.core.weights import TensorEntry
from genealog.custody.held import Held
from genealog.errors import GenealogError

Verdict = Literal["bit-identical", "same-weights", "within-tolerance", "different", "failed"]
RTOL, ATOL = 1e-4, 1e-6
_RANK: tuple[Verdict, ...] = ("bit-identical", "same-weights", "within-tolerance", "different", "failed")
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}


@dataclass(frozen=True, slots=True)
class TensorNumbers:
    """How far one tensor is off. `ulps` counts the numbers of its dtype between; None of integers."""

    name: str
    max_abs: float | None
    max_rel: float | None
    max_ulps: int | None
    changed: int | None  # elements
    size: int
    within: bool
    note: str | None = None


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output of the recorded run beside that of the re-run."""

    role: str
    name: str
    recorded: str
    made: str | None
    verdict: Verdict
    files: tuple[str, ...] = ()
    tensors: tuple[TensorNumbers, ...] = ()  # those that differ, in the order of the file
    compared: int = 0
    note: str | None = None

    @property
    def worst(self) -> TensorNumbers | None:
        """The tensor that is off most, by absolute difference."""
        return max(self.tensors, key=lambda each: math.inf if each.max_abs is None else each.max_abs, default=None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of a re-run. `first` says where the two runs part first, from inputs over steps to tensors."""

    execution: str
    subject: str
    verdict: Verdict
    outputs: tuple[OutputResult, ...]
    first: tuple[str, ...]
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    environment: str | None = None  # ID of the one that it ran in
    same_environment: bool = False
    differences: tuple[str, ...] = ()  # of the environment
    seconds: float = 0.0
    status: int = 0
    said: str | None = None  # the last lines of a program that failed

    @property
    def reproduced(self) -> bool:
        """The same result, or one within the tolerance."""
        return _RANK.index(self.verdict) <= _RANK.index("within-tolerance")


def compare_tensors(
    recorded: Mapping[str, TensorEntry], made: Mapping[str, TensorEntry], old: Held | None, new: Held | None, *,
    rtol: float = RTOL, atol: float = ATOL,
) -> tuple[TensorNumbers, ...]:  # fmt: skip
    """Return numbers for every tensor that differs, in the recorded order."""
    found = []
    for name in [*recorded, *(name for name in made if name not in recorded)]:
        one, other = recorded.get(name), made.get(name)
        if one == other:
            continue
        size = math.prod((one or other).shape) if one or other else 0  # type: ignore[union-attr]
        if one is None or other is None:
            note = "it was not there" if one is None else "it is not there any more"
        elif (one.dtype, one.shape) != (other.dtype, other.shape):
            note = f"{one.dtype} {list(one.shape)} → {other.dtype} {list(other.shape)}"
        elif old is None or new is None:
            note = "no numbers: the recorded files are not here"
        elif find_spec("numpy") is None:
            note = "no numbers: numpy is not installed"
        else:
            try:
                found.append(tensor_numbers(name, one.dtype, old.tensor(name), new.tensor(name), rtol=rtol, atol=atol))
                continue
            except GenealogError as error:
                note = f"no numbers: {error.message}"
        found.append(TensorNumbers(name, None, None, None, None, size, False, note))
    return tuple(found)


def tensor_numbers(
    name: str, dtype: str, one: bytes | bytearray, other: bytes | bytearray, *, rtol: float = RTOL, atol: float = ATOL
) -> TensorNumbers:
    """Compare the bytes of two tensors of one dtype and shape. NaN equals NaN; infinity is infinitely far."""
    import numpy as np

    if dtype not in _FLOATS and dtype not in _INTEGERS:
        return TensorNumbers(name, None, None, None, None, len(one), False, f"no numbers: {dtype} is not compared")
    bits = [_bits(np, dtype, data) for data in (one, other)]
    values = [_values(dtype, each) for each in bits]
    unequal = values[0] != values[1]
    unequal &= ~(np.isnan(values[0]) & np.isnan(values[1]))
    changed = int(unequal.sum())
    if not changed:  # another spelling of NaN, or of zero
        return TensorNumbers(name, 0.0, 0.0, 0, 0, values[0].size, True)
    a, b = values[0][unequal], values[1][unequal]
    with np.errstate(all="ignore"):
        apart = np.abs(a - b)
        apart[np.isnan(apart)] = np.inf
        relative = apart / np.maximum(np.abs(a), np.abs(b))
        relative[np.isnan(relative)] = np.inf
        within = bool((apart <= atol + rtol * np.abs(a)).all()) and bool(np.isfinite(apart).all())
    ulps = _ulps(np, dtype, bits[0][unequal], bits[1][unequal])
    return TensorNumbers(name, float(apart.max()), float(relative.max()), ulps, changed, values[0].size, within)


def _bits(np: Any, dtype: str, data: bytes | bytearray) -> Any:
    if dtype in _FLOATS:
        return np.frombuffer(data, dtype=f"<u{_FLOATS[dtype]}")
    if dtype == "BOOL":
        return np.frombuffer(data, dtype="u1")
    return np.frombuffer(data, dtype=f"<{dtype[0].lower()}{int(dtype[1:]) // 8}")


def _values(dtype: str, bits: Any) -> Any:
    if dtype == "BF16":
        return (bits.astype("<u4") << 16).view("<f4").astype("f8")
    if dtype in _FLOATS:
        return bits.view(f"<f{_FLOATS[dtype]}").astype("f8")
    return bits.astype("f8")


def _ulps(np: Any, dtype: str, one: Any, other: Any) -> int | None:
    """Return how many numbers of the dtype lie between, at most. Source: Dawson, Comparing Floating Point Numbers."""
    if dtype not in _FLOATS:
        return None
    sign = 1 << (_FLOATS[dtype] * 8 - 1)
    pairs = []
    for each in (one, other):
        wide = each.astype("u8")
        below = wide >= sign
        pairs.append(np.where(below, -(wide & (sign - 1)).astype("i8"), wide.astype("i8")))
    high, low = np.maximum(*pairs), np.minimum(*pairs)
    return int((high.astype("u8") - low.astype("u8")).max())  # two's complement: right although it may not fit i8


def verdict_of(recorded: str, made: str | None, weights: tuple[str | None, str | None],
               tensors: Iterable[TensorNumbers]) -> Verdict:  # fmt: skip
    """Return how strong the likeness of one output is."""
    if made is None:
        return "failed"
    if made == recorded:
        return "bit-identical"
    if weights[0] is not None and weights[0] == weights[1]:
        return "same-weights"
    numbers = list(tensors)
    return "within-tolerance" if numbers and all(each.within for each in numbers) else "different"


def weakest_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the weakest verdict; of none, `failed`."""
    return max(verdicts, key=_RANK.index, default="failed")
