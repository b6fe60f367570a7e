"""Times and sizes as `genealog.toml` and options write them: "90s", "10m", "1h", "30d"; "64KiB", "8MiB"."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION = "([1-9][0-9]{0,8})([smhd])"
_DURATION = re.compile(DURATION)
_LONGEST = 36_525 * 86_400  # seconds: what is added to a moment has to stay in the calendar
_SHIFTS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
SIZE = "(0|[1-9][0-9]{0,8})(B|KiB|MiB|GiB|TiB)"
_SIZE = re.compile(SIZE)


class Seconds(int):
    """A length of time in whole seconds, written as text with its unit."""


class Bytes(int):
    """A size in whole bytes, written as text with its unit."""


def parse_seconds(value: object) -> Seconds:
    """Read a time such as "90s". Raises: ValueError, which `msgspec.convert` turns into its own."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('expected a time with its unit, such as "90s", "10m", "1h" or "30d"')
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST:
        raise ValueError('expected a time of at most a century, "36525d"')
    return Seconds(seconds)


def read_unit(kind: type, value: Any) -> Any:
    """Read a value whose field is a time or a size: the `dec_hook` of msgspec."""
    if kind is Bytes:
        size = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if size is None:
            raise ValueError('expected a size with its unit, such as "64KiB", "8MiB" or "100GiB"')
        return Bytes(int(size[1]) << _SHIFTS[size[2]])
    if kind is not Seconds:
        raise NotImplementedError
    return parse_seconds(value)
