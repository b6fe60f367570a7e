"""Numbers of tensors that differ, and the first step at which two traces part."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError
from genealog.reproducing.compare import compare_tensors, tensor_numbers, verdict_of, weakest_of
from genealog.reproducing.traces import Point, first_difference, last_differences, read_trace

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "u1", "I64": "<i8", "BOOL": "u1"}


def of(dtype: str, *values: float) -> bytes:
    if dtype == "BF16":
        return (np.array(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.array(values, TYPES[dtype]).tobytes()


@pytest.mark.parametrize(
    ("dtype", "one", "other", "largest", "ulps"),
    [
        ("F32", 1.0, float(np.nextafter(np.float32(1), np.float32(2))), 2**-23, 1),
        ("F64", 1.0, float(np.nextafter(1.0, 2.0)), 2**-52, 1),
        ("F16", 1.0, 1 + 2**-10, 2**-10, 1),
        ("BF16", 1.0, 1 + 2**-7, 2**-7, 1),
        ("F32", -1.0, 1.0, 2.0, 2 * 0x3F800000),
        ("I32", 5, 9, 4.0, None),
        ("U8", 250, 1, 249.0, None),
        ("BOOL", 0, 1, 1.0, None),
    ],
)
def test_how_far_a_tensor_is_off(dtype: str, one: float, other: float, largest: float, ulps: int | None) -> None:
    found = tensor_numbers("t", dtype, of(dtype, 7, one), of(dtype, 7, other))
    assert (found.max_abs, found.max_ulps, found.changed, found.size) == (largest, ulps, 1, 2)


@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_numbers_agree_with_a_plain_account(one: list[float], other: list[float]) -> None:
    a, b = np.array(one, "<f4"), np.array(other[: len(one)], "<f4")
    found = tensor_numbers("t", "F32", a.tobytes(), b.tobytes(), rtol=1e-3, atol=1e-3)
    wide, theirs = a.astype("f8"), b.astype("f8")
    unequal = ~((wide == theirs) | (np.isnan(wide) & np.isnan(theirs)))
    assert found.changed == int(unequal.sum())
    with np.errstate(all="ignore"):
        close = np.isclose(theirs, wide, rtol=1e-3, atol=1e-3, equal_nan=True)
        assert found.within == bool(close.all())
        if unequal.any() and np.isfinite(wide).all() and np.isfinite(theirs).all():
            assert found.max_abs == float(np.abs(wide - theirs).max())


def test_nan_equals_nan_and_infinity_is_far() -> None:
    assert tensor_numbers("t", "F32", of("F32", np.nan), of("F32", np.nan)).within
    assert tensor_numbers("t", "F32", of("F32", 0.0), of("F32", -0.0)).changed == 0
    for pair in ((np.inf, 1.0), (np.nan, 1.0), (np.inf, -np.inf)):
        found = tensor_numbers("t", "F32", of("F32", pair[0]), of("F32", pair[1]))
        assert found.max_abs == np.inf
        assert not found.within


def entry(name: str, dtype: str = "F32", size: int = 2, digit: str = "0") -> TensorEntry:
    return TensorEntry(dtype=dtype, name=name, sha256=digit * 64, shape=(size,))


def test_what_cannot_be_counted_is_said() -> None:
    old = {"same": entry("same"), "gone": entry("gone"), "shape": entry("shape"), "bytes": entry("bytes")}
    new = {
        "same": entry("same"),
        "new": entry("new"),
        "shape": entry("shape", size=3),
        "bytes": entry("bytes", digit="1"),
    }
    found = {each.name: each for each in compare_tensors(old, new, None, None)}
    assert list(found) == ["gone", "shape", "bytes", "new"]
    assert not any(each.within for each in found.values())
    assert found["shape"].note == "F32 [2] → F32 [3]"
    assert "not here" in str(found["bytes"].note)
    assert tensor_numbers("t", "GGML:Q4_1", b"ab", b"ac").max_abs is None


def test_verdicts_from_strong_to_weak() -> None:
    near = tensor_numbers("t", "F32", of("F32", 1.0), of("F32", 1.0 + 1e-6))
    far = tensor_numbers("t", "F32", of("F32", 1.0), of("F32", 2.0))
    assert verdict_of("a", "a", ("w", "w"), ()) == "bit-identical"
    assert verdict_of("a", "b", ("w", "w"), ()) == "same-weights"
    assert verdict_of("a", "b", ("w", "v"), (near,)) == "within-tolerance"
    assert verdict_of("a", "b", ("w", "v"), (near, far)) == "different"
    assert verdict_of("a", "b", (None, None), ()) == "different"
    assert verdict_of("a", None, (None, None), ()) == "failed"
    assert weakest_of(["same-weights", "different", "bit-identical"]) == "different"
    assert weakest_of([]) == "failed"


def trace(*points: tuple[str, int | None, str]) -> list[Point]:
    return [Point(*point) for point in points]


def test_the_first_step_that_differs() -> None:
    old = trace(("loss", 1, "2.5"), ("time_s", 1, "0.1"), ("loss", 2, "2.4"))
    assert first_difference(old, old) is None
    assert first_difference(old, trace(("loss", 1, "2.5"), ("loss", 2, "2.4"))) is None  # no two runs share a time
    other = first_difference(old, trace(("loss", 1, "2.5"), ("loss", 2, "2.3")))
    assert other == "first differing step: loss at step 2: 2.4 → 2.3"
    assert first_difference(old, old[:2]) == "the new trace ends after 1 measurements"
    assert first_difference(old[:2], old) == "the recorded trace ends after 1 measurements"
    assert "is another" in str(first_difference(old, trace(("score", 1, "2.5"))))
    assert last_differences({"loss": "1", "x": "2", "duration_s": "3"}, {"loss": "2", "duration_s": "4"}) == [
        "loss at the end: 1 → 2"
    ]


@given(st.lists(st.tuples(st.text(), st.none() | st.integers(0, 99), st.text()), max_size=8))
def test_traces_are_read_as_they_were_written(points: list[tuple[str, int | None, str]]) -> None:
    lines = [
        json.dumps({"name": name, "value": value} | ({} if step is None else {"step": step}))
        for name, step, value in points
    ]
    assert read_trace("\n".join(lines).encode()) == trace(*points)


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b'{"name":1,"value":"2"}', b'{"name":"a"}', b"\xff", b"[" * 9999])
def test_what_is_no_trace_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_trace(data)
    assert caught.value.code == "bad-trace"
