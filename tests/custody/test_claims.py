"""Claims of files as claimed edges: resolved only when one thing is meant, never stronger than a claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Cli, cli
from genealog import custody
from genealog.answers import Answers
from genealog.core import records
from genealog.core.receipt import entry_of
from genealog.core.statement import read_statement
from genealog.core.states import State
from genealog.custody import Checker
from genealog.custody.contradictions import contradicted
from genealog.errors import VerificationError
from genealog.registry import Registry
from model_making import event, execution, ref
from tiny_model import build_base, copy

__all__ = ["cli"]
pytestmark = pytest.mark.real


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example", identity="Jane Doe")


def imported(adapter: Path, folder: Path, base: str) -> Path:
    """Return a copy of an adapter whose configuration names its base so."""
    copy(adapter, folder)
    config = folder / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"base_model_name_or_path": base}))
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def test_an_imported_adapter_has_a_claimed_base(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    ref(registry, tiny_base, "model", "tiny-base")
    added = custody.add(registry, imported(tiny_adapter, tmp_path / "lora", "org/tiny-base"), kind="adapter")
    (made,) = Checker(registry).made(added.id)
    assert made.kind == "import"
    assert {(e.role, e.direction, e.state) for e in made.events} == {
        ("base", "in", State.CLAIMED), ("adapter", "out", State.CLAIMED)
    }  # fmt: skip
    base = registry.base_of(added.id)
    assert base is not None
    assert base.artifact == registry.resolve("tiny-base").id
    found = {edge.role: edge for edge in Checker(registry).check("lora")}
    assert (found["base"].state, found["base"].method) == (State.CLAIMED, "shapes")
    before = registry.home.registry_log().size
    custody.add(registry, tmp_path / "lora", kind="adapter")
    assert registry.home.registry_log().size == before
    execution(registry, "finetune", [("base", "tiny-base")], "lora")
    lineage = Answers(registry.home).lineage(added.id)
    assert {link.state for link in lineage.links} == {State.CLAIMED, State.STATED}


def test_a_claim_that_shapes_refute_is_contradicted(registry: Registry, tiny_adapter: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = LlamaConfig(vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    ref(registry, tmp_path / "wide", "model")
    custody.add(registry, imported(tiny_adapter, tmp_path / "lora", "org/wide"), kind="adapter")
    checker = Checker(registry)
    edges = checker.check("lora")
    assert {edge.role: (edge.state, edge.code) for edge in edges}["base"] == (State.CONTRADICTED, "wrong-base")
    assert contradicted(registry.home.index) == {}
    checker.record(edges)
    assert contradicted(registry.ledger.index()) == {registry.resolve("lora").id: "wrong-base"}
    of_lora = Answers(registry.home).ancestry(registry.resolve("lora").id)
    bodies = [read_statement(entry_of(receipt)[0]).body for receipt in of_lora]
    assert "wrong-base" in [body.code for body in bodies if isinstance(body, records.Finding)]


@pytest.mark.parametrize("others", [0, 2])
def test_a_name_that_means_nothing_or_more_than_one_stays_a_text(
    registry: Registry, tiny_adapter: Path, tmp_path: Path, others: int
) -> None:
    for number in range(others):
        folder = build_base(tmp_path / f"b{number}", seed=number)
        registry.add(folder, kind="model", name=f"b{number}", source="https://hub.example/org/tiny")
    added = custody.add(registry, imported(tiny_adapter, tmp_path / "lora", "org/tiny"), kind="adapter")
    assert Checker(registry).made(added.id) == []
    body = registry.statement(registry.resolve("lora").statement).body
    assert isinstance(body, records.Artifact)
    assert body.claims == {"base-model": "org/tiny", "relation": "adapter"}


def test_what_is_false_when_it_is_said_is_refused_or_kept_as_contradicted(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, build_base(tmp_path / "other", seed=4), "model", "other")
    ref(registry, tiny_adapter, "adapter", "lora")
    weights = registry.resolve("other").weights
    lie = [event(registry, "in", "base", "base", weights=weights), event(registry, "out", "adapter", "lora")]
    with pytest.raises(VerificationError, match="weights-mismatch"):
        custody.accept(registry, "finetune", lie)
    kept = custody.accept(registry, "finetune", lie, allow_contradicted=True)
    assert [(e.state, e.code) for e in kept] == [(State.CONTRADICTED, "weights-mismatch"), (State.STATED, None)]
    same = {"equal-weights": "true"}
    lie = [event(registry, "in", "source", "base"), event(registry, "out", "model", "other", facts=same)]
    with pytest.raises(VerificationError, match="weights-changed"):
        custody.accept(registry, "convert", lie)
    true = [event(registry, "in", "base", "base"), event(registry, "out", "adapter", "lora")]
    assert custody.accept(registry, "finetune", true) == tuple(true)


def test_the_command_line_checks_records_and_shows(
    registry: Registry, tiny_base: Path, tmp_path: Path, cli: Cli
) -> None:
    ref(registry, tiny_base, "model", "base")
    half = copy(tiny_base, tmp_path / "half")
    data = bytearray((half / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (half / "model.safetensors").write_bytes(data)
    ref(registry, half, "model")
    execution(registry, "convert", [("source", "base")], "half")
    said = cli("check", "half", "--record", "--json")
    assert (said.status, said.json["state"], len(said.json["recorded"])) == (1, "contradicted", 2)
    assert "rerun-differs" in cli("ls").out
    assert "contradicted" in cli("lineage", "half").out
    away = cli("check", "half", "--path", str(tmp_path / "nothing"))
    assert (away.status, "bytes-not-at-hand" in away.out) == (3, True)
    assert cli("check", "half", "--at", "nothing").status == 2
    shown = cli("check", "half")
    assert (shown.status, "recomputed with torch" in shown.out) == (1, True)
