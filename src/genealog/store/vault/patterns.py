"""Patterns for names in retention rules: `*` for any characters, `?` for one. Everything else means itself."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if letter == "*" else "." if letter == "?" else re.escape(letter) for letter in pattern)
    return re.compile("".join(parts), re.DOTALL)


def fits(name: str, pattern: str) -> bool:
    """Say whether a whole name fits a pattern, case and all."""
    return _compiled(pattern).fullmatch(name) is not None
