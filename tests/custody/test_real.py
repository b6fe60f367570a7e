"""The real SmolLM2-135M: out of its GGUF form and back into one, recorded by a run, proven by doing it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import genealog
from genealog.core.states import State
from genealog.custody import Checked, Checker
from genealog.custody.checking import strength
from genealog.demo.training import gguf_path
from genealog.registry import Registry
from model_making import flip, to_gguf

pytestmark = pytest.mark.real


def made(edges: tuple[Checked, ...]) -> set[tuple[State, str]]:
    """Return state and method of the edges that a conversion is about."""
    return {(edge.state, edge.method) for edge in edges if edge.role in ("source", "model")}


def test_the_gguf_form_is_linked_by_conversions_that_are_run_again(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    registry = Registry.init(tmp_path / ".genealog", origin="models.example")
    code = tmp_path / "code"
    code.mkdir()
    (code / "convert.py").write_text("# as below\n")
    original = tmp_path / "smol.gguf"
    shutil.copyfile(gguf_path(), original)
    registry.add(original, kind="model", name="smol.gguf")

    folder = tmp_path / "smol"
    with genealog.run("convert", inputs={"source": "smol.gguf"}, code=code, store=registry.home) as run:
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=original.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        run.output(folder, kind="model", name="smol")
    edges = Checker(registry).check("smol")
    assert made(edges) == {(State.PROVEN, "re-run")}
    assert strength(edges) is State.STATED  # which code and software it was rests on who signed

    with genealog.run("quantize", inputs={"source": "smol"}, code=code, store=registry.home) as run:
        to_gguf(folder, tmp_path / "smol-q8.gguf", "Q8_0")
        run.output(tmp_path / "smol-q8.gguf", kind="model", name="smol-q8")
    assert made(Checker(registry).check("smol-q8")) == {(State.PROVEN, "recomputed")}

    flip(tmp_path / "smol-q8.gguf", at=-100)
    with genealog.run("quantize", inputs={"source": "smol"}, code=code, store=registry.home) as run:
        run.output(tmp_path / "smol-q8.gguf", kind="model", name="smol-bad")
    (out,) = (edge for edge in Checker(registry).check("smol-bad") if edge.direction == "out")
    assert (out.state, out.code) == (State.CONTRADICTED, "rerun-differs")
