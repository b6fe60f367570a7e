"""The trace of a run: every measurement in the order in which it was made, as an output in the role `trace`.

JSON lines `{"name", "step"?, "value"}`, values as exact text; the file lies among the objects of the store. A run that
measured each thing once has none: its end statement says it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from genealog.capture.files import Tree
from genealog.core.manifest import FileEntry
from genealog.registry import Added, Registry

ROLE = "trace"
NAME = "trace.jsonl"
MAX_BYTES = 64 << 20


@dataclass
class Trace:
    """Measurements as they come. `cut` says that there were more than fit."""

    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    cut: bool = False
    _names: set[str] = field(default_factory=set)
    _again: bool = False

    def add(self, name: str, value: str, step: int | None = None) -> None:
        """Take a measurement."""
        point = {"name": name, "value": value} if step is None else {"name": name, "step": step, "value": value}
        line = msgspec.json.encode(point) + b"\n"
        self._again = self._again or step is not None or name in self._names
        self._names.add(name)
        self.cut = self.cut or self.size + len(line) > MAX_BYTES
        if not self.cut:
            self.lines.append(line)
            self.size += len(line)

    def keep(self, registry: Registry, *, name: str) -> Added | None:
        """Register what was measured; None if that is nothing that the end does not say."""
        if not self._again:
            return None
        entry = FileEntry(path=NAME, sha256=registry.home.objects.put(b"".join(self.lines)), size=self.size)
        warnings = {"trace-cut": "there were more measurements than are kept"}
        lines = tuple(f"{code}: {what}" for code, what in warnings.items() if self.cut)
        tree = Tree(entries=(entry,), excludes=(), weights=None, format="files", warnings=lines)
        return registry.add_tree(tree, None, kind=ROLE, name=name)
