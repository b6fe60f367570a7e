"""From training to merge, recorded by a run alone: two LoRA adapters learn, are merged, and bytes bear it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import genealog
from genealog.core.states import State
from genealog.custody import Checked, Checker
from genealog.registry import Registry
from model_making import flip, merge_adapters, quiet

pytestmark = pytest.mark.real


def train(base: Path, folder: Path, seed: int) -> Path:
    """Let a LoRA adapter learn random bytes for three steps."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    with quiet():
        model: Any = get_peft_model(
            LlamaForCausalLM.from_pretrained(base, dtype="float32"),
            LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        tokens = torch.randint(0, 256, (2, 16))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def by_role(edges: tuple[Checked, ...]) -> dict[str, tuple[State, str, str | None]]:
    return {edge.role: (edge.state, edge.method, edge.code) for edge in edges}


def test_a_fine_tune_and_a_merge_of_two_adapters(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    registry = Registry.init(tmp_path / ".genealog", origin="models.example")
    registry.add(tiny_base, kind="model", name="base", source="a friend")
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text("# as above\n")
    kept: Any = {"code": code, "store": registry.home}
    for number, name in enumerate(("one", "two")):
        with genealog.run("finetune", inputs={"base": "base"}, seeds={"torch": number}, **kept) as run:
            run.output(train(tiny_base, tmp_path / name, number), kind="adapter", name=name)
        found = by_role(Checker(registry).check(name))
        assert found["base"] == found["adapter"] == (State.STATED, "shapes", None)

    wide = LlamaConfig(vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    registry.add(tmp_path / "wide", kind="model", name="wide")
    with genealog.run("finetune", inputs={"base": "wide"}, **kept) as run:  # a wrong claim: it was trained on `base`
        train(tiny_base, tmp_path / "false", 7)
        run.output(tmp_path / "false", kind="adapter", name="false")
    (made,) = Checker(registry).made(registry.resolve("false").id)
    bases = {e.artifact: (e.state, e.code) for e in made.events if e.role == "base"}
    assert bases == {
        registry.resolve("wide").id: (State.CONTRADICTED, "wrong-base"),
        registry.resolve("base").id: (State.STATED, None),  # nobody named it: it is what was loaded
    }
    found = Checker(registry).check("false")
    assert {edge.name: edge.state for edge in found if edge.role == "base"} == {
        "wide": State.CONTRADICTED, "base": State.STATED
    }  # fmt: skip
    base = registry.base_of(registry.resolve("false").id)
    assert base is not None
    assert base.artifact == registry.resolve("base").id

    adapters = [tmp_path / "one", tmp_path / "two"]
    with genealog.run("merge", inputs={"base": "base", "adapter": ["one", "two"]}, **kept) as run:
        run.output(merge_adapters(tiny_base, adapters, tmp_path / "merged"), kind="model", name="merged")
    found = by_role(Checker(registry).check("merged"))
    assert found["base"] == found["adapter"] == found["model"]
    assert found["model"][0] in (State.PROVEN, State.INFERRED)

    (weights,) = (tmp_path / "merged").glob("*.safetensors")
    flip(weights, at=-3)
    with genealog.run("merge", inputs={"base": "base", "adapter": ["one", "two"]}, **kept) as run:
        run.output(tmp_path / "merged", kind="model", name="tampered")
    assert by_role(Checker(registry).check("tampered"))["model"] == (
        State.CONTRADICTED, "recomputed", "merge-mismatch"
    )  # fmt: skip
