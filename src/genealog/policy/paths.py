"""Where the facts of an input stand: every path in it, and the same input without or with another fact.

A path is the keys and positions on the way to a value. It is written with dots: `models.0.signed.own`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]


def spelled(path: Path) -> str:
    """Write a path with dots."""
    return ".".join(map(str, path))


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield every path in plain JSON values, what holds others before what it holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def value_at(document: Any, path: Path) -> Any:
    """Return what stands at a path. Raises: LookupError."""
    for key in path:
        document = document[key]
    return document


def without(document: Any, path: Path) -> Any:
    """Return a copy without what stands at a path; later elements of a list move up. Raises: LookupError."""
    key, *rest = path
    if isinstance(document, dict):
        if rest:
            return {**document, key: without(document[key], tuple(rest))}
        return {name: value for name, value in document.items() if name != key}
    at = int(key)
    return document[:at] + ([without(document[at], tuple(rest))] if rest else []) + document[at + 1 :]


def with_value(document: Any, path: Path, value: Any) -> Any:
    """Return a copy with another value at a path; a key that is not there is added. Raises: LookupError."""
    if not path:
        return value
    key, *rest = path
    if isinstance(document, dict):
        return {**document, key: with_value(document[key] if rest else None, tuple(rest), value)}
    at = int(key)
    return [*document[:at], with_value(document[at], tuple(rest), value), *document[at + 1 :]]
