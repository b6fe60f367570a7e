"""Sections of `genealog.toml` put in and taken out by commands: everything else keeps its bytes, comments included.

No TOML is written but the lines of a new section, at the end. What is taken out is whole sections, found by their
header lines. That the rest means what it meant is not assumed: the result is read again and compared.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from genealog.errors import StoreError
from genealog.store.config import toml_text

_HEADER = re.compile(r"^\s*\[\[?\s*([A-Za-z0-9_.\s\"'-]+?)\s*\]\]?\s*(#.*)?$")


def add_section(before: bytes, name: str, values: Mapping[str, object], *, listed: bool = False) -> bytes:
    """Return the file with a section `[name]` at its end, or `[[name]]` if it is one of a list.

    `values` are texts, integers and tuples of texts; None is left out. Raises: StoreError `config-by-hand`.
    """
    lines = [f"[[{name}]]" if listed else f"[{name}]"]
    lines += [f"{key} = {_value(value)}" for key, value in values.items() if value is not None and value != ()]
    gap = b"\n" if before.endswith(b"\n") or not before else b"\n\n"
    after = before + gap + "\n".join(lines).encode() + b"\n"
    _read(after)
    return after


def remove_sections(before: bytes, name: str, *, where: Callable[[Mapping[str, Any]], bool] | None = None) -> bytes:
    """Return the file without `[name]` and all below it; with `where`, without the `[[name]]` of which it is true.

    Raises: StoreError `config-by-hand` where these stand in the file in another way than as sections.
    """
    text = before.decode()
    lines = text.splitlines(keepends=True)
    starts = [(at, _name(line)) for at, line in enumerate(lines) if _name(line) is not None]
    ends = [*(at for at, _ in starts[1:]), len(lines)]
    gone: set[int] = set()
    for (at, found), end in zip(starts, ends, strict=True):
        inside = found == name or (where is None and str(found).startswith(f"{name}."))
        if inside and (where is None or where(_body(lines[at + 1 : end]))):
            gone.update(range(at - (at > 0 and not lines[at - 1].strip()), _last(lines, at, end)))
    after = "".join(line for at, line in enumerate(lines) if at not in gone).encode()
    if _read(after) != _without(_read(before), name.split("."), where):
        raise _by_hand(name)
    return after


def _last(lines: list[str], start: int, end: int) -> int:
    """Return where a section ends: what stands right above the next one belongs to that."""
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _name(line: str) -> str | None:
    found = _HEADER.match(line)
    return re.sub(r"[\s\"']", "", found[1]) if found else None


def _body(lines: list[str]) -> Mapping[str, Any]:
    try:
        return tomllib.loads("".join(lines))
    except ValueError:
        return {}


def _without(table: dict[str, Any], path: list[str], where: Callable[[Mapping[str, Any]], bool] | None) -> Any:
    """Return a table as it shall be: without what `path` leads to, and without tables that are empty then."""
    head, rest = path[0], path[1:]
    if head not in table:
        return table
    kept = {key: value for key, value in table.items() if key != head}
    if rest:
        inner = _without(table[head], rest, where)
    else:
        inner = None if where is None else [each for each in table[head] if not where(each)]
    return {**kept, head: inner} if inner else kept


def _read(data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except ValueError:
        raise _by_hand("this section") from None


def _value(value: object) -> str:
    if isinstance(value, str):
        return toml_text(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_text(each) for each in value) + "]"
    return str(value)


def _by_hand(name: str) -> StoreError:
    return StoreError(
        "config-by-hand", f"genealog.toml is written in a way that no command changes for you: {name}",
        hint="genealog config edit",
    )  # fmt: skip
