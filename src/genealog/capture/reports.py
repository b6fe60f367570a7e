"""Reports of watched processes, read as strangers' words: what is not one of the shapes below is counted and dropped.

A program that trains may write anything into its report file, by accident or not. So lines and values have limits,
names and paths are text without control characters, numbers are finite, and nothing here opens a path that is told.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genealog.capture.command import mask_text

LINE = 64 << 10  # bytes
CHUNK = 4 << 20
REPORTS = 2_000_000  # lines of one program
_TEXTS = {
    "load": ("how", "path", "role"), "save": ("how", "path", "what"), "open": ("path", "mode"),
    "outside": ("path", "mode"), "seed": ("source", "value"),
    "random": ("source", "state"), "parameter": ("name",), "metric": ("name",), "fault": ("where", "error"),
    "switch": ("name", "value"), "order": (), "trained": ("path",), "hello": ("prefix", "python"), "bye": (),
    "libraries": (),
}  # fmt: skip
_LONG = {"path": 4096, "prefix": 4096, "state": 32_000}
ROLES = frozenset(("base", "data", "adapter", "tokenizer", "previous"))
WHATS = frozenset(("model", "adapter", "checkpoint", "tokenizer", "file"))


@dataclass(frozen=True, slots=True)
class Report:
    """One report that has a known shape. `kind` is its `t`; `fields` holds only what is named here, checked."""

    kind: str
    at: int
    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str) -> Any:
        """Return a field that may be absent."""
        return self.fields.get(name)


def parse_report(value: object) -> Report | None:
    """Return a report, or None for what is none."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("t"), str) or kind not in _TEXTS:
        return None
    fields: dict[str, Any] = {}
    for name in _TEXTS[kind]:
        text = value.get(name)
        if not _is_text(text, _LONG.get(name, 300)):
            return None
        fields[name] = text
    if "path" in fields and not fields["path"].startswith("/"):
        return None
    at = value.get("at")
    more = _MORE[kind](value) if kind in _MORE else {}
    if more is None:
        return None
    return Report(kind, at if isinstance(at, int) and _is_count(at) else 0, fields | more)


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest and not _odd(value)


def _odd(text: str) -> bool:
    """Say whether a text cannot stand in a statement: control characters, or bytes of no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in text)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _open(value: dict[str, Any]) -> dict[str, Any] | None:
    key = value.get("key")
    fine = key is None or (isinstance(key, list) and len(key) == 5 and all(map(_is_count, key)))
    return {"key": key} if fine and value["mode"] in ("r", "w") else None


def _load(value: dict[str, Any]) -> dict[str, Any] | None:
    name = value.get("name")
    fine = value["role"] in ROLES and (name is None or _is_text(name, 300))
    return {"name": name} if fine else None


def _save(value: dict[str, Any]) -> dict[str, Any] | None:
    step = value.get("step")
    return {"step": step} if value["what"] in WHATS and (step is None or _is_count(step)) else None


def _random(value: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return {"state": base64.b64decode(value["state"], validate=True)}
    except (binascii.Error, ValueError):
        return None


def _valued(value: dict[str, Any]) -> dict[str, Any] | None:
    """Take a number, a truth value or a short text; spell it exactly."""
    given = value.get("value")
    if isinstance(given, bool):
        return {"value": str(given).lower()}
    if isinstance(given, int) and abs(given) < 2**128:
        return {"value": str(given)}
    if isinstance(given, float):
        return {"value": repr(given) if math.isfinite(given) else "not-finite"}
    return {"value": mask_text(given)} if isinstance(given, str) and _is_text(given, 300) else None


def _metric(value: dict[str, Any]) -> dict[str, Any] | None:
    found, step = _valued(value), value.get("step")
    return found | {"step": step} if found is not None and _is_count(step) else found


def _order(value: dict[str, Any]) -> dict[str, Any] | None:
    digest, size = value.get("sha256"), value.get("size")
    known = isinstance(digest, str) and len(digest) == 64 and not set(digest) - set("0123456789abcdef")
    fine = _is_count(value.get("loader")) and _is_count(value.get("drawn")) and (size is None or _is_count(size))
    if not fine or not (digest is None or known):
        return None
    return {"loader": value["loader"], "drawn": value["drawn"], "size": size, "sha256": digest}


def _hello(value: dict[str, Any]) -> dict[str, Any] | None:
    rank = value.get("rank")
    fine = (
        isinstance(rank, dict) and len(rank) <= 3 and all(_is_text(text, 20) for pair in rank.items() for text in pair)
    )
    return {"pid": value.get("pid"), "rank": rank} if fine and _is_count(value.get("pid")) else None


def _bye(value: dict[str, Any]) -> dict[str, Any] | None:
    return {"lost": value["lost"]} if _is_count(value.get("lost")) else None


def _libraries(value: dict[str, Any]) -> dict[str, Any] | None:
    names = value.get("names")
    return (
        {"names": names}
        if isinstance(names, list) and len(names) < 100 and all(_is_text(n, 60) for n in names)
        else None
    )


def _trained(value: dict[str, Any]) -> dict[str, Any] | None:
    return {"trained": value["trained"]} if isinstance(value.get("trained"), bool) else None


_MORE = {
    "open": _open, "outside": _open, "load": _load, "save": _save, "random": _random, "parameter": _valued,
    "metric": _metric, "order": _order, "hello": _hello, "bye": _bye, "libraries": _libraries, "trained": _trained,
}  # fmt: skip


@dataclass
class ReportFolder:
    """The report files of one program, read on as they grow. `unreadable` counts lines that are no reports."""

    path: Path
    unreadable: int = 0
    taken: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)

    def read(self, *, whole: bool = False) -> Iterator[Report]:
        """Yield what was written since. `whole` takes the rest of each file, also a last line without its end."""
        for name in sorted(path.name for path in self.path.glob("*.jsonl")):
            yield from self._file(name, whole=whole)

    def _file(self, name: str, *, whole: bool) -> Iterator[Report]:
        path = self.path / name
        if path.is_symlink() or not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._offsets.get(name, 0))
            while True:
                data = file.read(CHUNK)
                end = data.rfind(b"\n") + 1
                if not end and (whole or len(data) > LINE):
                    end = len(data)  # a torn line at the end, or one without an end
                if not end:
                    return
                file.seek(self._offsets.get(name, 0) + end)
                self._offsets[name] = self._offsets.get(name, 0) + end
                for line in data[:end].splitlines():
                    if (report := self._line(line)) is not None:
                        yield report

    def _line(self, line: bytes) -> Report | None:
        self.taken += 1
        report = None
        if self.taken <= REPORTS and len(line) <= LINE:
            try:
                report = parse_report(json.loads(line))
            except (ValueError, RecursionError):
                report = None
        if report is None:
            self.unreadable += 1
        return report
