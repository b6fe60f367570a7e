"""What files claim of their making: cards, PEFT, mergekit, GGUF; and files that are no such thing claim nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.claims import Claim, _card, _mergekit, _peft, claim_texts, claims_of

CARD = """---
license: apache-2.0
base_model:
- HuggingFaceTB/SmolLM2-135M  # the small one
base_model_relation: finetune
datasets:
  - squad
tags: [a, b]
---
# A model
base_model: not/this
"""


@pytest.mark.parametrize(
    ("head", "names", "relation"),
    [
        ("base_model: org/a", ["org/a"], None),
        ('base_model: "org/a"\nbase_model_relation: quantized', ["org/a"], "quantized"),
        ("base_model: [org/a, 'org/b']", ["org/a", "org/b"], "merge"),
        ("base_model:\n- org/a\n- org/b\nbase_model_relation: merge", ["org/a", "org/b"], "merge"),
        ("base_model:\n  - org/a\nbase_model_relation: guessed", ["org/a"], None),
        ("model-index:\n- name: x\n  base_model: nested/no", [], None),
        ("base_model:", [], None),
    ],
)
def test_a_model_card_names_its_base(head: str, names: list[str], relation: str | None) -> None:
    claims = list(_card("README.md", f"---\n{head}\n---\ntext"))
    assert [claim.name for claim in claims] == names
    assert {claim.relation for claim in claims} <= {relation}
    assert {claim.role for claim in claims} <= {"parent" if relation == "merge" else "base"}


def test_a_folder_says_what_all_of_its_files_say(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    config = {"base_model_name_or_path": "org/base", "revision": "abc", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    recipe = (
        "models:\n  - model: org/one\n    parameters:\n      weight: 1\n  - model: org/two # b\nbase_model: org/one\n"
    )
    (tmp_path / "mergekit_config.yml").write_text(recipe + "merge_method: linear\n")
    claims = claims_of(tmp_path)
    assert Claim("base", "org/base", "adapter_config.json", "adapter", "abc") in claims
    assert Claim("data", "squad", "README.md") in claims
    assert [c.name for c in claims if c.role == "parent"] == ["org/one", "org/two"]
    assert claim_texts(claims) == {
        "base-model": "HuggingFaceTB/SmolLM2-135M, org/base@abc",
        "relation": "finetune, adapter, merge", "datasets": "squad", "merged-from": "org/one, org/two",
    }  # fmt: skip


def test_a_gguf_file_names_its_base(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_base_model_count(2)
    writer.add_base_model_repo_url(0, "https://huggingface.co/org/a")
    writer.add_base_model_name(1, "b")
    writer.add_base_model_organization(1, "org")
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [claim.name for claim in claims_of(tmp_path / "m.gguf")] == ["org/a", "org/b"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("README.md", b"# no front matter\nbase_model: x"),
        ("README.md", b"---\nbase_model: \xff\n---\n"),
        ("adapter_config.json", b"[1]"),
        ("adapter_config.json", b'{"base_model_name_or_path": null}'),
        ("adapter_config.json", b"[" * 100_000),
        ("mergekit_config.yml", b"models:\n  - model: org/one\n"),
        ("m.gguf", b"GGUF\x03\0\0\0"),
        ("m.gguf", b"no"),
        ("notes.md", b"---\nbase_model: x\n---\n"),
    ],
)
def test_what_is_malformed_claims_nothing(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert claims_of(tmp_path) == ()


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for claim in (*_card("README.md", f"---\n{text}\n---"), *_peft("a", text), *_mergekit("m", text)):
        assert claim.name.isprintable()
        assert 0 < len(claim.name) <= 200
