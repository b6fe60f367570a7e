"""Edges against bytes, with real models of 60 kB: adapters, merges, conversions; what was tampered with says so."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from genealog.core.states import State
from genealog.custody import Checked, Checker, merging
from genealog.custody.checking import strength
from genealog.errors import MissingError
from genealog.registry import Registry
from model_making import (
    environment_of,
    event,
    execution,
    flip,
    merge_adapters,
    mergekit,
    mix_adapters,
    ref,
    to_gguf,
)
from tiny_model import build_adapter, build_base, copy

pytestmark = pytest.mark.real


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example", identity="Jane Doe")


@pytest.fixture(scope="module")
def second_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(tiny_base, tmp_path_factory.mktemp("tiny") / "adapter-2", seed=2)


@pytest.fixture(scope="module")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("tiny") / "other", seed=9)


def edges(registry: Registry, name: str, **options: Any) -> dict[str, Checked]:
    """Check; returns edges by role, the output as `out`."""
    found = Checker(registry, **options).check(name)
    return {"out" if edge.direction == "out" else edge.role: edge for edge in found}


def test_an_adapter_is_stated_on_its_base_and_contradicted_on_one_it_does_not_fit(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, tiny_adapter, "adapter", "lora")
    execution(registry, "finetune", [("base", "base")], "lora")
    found = edges(registry, "lora")
    assert (found["base"].state, found["base"].method) == (State.STATED, "shapes")
    assert (found["out"].state, found["out"].code) == (State.STATED, None)

    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_base)
    config.hidden_size, config.intermediate_size = 64, 32
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    ref(registry, tmp_path / "wide", "model")
    copy(tiny_adapter, tmp_path / "lora-2")
    (tmp_path / "lora-2" / "note.txt").write_text("another artifact of the same tensors")
    ref(registry, tmp_path / "lora-2", "adapter")
    execution(registry, "finetune", [("base", "wide")], "lora-2")
    found = edges(registry, "lora-2")
    assert (found["base"].state, found["base"].code) == (State.CONTRADICTED, "wrong-base")


def test_a_base_that_was_recorded_with_other_weights_contradicts(
    registry: Registry, tiny_base: Path, tiny_adapter: Path
) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, tiny_adapter, "adapter", "lora")
    execution(registry, "finetune", [event(registry, "in", "base", "base", weights="glw1:" + "0" * 64)], "lora")
    found = edges(registry, "lora")
    assert (found["base"].state, found["base"].code) == (State.CONTRADICTED, "weights-mismatch")


def test_bytes_that_changed_where_they_lie_contradict_the_place_and_make_no_finding(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    base = copy(tiny_base, tmp_path / "base")
    ref(registry, base, "model")
    ref(registry, tiny_adapter, "adapter", "lora")
    execution(registry, "finetune", [("base", "base")], "lora")
    flip(base / "model.safetensors")
    checker = Checker(registry)
    found = checker.check("lora")
    (edge,) = (edge for edge in found if edge.role == "base")
    assert (edge.state, edge.code) == (State.CONTRADICTED, "bytes-differ")
    assert checker.record(found) == ()
    restored = edges(registry, "lora", at={"base": tiny_base})
    assert restored["base"].state is State.STATED


def test_what_is_not_at_hand_cannot_be_told(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    base = copy(tiny_base, tmp_path / "base")
    ref(registry, base, "model")
    ref(registry, tiny_adapter, "adapter", "lora")
    execution(registry, "finetune", [("base", "base")], "lora")
    base.rename(tmp_path / "elsewhere")
    found = edges(registry, "lora")
    assert (found["base"].state, found["base"].code) == (State.UNCHECKED, "bytes-not-at-hand")
    with pytest.raises(MissingError, match="no-lineage"):
        Checker(registry).check("base")


def test_an_adapter_merged_into_its_base_is_proven_and_a_tampered_merge_is_not(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, second_adapter: Path, tmp_path: Path
) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, tiny_adapter, "adapter", "one")
    ref(registry, second_adapter, "adapter", "two")
    ref(registry, merge_adapters(tiny_base, [tiny_adapter, second_adapter], tmp_path / "merged"), "model")
    execution(registry, "merge", [("base", "base"), ("adapter", "one"), ("adapter", "two")], "merged")
    found = Checker(registry).check("merged")
    assert strength(found) in (State.PROVEN, State.INFERRED), found
    assert {edge.method for edge in found} == {"recomputed"}

    bad = copy(tmp_path / "merged", tmp_path / "bad")
    flip(bad / "model.safetensors", at=-2)
    ref(registry, bad, "model")
    execution(registry, "merge", [("base", "base"), ("adapter", "one"), ("adapter", "two")], "bad")
    out = edges(registry, "bad")["out"]
    assert (out.state, out.code) == (State.CONTRADICTED, "merge-mismatch")
    assert "norm" in str(out.detail) or "model." in str(out.detail)


@pytest.mark.parametrize("how", ["linear", "cat", "ties"])
def test_a_mix_of_adapters_is_proven_with_its_weights_and_false_with_others(
    registry: Registry, tiny_base: Path, tiny_adapter: Path, second_adapter: Path, tmp_path: Path, how: str
) -> None:
    ref(registry, tiny_adapter, "adapter", "one")
    ref(registry, second_adapter, "adapter", "two")
    made = mix_adapters(tiny_base, [tiny_adapter, second_adapter], [0.7, 0.3], how, tmp_path / "mixed")
    ref(registry, made, "adapter")
    ins = [("adapter", "one"), ("adapter", "two")]
    parameters = {"combination_type": how, "weights": "[0.7, 0.3]", "density": "0.5"}
    execution(registry, "merge", ins, "mixed", parameters)
    assert strength(Checker(registry).check("mixed")) is State.PROVEN

    again = copy(made, tmp_path / "claimed")
    (again / "note.txt").write_text("the same matrices, another story")
    ref(registry, again, "adapter")
    execution(registry, "merge", ins, "claimed", parameters | {"weights": "0.5, 0.5"})
    out = edges(registry, "claimed")["out"]
    assert (out.state, out.code) == (State.CONTRADICTED, "merge-mismatch")


def test_mergekit_is_run_again_and_its_linear_merge_recomputed(
    registry: Registry, tiny_base: Path, other_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = copy(tiny_base, tmp_path / "one")
    ref(registry, one, "model", "one")
    ref(registry, other_base, "model", "two")
    both = [{"model": str(one)}, {"model": str(other_base)}]
    weighed = [entry | {"parameters": {"weight": weight}} for entry, weight in zip(both, (0.5, 0.3), strict=True)]
    recipes: dict[str, dict[str, Any]] = {
        "slerp": {"base_model": str(one), "models": both, "parameters": {"t": 0.4}},
        "linear": {"models": weighed},
    }
    for method, folder in mergekit(recipes, tmp_path).items():
        ref(registry, folder, "model", method)
    ins = [("parent", "one"), ("parent", "two")]
    environment = environment_of(registry)
    execution(registry, "merge", ins, "slerp", environment=environment)
    found = Checker(registry).check("slerp")
    assert strength(found) is State.PROVEN, found
    assert {edge.method for edge in found} == {"re-run"}
    assert "mergekit" in found[0].tools

    for put_back in (False, True):  # a parent was another while mergekit ran
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "run", _swapping(one, other_base, tmp_path / "slerp", put_back=put_back))
            (out,) = [edge for edge in Checker(registry).check("slerp") if edge.direction == "out"]
        assert (out.state, out.code) == (State.UNCHECKED, "file-changed")
        shutil.rmtree(one)
        copy(tiny_base, one)

    (weights,) = (tmp_path / "slerp").glob("*.safetensors")
    flip(weights)
    ref(registry, tmp_path / "slerp", "model", "bad")
    unpinned = execution(registry, "merge", ins, "bad")
    pinned = execution(registry, "merge", ins, "bad", environment=environment)
    outs = {edge.execution: edge for edge in Checker(registry).check("bad") if edge.direction == "out"}
    assert (outs[pinned].state, outs[pinned].code) == (State.CONTRADICTED, "merge-mismatch")
    assert (outs[unpinned].state, outs[unpinned].code) == (
        State.UNCHECKED,
        "tool-differs",
    )  # whose version, nobody said

    monkeypatch.setattr(merging, "find_spec", lambda _name: None)
    execution(registry, "merge", ins, "linear")
    found = Checker(registry).check("linear")
    assert {edge.method for edge in found} == {"recomputed"}
    assert strength(found) in (State.PROVEN, State.INFERRED)


def _swapping(folder: Path, other: Path, made: Path, *, put_back: bool) -> Any:
    """Return what stands in for a tool that makes `made` while a folder holds what another holds."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[bytes]:
        aside = folder.rename(folder.with_name("aside"))
        copy(other, folder)
        copy(made, Path(command[4]))
        if put_back:
            shutil.rmtree(folder)
            aside.rename(folder)
        else:
            shutil.rmtree(aside)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    return run


def test_a_conversion_is_proven_by_equal_weights_or_by_doing_it_again(
    registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    ref(registry, tiny_base, "model", "base")
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    ref(registry, tmp_path / "sharded", "model")
    execution(registry, "convert", [("source", "base")], "sharded")
    found = Checker(registry).check("sharded")
    assert {(edge.state, edge.method) for edge in found} == {(State.PROVEN, "equal-weights")}

    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    ref(registry, tmp_path / "half", "model")
    execution(registry, "convert", [("source", "base")], "half")
    assert {(e.state, e.method) for e in Checker(registry).check("half")} == {(State.PROVEN, "recomputed")}

    flip(tmp_path / "half" / "model.safetensors")
    ref(registry, tmp_path / "half", "model", "bad")
    execution(registry, "convert", [("source", "base")], "bad")
    out = edges(registry, "bad")["out"]
    assert (out.state, out.code) == (State.CONTRADICTED, "rerun-differs")


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_a_gguf_file_is_proven_by_making_it_again(
    registry: Registry, tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, to_gguf(tiny_base, tmp_path / "tiny.gguf", kind), "model")
    execution(registry, "quantize", [("source", "base")], "tiny.gguf")
    found = Checker(registry).check("tiny.gguf")
    assert {(edge.state, edge.method) for edge in found} == {(State.PROVEN, "recomputed")}, found
    assert "gguf" in found[0].tools

    flip(tmp_path / "tiny.gguf", at=-40)
    ref(registry, tmp_path / "tiny.gguf", "model", "bad")
    execution(registry, "quantize", [("source", "base")], "bad")
    out = edges(registry, "bad")["out"]
    assert (out.state, out.code) == (State.CONTRADICTED, "rerun-differs")


def test_rotary_factors_in_a_gguf_file_are_computed_too(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    ref(registry, tiny_base, "model", "base")
    ref(registry, to_gguf(tiny_base, tmp_path / "odd.gguf", "F16", extra={"rope_freqs.weight": [666.0] * 4}), "model")
    execution(registry, "quantize", [("source", "base")], "odd.gguf")
    out = edges(registry, "odd.gguf")["out"]
    assert (out.state, out.code) == (State.CONTRADICTED, "rerun-differs")

    llama = copy(tiny_base, tmp_path / "llama-3")
    config = json.loads((llama / "config.json").read_text())
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "original_max_position_embeddings": 8192}
    config |= {"rope_parameters": rope}
    (llama / "config.json").write_text(json.dumps(config))
    ref(registry, llama, "model")
    # factors of this configuration, computed apart: the long waves by the factor, the short ones by one
    factors = {"rope_freqs.weight": [1.0, 1.0, 3.2922627925872803, 32.0]}
    ref(registry, to_gguf(llama, tmp_path / "fine.gguf", "F16", extra=factors), "model")
    execution(registry, "quantize", [("source", "llama-3")], "fine.gguf")
    assert edges(registry, "fine.gguf")["out"].state is State.PROVEN


@pytest.mark.parametrize("change", [{"num_attention_heads": "many"}, {"architectures": {"a": 1}}, {"model_type": None}])
def test_a_configuration_that_makes_no_sense_leaves_it_open(
    registry: Registry, tiny_base: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    made = to_gguf(tiny_base, tmp_path / "tiny.gguf", "F16")
    base = copy(tiny_base, tmp_path / "base")
    (base / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()) | change))
    ref(registry, base, "model", "base")
    ref(registry, made, "model")
    execution(registry, "quantize", [("source", "base")], "tiny.gguf")
    assert edges(registry, "tiny.gguf")["out"].state is State.UNCHECKED


def test_a_finding_is_recorded_and_a_contradiction_stays(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    from genealog.core import records

    ref(registry, tiny_base, "model", "base")
    half = copy(tiny_base, tmp_path / "half")
    flip(half / "model.safetensors")
    ref(registry, half, "model")
    execution(registry, "convert", [("source", "base")], "half")
    checker = Checker(registry)
    positions = checker.record(checker.check("half"))
    bodies = [registry.statement(position.leaf).body for position in positions]
    assert [(b.state, b.code, b.method) for b in bodies if isinstance(b, records.Finding)] == [
        (State.CONTRADICTED, "rerun-differs", "recomputed")
    ] * 2
