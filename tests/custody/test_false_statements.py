"""Statements by somebody who signs what he likes: a weights ID, a list of tensors or files that is not of the bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genealog.capture.files import scan_tree
from genealog.core import records
from genealog.core.ids import record_id, sha256_hex
from genealog.core.manifest import encode_manifest, files_root
from genealog.core.states import State
from genealog.core.weights import diff_tensors, encode_tensors, weights_root
from genealog.custody import Checker
from genealog.custody.merging import _resolve
from genealog.errors import VerificationError
from genealog.registry import Registry

NOW = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.init(tmp_path / ".genealog", origin="models.example", identity="Jane Doe")
    save(tmp_path / "good", 1.0)
    registry.add(tmp_path / "good", kind="model", name="good")
    return registry


def save(folder: Path, *values: float) -> None:
    folder.mkdir()
    save_file(
        {f"layers.{n}": np.full(4, value, dtype="f4") for n, value in enumerate(values)}, folder / "m.safetensors"
    )


def state(registry: Registry, folder: Path, weights: records.Weights | None, *, artifact: str | None = None) -> str:
    """Register what lies in `folder` as somebody with code of his own would."""
    tree = scan_tree(folder)
    identifier = artifact or str(files_root(tree.entries))
    manifest = registry.home.objects.put(encode_manifest(tree.entries))
    body = records.Artifact(
        kind="model", registered_at=NOW, files=1, size=sum(entry.size for entry in tree.entries),
        manifest=records.Blob(sha256=manifest, size=len(encode_manifest(tree.entries))), weights=weights,
        format="safetensors",
    )  # fmt: skip
    name = folder.name
    move = registry.move("name", name, identifier)
    registry.append_all([(body, name, identifier), (move, name, None)], signer=registry.signer())
    registry.home.remember(identifier, folder)
    return identifier


def weights_of(registry: Registry, name: str) -> records.Weights:
    body = registry.statement(registry.resolve(name).statement).body
    assert isinstance(body, records.Artifact)
    assert body.weights is not None
    return body.weights


def make(registry: Registry, kind: str, source: tuple[str, str], out: str, facts: Mapping[str, str]) -> None:
    def event(name: str, direction: records.Direction, role: str, facts: Mapping[str, str]) -> records.Event:
        version = registry.resolve(name)
        return records.Event(
            artifact=version.id, direction=direction, role=role, state=State.STATED, weights=version.weights,
            facts=dict(facts),
        )  # fmt: skip

    start = records.Execution(kind=kind, name=kind, started_at=NOW, nonce=os.urandom(16).hex())
    events = (event(source[1], "in", source[0], {}), event(out, "out", "model", facts))
    end = records.ExecutionEnd(execution=record_id(start), ended_at=NOW, exit="succeeded", events=events)
    registry.append_all([(start, kind, None), (end, kind, None)], signer=registry.signer())


def test_a_file_without_tensors_has_no_weights_whatever_was_stated(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "blob").mkdir()
    (tmp_path / "blob" / "weights.enc").write_bytes(b"anything")
    state(registry, tmp_path / "blob", weights_of(registry, "good"))
    make(registry, "convert", ("source", "good"), "blob", {})
    found = Checker(registry).check("blob")
    assert {edge.state for edge in found} == {State.UNCHECKED}


def test_the_tensors_of_an_update_are_those_of_its_bytes_not_of_a_list(registry: Registry, tmp_path: Path) -> None:
    save(tmp_path / "before", 1.0, 2.0)
    save(tmp_path / "after", 1.5, 2.5)  # both changed
    save(tmp_path / "told", 1.0, 2.5)  # the list says that one did
    for name in ("before", "told"):
        registry.add(tmp_path / name, kind="model", name=name)
    tree = scan_tree(tmp_path / "after")
    told = weights_of(registry, "told")
    assert tree.weights
    weights = records.Weights(id=weights_root(tree.weights), tensors=2, list=told.list, tied={})
    state(registry, tmp_path / "after", weights)
    before, after = (scan_tree(tmp_path / name).weights or () for name in ("before", "told"))
    (changed,) = diff_tensors(before, after).changed
    delta = sha256_hex(encode_tensors([entry for entry in after if entry.name == changed]))
    make(registry, "online-update", ("previous", "before"), "after", {"changed": "1", "delta": delta})
    found = Checker(registry).check("after")
    assert {(edge.state, edge.code) for edge in found} == {(State.CONTRADICTED, "update-mismatch")}


def test_a_list_of_files_is_held_to_the_id(registry: Registry, tmp_path: Path) -> None:
    save(tmp_path / "other", 666.0)
    state(registry, tmp_path / "other", None, artifact="glf1:" + "ab" * 32)
    with pytest.raises(VerificationError) as caught:
        registry.check(tmp_path / "other", "other")
    assert caught.value.code == "manifest-mismatch"


def test_a_decoy_beside_other_weights_proves_no_conversion(registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "good", tmp_path / "decoy" / "inner")
    np.savez(tmp_path / "decoy" / "weights.npz", x=np.full(4, 666.0))
    registry.add(tmp_path / "decoy", kind="model", name="decoy")
    assert registry.resolve("decoy").weights == registry.resolve("good").weights
    make(registry, "convert", ("source", "good"), "decoy", {})
    found = Checker(registry).check("decoy")
    assert {(edge.state, edge.code) for edge in found} == {(State.STATED, "other-weights")}


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_source": "/etc/elsewhere"},
        {"tokenizer_source": "model:someone/else"},
        {"tokenizer": {"source": "someone/else"}},
        {"tokenizer": {"source": "union", "tokens": {"x": {"source": "someone/else"}}}},
    ],
)
def test_no_word_of_a_recipe_leads_to_another_folder(said: dict[str, Any]) -> None:
    recipe, unknown = {"merge_method": "linear", "models": [{"model": "a"}]}, list[str]()
    _resolve(recipe | said, lambda word: "/parents/a" if word == "a" else None, unknown)
    assert len(unknown) == 1
    unknown.clear()
    _resolve(recipe | {"tokenizer_source": "union"}, lambda word: "/parents/a" if word == "a" else None, unknown)
    assert unknown == []
