"""What a weights file says of itself: a GGUF holds the configuration, tokenizer and template; a `.keras` its layers.

Such a file is read only where its bytes are those that are compared, hashed now or when the side was scanned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from genealog.capture.formats.keras import CONFIG, MAX_JSON
from genealog.capture.formats.positioned import read_at
from genealog.capture.formats.zips import read_members, unpack
from genealog.core.gguf import parse_gguf
from genealog.diffing.report import Section, changes_of, flat, unknown
from genealog.diffing.sides import Side
from genealog.errors import GenealogError

KINDS = (".gguf", ".keras")
TEMPLATE = "tokenizer.chat_template"


def is_config(key: str) -> bool:
    """Tell what belongs to the configuration."""
    return not key.startswith("tokenizer.")


def is_tokenizer(key: str) -> bool:
    """Tell what belongs to the tokenizer."""
    return key.startswith("tokenizer.") and not is_template(key)


def is_template(key: str) -> bool:
    """Tell what is a chat template, given as its digest."""
    return key.startswith(TEMPLATE)


def with_inside(section: Section, a: Side, b: Side, belongs: Callable[[str], bool]) -> Section:
    """Return `section` with what `belongs` to it inside weights files."""
    holding = [[path for path in side.files if path.lower().endswith(KINDS)] for side in (a, b)]
    if not holding[0] and not holding[1]:
        return section
    if not holding[0] or not holding[1]:
        if section.why is not None and section.why.startswith("neither"):
            return unknown(section.name, "one keeps it inside its weights file, the other does not say")
        return unknown(section.name, "one keeps it inside its weights file, the other beside: not compared")
    found: list[dict[str, str]] = []
    for side, paths, other in ((a, holding[0], b), (b, holding[1], a)):
        facts: dict[str, str] = {}
        theirs = {entry.sha256 for entry in other.files.values()}
        for path in paths:
            if side.files[path].sha256 in theirs:
                continue
            read = _read(side, path)
            if read is None:
                return unknown(section.name, f"it lies inside {path} of {side.label}, whose bytes are not at hand")
            facts.update({key: value for key, value in read.items() if belongs(key)})
        found.append(facts)
    changes = (*section.changes, *changes_of(*found))
    state = section.state if not changes else "differs"
    return replace(section, state=state, changes=changes, why=None if section.state == "equal" else section.why)


def _read(side: Side, path: str) -> dict[str, str] | None:
    """Return what a file says of itself, by key; None where its bytes are not here."""
    place = side.place
    if place is None:
        return None
    real = place / path if place.is_dir() else place
    try:
        if not side.scanned and not _is(real, side.files[path].sha256):
            return None
        return _gguf(real) if path.lower().endswith(".gguf") else _keras(real)
    except (OSError, GenealogError):
        return None


def _is(real: Path, sha256: str) -> bool:
    with real.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _gguf(real: Path) -> dict[str, str]:
    with real.open("rb") as file:
        return parse_gguf(read_at(file), real.stat().st_size).metadata


def _keras(real: Path) -> dict[str, str]:
    with real.open("rb") as file:
        member = read_members(file, real.stat().st_size, format_="keras").get(CONFIG)
        if member is None or member.size > MAX_JSON:
            return {}
        try:
            return flat(json.loads(b"".join(unpack(file, member, format_="keras"))))
        except (ValueError, RecursionError):
            return {}
