"""What finds personal data in a text, and how it is masked there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from genealog.errors import StoreError


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Where a text has something of some kind: characters from `start` up to `end`."""

    start: int
    end: int
    kind: str


class Engine(Protocol):
    """Finds kinds of personal data."""

    @property
    def name(self) -> str:
        """As in the settings."""

    @property
    def version(self) -> str:
        """Of what finds: another one may find something else."""

    def find(self, text: str) -> Iterable[Span]:
        """Return what was found, in any order; spans may overlap. Whatever it raises, the text is not kept."""


def mask(engine: Engine, text: str, found: Counter[str]) -> str:
    """Return a text with `[kind]` where something was found, and count the kinds. Overlapping spans become one."""
    parts: list[str] = []
    done, kind, end = 0, "", -1
    for span in sorted(engine.find(text), key=lambda span: (span.start, -span.end)):
        if span.start < end:
            end = max(end, span.end)
            continue
        if end >= 0:
            parts.append(f"[{kind}]")
            done = end
        parts.append(text[done : span.start])
        kind, end = span.kind, span.end
        found[kind] += 1
    if end < 0:
        return text
    return "".join([*parts, f"[{kind}]", text[end:]])


def known(asked: Iterable[str], kinds: Iterable[str], engine: str) -> frozenset[str]:
    """Return the kinds to look for: those asked for, else all. Raises: StoreError `redaction-unusable`."""
    wanted, there = frozenset(asked), frozenset(kinds)
    if strange := wanted - there:
        raise StoreError(
            "redaction-unusable", f"the engine {engine} does not know such entities", got=", ".join(sorted(strange)),
            expected=", ".join(sorted(there)), hint="`entities` in [[redaction]] of genealog.toml",
        )  # fmt: skip
    return wanted or there
