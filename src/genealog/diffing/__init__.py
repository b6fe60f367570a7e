"""`genealog diff`: what is another in B than in A, from files to tensors to the runs that made them.

Each section is `equal`, `differs` or `unknown`, and says why it is unknown. What is on record is compared as recorded;
bytes are read only where they lie here and hash to what is registered. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genealog.diffing.inside import is_config, is_template, is_tokenizer, with_inside
from genealog.diffing.report import Change, Section, Verdict, compared
from genealog.diffing.sides import Side, side
from genealog.diffing.story import story_sections
from genealog.diffing.tensors import relation, tensors_section
from genealog.diffing.texts import CONFIGS, GENERATION, json_section, template_section, tokenizer_section
from genealog.diffing.values import add_values
from genealog.errors import UsageError
from genealog.registry import Progress, Registry

__all__ = ["SECTIONS", "Change", "Comparison", "Section", "Side", "diff", "side"]

SECTIONS = (
    "files", "tensors", "config", "generation", "tokenizer", "chat template", "data", "inputs", "hyperparameters",
    "seeds", "code", "environment", "claims",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `diff` found. `relation` says in a few words how the two stand to each other."""

    a: Side
    b: Side
    relation: str
    sections: tuple[Section, ...]

    @property
    def state(self) -> Verdict:
        """`differs` if any section does, else `unknown` if any is, else `equal`."""
        states = {section.state for section in self.sections}
        return "differs" if "differs" in states else "unknown" if "unknown" in states else "equal"

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "state": self.state,
            "relation": self.relation,
            "a": _plain(self.a),
            "b": _plain(self.b),
            "sections": [section.plain() for section in self.sections],
        }


def diff(
    registry: Registry | None,
    a: str,
    b: str,
    *,
    only: Sequence[str] = (),
    values: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two registered versions, or paths, or one of each.

    `only` names sections (all, if empty). With `values` the numbers of changed tensors are compared too, where the
    bytes of both sides are at hand. Without a registry both must be paths.
    Raises: UsageError `unknown-section`; as `sides.side`.
    """
    if unknown_names := set(only) - set(SECTIONS):
        raise UsageError(
            "unknown-section", "no such section", got=", ".join(sorted(unknown_names)), expected=", ".join(SECTIONS)
        )
    old, new = side(registry, a, progress=progress), side(registry, b, progress=progress)
    if old.label == new.label:
        old.label, new.label = f"A ({old.label})", f"B ({new.label})"
    tensors = tensors_section(old, new)
    related = relation(old, new, tensors)
    if values and tensors.changes:
        tensors = replace(tensors, changes=add_values(old, new, tensors.changes))
    if old.id == new.id and old.statement == new.statement:
        found = {name: Section(name, "equal", why="one artifact") for name in SECTIONS} | {"tensors": tensors}
    else:
        wanted = set(only) or set(SECTIONS)
        found = {"tensors": tensors} | {name: make(old, new) for name, make in _BYTES.items() if name in wanted}
        if wanted - found.keys():
            found |= {section.name: section for section in story_sections(registry, old, new)}
    chosen = tuple(found[name] for name in SECTIONS if name in found and (not only or name in only))
    return Comparison(old, new, related, chosen)


def _files(a: Side, b: Side) -> Section:
    if a.id == b.id:
        return Section("files", "equal", why="one artifact ID")
    before, after = ({path: f"sha256:{e.sha256} {e.size} bytes" for path, e in s.files.items()} for s in (a, b))
    section = compared("files", before, after)
    return section if section.changes else replace(section, state="differs", why="bodies without files")


_BYTES: dict[str, Callable[[Side, Side], Section]] = {
    "files": _files,
    "config": lambda a, b: with_inside(json_section("config", CONFIGS, a, b), a, b, is_config),
    "generation": lambda a, b: json_section("generation", GENERATION, a, b),
    "tokenizer": lambda a, b: with_inside(tokenizer_section(a, b), a, b, is_tokenizer),
    "chat template": lambda a, b: with_inside(template_section(a, b), a, b, is_template),
}


def _plain(one: Side) -> dict[str, Any]:
    return {
        "label": one.label, "id": one.id, "kind": one.kind, "weights": one.weights, "registered": one.registered,
        "files": len(one.files), "tensors": None if one.tensors is None else len(one.tensors),
        "run": one.making.id if one.making else None, "revoked": one.revoked,
    }  # fmt: skip
