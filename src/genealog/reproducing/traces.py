"""The first step at which two runs measured something else: their traces, line by line.

A trace is a file of JSON lines `{"name", "step"?, "value"}`, values as exact text, an output of its run in the role
`trace`. Where there is none, the last values that the end statement holds are compared: they say that the runs parted,
and not when.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

from genealog.errors import MalformedError

TIMES = ("duration", "runtime", "per_second", "energy", "joules", "seconds", "timestamp", "time")  # never the same


class Point(NamedTuple):
    """One measurement: `step` is None where none was given, `value` the text as it was written."""

    name: str
    step: int | None
    value: str


def read_trace(data: bytes) -> list[Point]:
    """Read a trace. Raises: MalformedError `bad-trace`."""
    try:
        return list(_points(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("bad-trace", "not a trace: JSON lines with name, step and value") from None


def first_difference(old: list[Point], new: list[Point]) -> str | None:
    """Return the first step at which two traces part, in words; None if they say the same."""
    pairs = zip_longest([p for p in old if not is_time(p.name)], [p for p in new if not is_time(p.name)])
    for number, (one, other) in enumerate(pairs, 1):
        if one == other:
            continue
        if one is None or other is None:
            left = "recorded" if one is None else "new"
            return f"the {left} trace ends after {number - 1} measurements"
        if (one.name, one.step) != (other.name, other.step):
            return f"measurement {number} is another: {_at(one)} → {_at(other)}"
        return f"first differing step: {_at(one)}: {_short(one.value)} → {_short(other.value)}"
    return None


def last_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what two ends measured otherwise, in words."""
    names = [name for name in old if name in new and old[name] != new[name] and not is_time(name)]
    return [f"{name} at the end: {_short(old[name])} → {_short(new[name])}" for name in sorted(names)]


def is_time(name: str) -> bool:
    """Say whether a measurement is one of time or energy, which no two runs share."""
    return any(word in name.lower() for word in TIMES)


def _points(data: bytes) -> Iterator[Point]:
    for line in data.splitlines():
        if line.strip():
            value = json.loads(line)
            step = value.get("step")
            if not isinstance(value["name"], str) or not (step is None or isinstance(step, int)):
                raise ValueError
            yield Point(value["name"], step, str(value["value"]))


def _at(point: Point) -> str:
    return point.name if point.step is None else f"{point.name} at step {point.step}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
