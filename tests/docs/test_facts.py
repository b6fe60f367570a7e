"""Lists in the reference pages are the lists in the code: fields, predicates, headers, parameters, variables."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from documents import ROOT
from genealog.capture.environment import DETERMINISM
from genealog.core import call, frames, records
from genealog.core import call_groups as groups
from genealog.engine.request import IGNORED
from genealog.gateway import headers
from genealog.store import log_state, spool_reader

REFERENCE = ROOT / "docs" / "reference"
MARKED = re.compile(r"`[^`]*`|^\{.*?\}$", re.MULTILINE | re.DOTALL)  # inline code, and bodies in fences
PREDICATE = re.compile(r"^\| `(urn:genealog:[a-z-]+:v1)` \|", re.MULTILINE)


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def names(kind: Any) -> set[str]:
    """Return the names of the fields of a Struct as they are on the wire."""
    return {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("statements", kind) for kind in records.PREDICATES.values() if kind is not records.Context),
        *(("statements", kind) for kind in (records.EngineSignature, records.LoadChallenge, records.EngineReport)),
        *(("call-entry", kind) for kind in (call.CallLeaf, call.Seals, groups.WhoGroup, groups.RequestGroup)),
        *(("call-entry", kind) for kind in (groups.ResponseGroup, groups.UsageGroup, groups.EngineGroup)),
        *(("on-disk-format", kind) for kind in (frames.Intent, frames.Outcome, frames.EngineEvidence)),
        *(("on-disk-format", kind) for kind in (spool_reader.Gap, log_state.State, log_state.EmitterMark)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_field_is_described(name: str, kind: Any) -> None:
    described = " ".join(MARKED.findall(page(name)))
    assert names(kind) - set(re.findall(r"[a-z0-9_]+", described)) == set()


def test_every_predicate_has_a_row() -> None:
    assert set(re.findall(r"^\| `(urn:genealog:[a-z-]+:v1)` \|", page("statements"), re.MULTILINE)) == set(
        records.PREDICATES
    )


def test_headers_on_record_are_listed() -> None:
    text = page("http")
    for pattern, names in (
        (r"On record, cut to 256 characters:(.*?); of the\nanswer", headers.RECORDED),
        (r"; of the\nanswer (.*?); and what", headers.ANSWERED),
    ):
        (listed,) = re.findall(pattern, text, re.DOTALL)
        assert {word.lower().encode() for word in re.findall(r"`([^`]+)`", listed)} == set(names)


def test_ignored_parameters_are_listed() -> None:
    (listed,) = re.findall(r"Ignored, because they change no answer: (.*?)\. Anything else", page("http"), re.DOTALL)
    assert set(re.findall(r"`([^`]+)`", listed)) == IGNORED - {"model"}


def test_variables_of_the_environment_are_listed() -> None:
    listed = page("configuration")
    for name in ("GENEALOG_STORE", *DETERMINISM):
        assert f"`{name}`" in listed
    read = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text())
    }
    assert read - set(re.findall(r"[A-Z][A-Z_]+", listed)) == {"TERM"}  # what the demo hands on


def test_headers_of_ours_are_described() -> None:
    described = set(re.findall(r"`(Genealog(?:-[A-Z][a-z]+)+)`", page("http")))
    described |= {f"Genealog{part}" for part in re.findall(r"`(-[A-Z][a-z]+)`", page("http"))}
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = "assurance|break-glass|call|data-class|deployment|model|policy-flags|purpose|trace|via"
    used = {name.title() for name in re.findall(rf"\bgenealog-(?:{names})\b", sources)}
    assert used | {name.decode().title() for name in headers._WHO} == described
