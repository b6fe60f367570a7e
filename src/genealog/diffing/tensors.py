"""Tensors of two sides by name: added, removed, changed, and in what: dtype, shape or only bytes."""

from __future__ import annotations

from collections.abc import Iterable

from genealog.core.manifest import few
from genealog.diffing.report import Change, Section, unknown
from genealog.diffing.sides import Fact, Side

# Warnings that say: here are weights, and their tensors were not read.
_UNREAD = (
    "-not-read", "-unread", "-missing", "-snappy", "-packed", "-script", "-big-endian", "-broken", "-no-names",
    "several-weights", "more-warnings",
)  # fmt: skip


def tensors_section(a: Side, b: Side) -> Section:
    """Compare the tensors of two sides."""
    if a.tensors is None and b.tensors is None:
        if unread := [line for line in (*a.warnings, *b.warnings) if _is_unread(line)]:
            return unknown("tensors", f"weights that were not read: {few(unread, 2)}")
        return Section("tensors", "equal", why="neither has any")
    if a.tensors is None or b.tensors is None:
        without = a if a.tensors is None else b
        if any(_is_unread(line) for line in without.warnings):
            return unknown("tensors", f"the weights of {without.label} were not read: {few(without.warnings, 2)}")
        return Section("tensors", "differs", why=f"{without.label} has none")
    if a.weights == b.weights:
        return Section("tensors", "equal", why=f"{len(a.tensors)} tensors, one weights ID")
    changes = tuple(_changes(a.tensors, b.tensors))
    return Section("tensors", "differs", changes, _count(a.tensors, changes))


def _is_unread(warning: str) -> bool:
    code = warning.partition(":")[0]
    return code.startswith("not-") or code.endswith(_UNREAD)


def _changes(a: dict[str, Fact], b: dict[str, Fact]) -> Iterable[Change]:
    for name in sorted({name for name, fact in a.items() if b.get(name) != fact} | (b.keys() - a.keys())):
        old, new = a.get(name), b.get(name)
        if old is None or new is None:
            dtype, shape, digest = old or new or ("", (), "")
            text, facts = f"{dtype} {_shape(shape)}", {"sha256": digest}
            yield (
                Change(name, "removed", text, None, facts) if new is None else Change(name, "added", None, text, facts)
            )
        else:
            parts = [label for label, x, y in zip(("dtype", "shape", "bytes"), old, new, strict=True) if x != y]
            before, after = f"{old[0]} {_shape(old[1])}", f"{new[0]} {_shape(new[1])}"
            kind = [part for part in parts if part != "bytes"] or ["bytes"]
            yield Change(name, "changed", before, after, {"differs_in": " and ".join(kind)})


def _count(a: dict[str, Fact], changes: tuple[Change, ...]) -> str:
    counts = {what: sum(1 for change in changes if change.what == what) for what in ("changed", "added", "removed")}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{', '.join(parts)}; {len(a) - counts['removed'] - counts['changed']} equal"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def relation(a: Side, b: Side, tensors: Section) -> str:
    """Return how two sides relate, in a few words for the head line."""
    if a.id == b.id:
        return "same bytes"
    if a.weights is not None and a.weights == b.weights:
        return "same weights, other packaging"
    for adapter, base in ((a, b), (b, a)):
        if _is_adapter(adapter) and not _is_adapter(base):
            inputs = adapter.making.inputs if adapter.making else ()
            named = next((item for item in inputs if item.role == "base"), None)
            if named and (named.artifact == base.id or (named.weights and named.weights == base.weights)):
                return f"adapter vs base: a run on record trained {adapter.label} on {base.label}"
            return f"adapter vs model: no run on record says that {adapter.label} was trained on {base.label}"
    if a.tensors is None or b.tensors is None:
        return "other weights" if a.tensors or b.tensors else "other files"
    changed = [change for change in tensors.changes if change.what == "changed"]
    common = len(a.tensors) - sum(1 for change in tensors.changes if change.what == "removed")
    if not common:
        return "no tensor in common"
    if len(changed) < len(tensors.changes):
        return f"{common} tensors by the same names, {common - len(changed)} of them equal"
    kinds = {change.facts.get("differs_in") for change in changed}
    if kinds == {"dtype"}:
        return f"same layers in another dtype: {len(changed)} of {common} tensors"
    if len(changed) == common:
        return f"same layers, and every tensor differs ({common})"
    return f"same layers but {len(changed)} of {common} tensors"


def _is_adapter(side: Side) -> bool:
    if side.kind is not None and side.kind != "files":
        return side.kind == "adapter"
    return "adapter_config.json" in side.files
