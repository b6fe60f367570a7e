"""Kinds of executions and what they need; LoRA adapters as names, shapes and factors."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.custody import KINDS, check_events, judge_events
from genealog.core.lora import find_target, misfits, read_lora
from genealog.core.records import Event
from genealog.core.states import State
from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError

A, B, C = ("glf1:" + letter * 64 for letter in "abc")
W, V = "glw1:" + "1" * 64, "glw1:" + "2" * 64


def event(artifact: str, direction: Any, role: str, weights: str | None = W, **facts: str) -> Event:
    return Event(
        artifact=artifact, direction=direction, role=role, state=State.STATED, weights=weights,
        facts={name.replace("_", "-"): text for name, text in facts.items()},
    )  # fmt: skip


def faults(kind: str, *events: Event, **known: Any) -> list[tuple[str, bool]]:
    return [(fault.code, fault.false) for fault in check_events(kind, events, **known)]


@pytest.mark.parametrize(
    ("kind", "ins", "out", "wanted"),
    [
        ("finetune", [(A, "base")], "adapter", []),
        ("finetune", [(A, "data")], "adapter", ["event-missing"]),
        ("finetune", [(A, "data")], "model", []),
        ("adapter-train", [], "adapter", ["event-missing"]),
        ("adapter-train", [(A, "base"), (B, "base")], "adapter", ["event-too-many"]),
        ("merge", [(A, "parent")], "model", ["event-missing"]),
        ("merge", [(A, "base"), (B, "adapter")], "model", []),
        ("merge", [(A, "base"), (B, "adapter")], "adapter", ["event-missing"]),
        ("online-update", [(A, "previous")], "model", []),
        ("online-update", [(A, "base")], "model", ["event-missing"]),
        ("online-update", [(A, "previous"), (B, "previous")], "model", ["event-too-many"]),
        ("convert", [(A, "source")], "model", []),
        ("convert", [(A, "base")], "model", []),
        ("quantize", [(A, "source"), (B, "base")], "model", ["event-too-many"]),
        ("distill", [(A, "teacher"), (B, "data")], "model", []),
        ("distill", [(A, "base")], "model", ["event-missing"]),
        ("evaluate", [(A, "model")], "report", []),
        ("pretrain", [], "model", []),
        ("import", [], "model", []),
        ("dance", [], "model", ["kind-unknown"]),
        ("convert", [(C, "source")], "model", ["made-of-itself"]),
    ],
)
def test_a_kind_has_its_roles(kind: str, ins: list[tuple[str, str]], out: str, wanted: list[str]) -> None:
    events = [event(artifact, "in", role) for artifact, role in ins]
    assert [code for code, _ in faults(kind, *events, event(C, "out", out))] == wanted


def test_the_base_of_an_adapter_is_pinned() -> None:
    events = event(A, "in", "base", None), event(C, "out", "adapter")
    assert faults("finetune", *events) == [("event-not-pinned", False)]


def test_weights_that_are_not_those_registered_are_false_and_kept() -> None:
    events = event(A, "in", "base"), event(C, "out", "adapter")
    assert faults("finetune", *events, registered={A: W, C: W}) == []
    assert faults("finetune", *events, registered={}) == []
    assert faults("finetune", *events, registered={A: V}) == [("weights-mismatch", True)]
    assert faults("finetune", *events, registered={A: None}) == [("weights-mismatch", True)]
    kept = judge_events("finetune", events, {A: V})
    assert [(e.state, e.code) for e in kept] == [(State.CONTRADICTED, "weights-mismatch"), (State.STATED, None)]


def test_equal_weights_are_equal() -> None:
    source = event(A, "in", "source")
    assert faults("convert", source, event(C, "out", "model", W, equal_weights="true")) == []
    assert faults("convert", source, event(C, "out", "model", V, equal_weights="true")) == [("weights-changed", True)]
    assert faults("convert", source, event(C, "out", "model", V)) == []


def test_every_kind_of_the_design_has_a_rule() -> None:
    design = "pretrain finetune adapter-train online-update merge quantize convert distill evaluate index-build import"
    assert set(design.split()) <= set(KINDS)


def test_the_reference_lists_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/statements.md").read_text()
    table = page.partition("| kind | what goes in |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall("`(.+?)`", cell)} == set(KINDS)


def tensor(name: str, *shape: int) -> TensorEntry:
    return TensorEntry(dtype="F32", name=name, sha256="0" * 64, shape=shape)


def pair(module: str, rows: int, columns: int, rank: int = 4) -> list[TensorEntry]:
    prefix = f"base_model.model.{module}"
    return [tensor(f"{prefix}.lora_A.weight", rank, columns), tensor(f"{prefix}.lora_B.weight", rows, rank)]


CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 16}


def test_an_adapter_fits_the_tensors_that_it_touches() -> None:
    lora = read_lora(CONFIG, pair("model.layers.0.q_proj", 8, 6))
    (part,) = lora.parts.values()
    assert (part.delta, part.scaling, part.rank) == ((8, 6), 4.0, 4)
    base = {"model.layers.0.q_proj.weight": tensor("model.layers.0.q_proj.weight", 8, 6)}
    assert misfits(lora, base) == []
    assert misfits(lora, {name.removeprefix("model."): entry for name, entry in base.items()}) == []
    assert "8×6 on a tensor of 8×7" in misfits(lora, {name: tensor(name, 8, 7) for name in base})[0]
    assert "no such tensor" in misfits(lora, {})[0]
    assert find_target("x", {}) is None


def test_factors_are_those_of_peft() -> None:
    tensors = [*pair("a.q_proj", 8, 6), *pair("b.q_proj", 8, 6, rank=2)]
    config = CONFIG | {"rank_pattern": {"b.q_proj": 2}, "alpha_pattern": {"^a.*": 8}, "use_rslora": True}
    lora = read_lora(config, tensors)
    assert lora.parts["a.q_proj"].scaling == 8 / math.sqrt(4)
    assert lora.parts["b.q_proj"].scaling == 16 / math.sqrt(2)
    turned = read_lora(CONFIG | {"fan_in_fan_out": True}, pair("c", 8, 6))
    assert turned.parts["c"].delta == (6, 8)


def test_what_is_unknown_is_named() -> None:
    tensors = [*pair("a", 8, 6), tensor("base_model.model.a.lora_magnitude_vector", 8)]
    assert read_lora(CONFIG | {"use_dora": True}, tensors).unknown == ("magnitude_vector", "use_dora")
    whole = read_lora(CONFIG, [*pair("a", 8, 6), tensor("base_model.model.lm_head.weight", 5, 6)])
    assert misfits(whole, {"a.weight": tensor("a.weight", 8, 6)}) == ["lm_head.weight: the base has no such tensor"]


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"peft_type": "IA3"}, pair("a", 8, 6)),
        (CONFIG, pair("a", 8, 6)[:1]),
        (CONFIG, pair("a", 8, 6, rank=3)),
        (CONFIG | {"r": True}, pair("a", 8, 6, rank=1)),
        (CONFIG | {"lora_alpha": "16"}, pair("a", 8, 6)),
        (CONFIG | {"rank_pattern": {"(": 2}}, pair("a", 8, 6)),
        (CONFIG, [tensor("a.lora_A.weight", 4), tensor("a.lora_B.weight", 8, 4)]),
    ],
)
def test_what_is_no_lora_is_refused(config: dict[str, Any], tensors: list[TensorEntry]) -> None:
    with pytest.raises(MalformedError, match="not-lora"):
        read_lora(config, tensors)


NAMES = st.text("ab.", min_size=1, max_size=6)
VALUES = st.one_of(st.none(), st.integers(-2, 20), st.text(max_size=3), st.dictionaries(NAMES, st.integers(-1, 8)))


FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES), st.integers(0, 5), st.integers(0, 5))
def test_any_configuration_is_read_or_refused(config: dict[str, Any], rows: int, rank: int) -> None:
    with contextlib.suppress(MalformedError):
        lora = read_lora({"peft_type": "LORA"} | config, pair("a", rows, 3, rank=rank))
        assert lora.parts["a"].rank == rank
