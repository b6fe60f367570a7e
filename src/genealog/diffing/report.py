"""What a comparison says: sections, each `equal`, `differs` or `unknown`, and the changes inside.

Unknown is not equal: a section that could not be compared says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["equal", "differs", "unknown"]
What = Literal["added", "removed", "changed"]
MAX_VALUE = 2_000  # characters of a value that are shown


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that B has and A has not, or the other way round, or that is another in each."""

    name: str
    what: What
    before: str | None = None
    after: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of things that were compared; `why` is said where they could not be, and where there is more to say."""

    name: str
    state: Verdict
    changes: tuple[Change, ...] = ()
    why: str | None = None
    text: str | None = None  # a unified diff

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        body: dict[str, Any] = {"section": self.name, "state": self.state}
        if self.why is not None:
            body["why"] = self.why
        if self.changes:
            body["changes"] = [
                {"name": c.name, "what": c.what, "before": c.before, "after": c.after, **dict(c.facts)}
                for c in self.changes
            ]
        if self.text is not None:
            body["diff"] = self.text
        return body


def compared(
    name: str, before: Mapping[str, str], after: Mapping[str, str], *, why: str | None = None, text: str | None = None
) -> Section:
    """Return a section over two mappings of names to values as text."""
    changes = tuple(changes_of(before, after))
    return Section(name, "differs" if changes or text else "equal", changes, why, text)


def changes_of(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[Change]:
    """Yield what differs between two mappings, by name."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            what: What = "added" if old is None else "removed" if new is None else "changed"
            yield Change(name, what, cut(old), cut(new))


def unknown(name: str, why: str) -> Section:
    """Return a section that could not be compared."""
    return Section(name, "unknown", why=why)


def cut(text: str | None) -> str | None:
    """Return a value for people, shortened."""
    return text if text is None or len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text)} characters)"


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Return nested JSON as dotted names and values as JSON text: {"a": {"b": 1}} → {"a.b": "1"}."""
    found: dict[str, str] = {}
    open_: list[tuple[str, object]] = [(prefix, value)]
    while open_:
        name, item = open_.pop()
        if isinstance(item, Mapping) and (item or name == prefix):
            open_.extend((f"{name}.{key}" if name else str(key), inner) for key, inner in item.items())
        else:
            found[name] = json.dumps(item, ensure_ascii=False, sort_keys=True)
    return found
