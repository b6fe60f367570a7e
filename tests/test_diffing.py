"""diff: what differs is named, what is equal is not, and what nobody can know is called unknown."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import genealog
from genealog.capture.formats.gguf import layout_of
from genealog.demo.training import gguf_path
from genealog.diffing import SECTIONS, Comparison, Section, diff, values
from genealog.errors import MissingError, UsageError
from genealog.registry import Registry
from tiny_model import build_adapter, build_base, copy


def write(path: Path, tensors: dict[str, np.ndarray | tuple[str, np.ndarray]]) -> Path:
    """Write a safetensors file; a pair gives the dtype that its header says."""
    spelled = {"f4": "F32", "f2": "F16", "i8": "I64", "f8": "F64", "u1": "U8"}
    header, data = {}, b""
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else (spelled[value.dtype.str[1:]], value)
        raw = array.tobytes()
        header[name] = {
            "dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path.parent


def section(found: Comparison, name: str) -> Section:
    return next(section for section in found.sections if section.name == name)


def states(found: Comparison) -> dict[str, str]:
    return {section.name: section.state for section in found.sections}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog")


def flip(path: Path, offset: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_names_its_tensor(tiny_base: Path, tmp_path: Path) -> None:
    other = copy(tiny_base, tmp_path / "other")
    flip(other / "model.safetensors")
    found = diff(None, str(tiny_base), str(other), values=True)
    (change,) = section(found, "tensors").changes
    assert change.name == "model.norm.weight"
    assert change.facts["differs_in"] == "bytes"
    assert change.facts["equal_elements"] == "31"
    assert float(change.facts["max_difference"]) > 0
    assert found.relation == "same layers but 1 of 21 tensors"
    assert [change.name for change in section(found, "files").changes] == ["model.safetensors"]
    assert found.state == "differs"


@pytest.mark.real
def test_one_flipped_bit_in_the_real_model_names_its_tensor(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    shutil.copy(gguf_path(), other)
    with other.open("r+b") as file:
        file.seek(60_000_000)
        byte = file.read(1)
        file.seek(60_000_000)
        file.write(bytes((byte[0] ^ 0x10,)))
    found = diff(None, str(gguf_path()), str(other), only=["tensors"], values=True)
    (change,) = section(found, "tensors").changes
    with other.open("rb") as file:
        runs = layout_of(file, other.stat().st_size, path="other.gguf").runs
    assert change.name == next(run.name for run in runs if run.start <= 60_000_000 < run.stop)
    assert found.relation == "same layers but 1 of 272 tensors"
    assert change.facts["values"].endswith("is not compared as numbers")  # blocks of a quantised type


def test_same_bytes_and_same_weights_in_other_shards(tiny_base: Path, tmp_path: Path) -> None:
    same = diff(None, str(tiny_base), str(copy(tiny_base, tmp_path / "copy")))
    assert same.relation == "same bytes"
    assert same.state == "equal"
    shards = build_base(tmp_path / "shards", shards=True)
    found = diff(None, str(tiny_base), str(shards))
    assert found.relation == "same weights, other packaging"
    assert section(found, "tensors").state == "equal"
    assert section(found, "files").state == "differs"


def test_what_changed_of_a_tensor_is_said(tmp_path: Path) -> None:
    one = np.arange(6, dtype="f4").reshape(2, 3)
    a = write(tmp_path / "a" / "m.safetensors", {"dtype": one, "shape": one, "bytes": one, "same": one, "gone": one})
    b = write(
        tmp_path / "b" / "m.safetensors",
        {"dtype": one.astype("f2"), "shape": one.reshape(3, 2), "bytes": one + 0.5, "same": one, "new": one},
    )
    found = diff(None, str(a), str(b), only=["tensors"], values=True)
    changes = {change.name: change for change in section(found, "tensors").changes}
    assert set(changes) == {"dtype", "shape", "bytes", "gone", "new"}
    assert changes["dtype"].facts["differs_in"] == "dtype"
    assert (changes["dtype"].before, changes["dtype"].after) == ("F32 [2, 3]", "F16 [2, 3]")
    assert changes["dtype"].facts["equal_elements"] == "6"  # six small numbers fit both
    assert changes["shape"].facts == {"differs_in": "shape", "values": "the shapes differ"}
    assert changes["bytes"].facts["max_difference"] == "0.5"
    assert changes["bytes"].facts["mean_difference"] == "0.5"
    assert (changes["gone"].what, changes["new"].what) == ("removed", "added")
    assert found.relation == "4 tensors by the same names, 1 of them equal"
    assert section(found, "tensors").why == "3 changed, 1 added, 1 removed; 1 equal"


def test_head_lines(tmp_path: Path) -> None:
    one = np.ones(4, "f4")
    folders = {
        "one": write(tmp_path / "one" / "m.safetensors", {"a": one, "b": one}),
        "half": write(tmp_path / "half" / "m.safetensors", {"a": one.astype("f2"), "b": one}),
        "all": write(tmp_path / "all" / "m.safetensors", {"a": one + 1, "b": one + 1}),
        "other": write(tmp_path / "other" / "m.safetensors", {"x": one}),
    }
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme").write_text("no weights")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "readme").write_text("none here")

    def head(a: str, b: str) -> str:
        return diff(None, str(tmp_path / a), str(tmp_path / b)).relation

    assert len(folders) == 4
    assert head("one", "half") == "same layers in another dtype: 1 of 2 tensors"
    assert head("one", "all") == "same layers, and every tensor differs (2)"
    assert head("one", "other") == "no tensor in common"
    assert head("one", "none") == "other weights"
    assert head("none", "nothing") == "other files"


def test_configuration_tokenizer_and_template(tiny_base: Path, tmp_path: Path) -> None:
    other = copy(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 5.0, "rope_type": "default"}
    (other / "config.json").write_text(json.dumps(config))
    (other / "generation_config.json").write_text('{"temperature": 0.5}')
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 999, "content": "<|new|>"})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    found = diff(None, str(tiny_base), str(other))
    assert "rope_parameters.rope_theta" in {change.name for change in section(found, "config").changes}
    assert {c.name: c.after for c in section(found, "generation").changes}["temperature"] == "0.5"
    changes = {change.name: (change.before, change.after) for change in section(found, "tokenizer").changes}
    assert changes["vocabulary"] == ("259", "260")
    assert "tokenizer.json" in changes
    text = section(found, "chat template").text
    assert text is not None
    assert "+{{ messages[0].content }}" in text
    assert section(found, "tensors").state == "equal"


def test_a_configuration_in_another_spelling_is_equal(tiny_base: Path, tmp_path: Path) -> None:
    other = copy(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    found = diff(None, str(tiny_base), str(other), only=["config", "files"])
    assert section(found, "config").why == "the same values in another spelling"
    assert states(found) == {"files": "differs", "config": "equal"}


def test_a_template_inside_the_tokenizer_configuration(tiny_base: Path, tmp_path: Path) -> None:
    folders = []
    for name, template in (("a", "{{ a }}"), ("b", [{"name": "default", "template": "{{ b }}"}])):
        folder = copy(tiny_base, tmp_path / name)
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        folders.append(str(folder))
    found = diff(None, *folders)
    assert section(found, "tokenizer").state == "equal"
    assert "+{{ b }}" in (section(found, "chat template").text or "")


def trained(registry: Registry, tmp_path: Path, name: str, *, data: str, lr: float, seed: int) -> None:
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    (code / "train.py").write_text(f"# {lr}\n")
    with genealog.run(
        "finetune", name=name, inputs={"base": "base", "data": data}, parameters={"lr": lr}, seeds={"torch": seed},
        code=code, store=registry.home,
    ) as run:  # fmt: skip
        write(tmp_path / name / "m.safetensors", {"w": np.full(3, lr, "f4")})
        run.output(tmp_path / name, kind="model", name=name)


@pytest.fixture
def two_runs(registry: Registry, tmp_path: Path) -> Registry:
    write(tmp_path / "base" / "m.safetensors", {"w": np.zeros(3, "f4")})
    registry.add(tmp_path / "base", kind="model", source="a friend")
    for name, lines in (("data1", ("a", "b")), ("data2", ("b", "a")), ("data3", ("a", "c"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
        registry.add(tmp_path / name, kind="dataset", name=name)
    trained(registry, tmp_path, "first", data="data1", lr=0.1, seed=1)
    trained(registry, tmp_path, "second", data="data3", lr=0.2, seed=1)
    return registry


def test_the_runs_behind_two_versions(two_runs: Registry) -> None:
    found = diff(two_runs, "first", "second")
    assert states(found) == {
        "files": "differs", "tensors": "differs", "config": "equal", "generation": "equal", "tokenizer": "equal",
        "chat template": "equal", "data": "differs", "inputs": "equal", "hyperparameters": "differs", "seeds": "equal",
        "code": "differs", "environment": "equal", "claims": "equal",
    }  # fmt: skip
    (change,) = section(found, "hyperparameters").changes
    assert (change.name, change.before, change.after) == ("lr", "0.1", "0.2")
    assert "file train.py" in {change.name for change in section(found, "code").changes}
    (change,) = section(found, "data").changes
    assert (change.name, (change.before or "")[:6], (change.after or "")[:6]) == ("data", "data1 ", "data3 ")


def test_the_same_records_in_another_order_are_the_same_data(two_runs: Registry, tmp_path: Path) -> None:
    trained(two_runs, tmp_path, "third", data="data2", lr=0.3, seed=1)
    assert section(diff(two_runs, "data1", "data2"), "data").state == "equal"
    assert section(diff(two_runs, "data1", "data3"), "data").state == "differs"
    found = section(diff(two_runs, "first", "third"), "data")
    assert (found.state, found.why) == ("equal", "some of it the same records in other files")


def test_what_no_run_made_is_unknown_and_says_so(two_runs: Registry) -> None:
    found = diff(two_runs, "base", "first")
    for name in ("data", "inputs", "hyperparameters", "seeds", "code", "environment"):
        assert section(found, name).state == "unknown"
        assert section(found, name).why == "no run on record made base"
    claims = {change.name: (change.before, change.after) for change in section(found, "claims").changes}
    assert claims == {"source": ("a friend", None)}


def test_an_adapter_beside_its_base(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    registry.add(tiny_base, kind="model", name="base")
    with genealog.run("adapter-train", inputs={"base": "base"}, code=tiny_base, store=registry.home) as run:
        run.output(build_adapter(tiny_base, tmp_path / "lora"), kind="adapter", name="lora")
    assert diff(registry, "lora", "base").relation.startswith("adapter vs base: a run on record trained lora")
    bare = diff(None, str(tmp_path / "lora"), str(tiny_base)).relation
    assert bare.startswith("adapter vs model: no run on record says")


def test_bytes_that_are_gone_or_edited_are_not_at_hand(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    first, second = copy(tiny_base, tmp_path / "first"), copy(tiny_base, tmp_path / "second")
    flip(second / "model.safetensors")
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "more": 1}))
    (second / "chat_template.jinja").write_text("other")
    for folder in (first, second):
        registry.add(folder, kind="model", name=folder.name)
    assert section(diff(registry, "first", "second"), "config").state == "differs"
    (second / "config.json").write_text('{"a": 1}')  # after it was registered
    shutil.rmtree(first)
    found = diff(registry, "first", "second", values=True)
    assert section(found, "config").state == "unknown"
    assert section(found, "chat template").state == "unknown"
    (change,) = section(found, "tensors").changes  # the lists are in the store
    assert change.facts["values"] == "the bytes of first are not at hand"


def test_tensors_that_change_while_they_are_compared_give_no_figures(tmp_path: Path, registry: Registry) -> None:
    for name, value in (("a", 1), ("b", 2)):
        write(tmp_path / name / "m.safetensors", {"w": np.full(4, value, "f4")})
        registry.add(tmp_path / name, kind="model", name=name)
    flip(tmp_path / "b" / "m.safetensors", -1)
    (change,) = section(diff(registry, "a", "b", values=True), "tensors").changes
    assert change.facts["values"] == "the bytes changed since they were hashed"


def test_weights_that_were_not_read_are_unknown(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_text(f"version https://git-lfs {name}")
    found = section(diff(None, str(tmp_path / "a"), str(tmp_path / "b")), "tensors")
    assert found.state == "unknown"
    assert "not-safetensors" in (found.why or "")


def test_names_paths_and_neither(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x" / "m.safetensors", {"w": np.ones(1, "f4")})
    registry.add(tmp_path / "x", kind="model", name="x")
    write(tmp_path / "x" / "m.safetensors", {"w": np.zeros(1, "f4")})
    monkeypatch.chdir(tmp_path)
    assert diff(registry, "x", "./x").relation == "same layers, and every tensor differs (1)"
    assert diff(registry, "x", "x").relation == "same bytes"
    write(tmp_path / "y" / "m.safetensors", {"w": np.ones(1, "f4")})
    assert diff(registry, "y", "x").a.registered  # the same bytes as x
    with pytest.raises(MissingError) as caught:
        diff(registry, "z", "x")
    assert caught.value.code == "unknown-artifact"
    with pytest.raises(MissingError) as caught:
        diff(None, "z", "x")
    assert caught.value.code == "no-such-path"
    with pytest.raises(UsageError) as wrong:
        diff(registry, "x", "y", only=["layers"])
    assert wrong.value.code == "unknown-section"
    assert wrong.value.expected == ", ".join(SECTIONS)


SPECIAL = [0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["F32", "F64", "F16", "I64", "U8", "BF16"]))
def test_with_and_without_numpy_the_figures_are_the_same(data: st.DataObject, kind: str) -> None:
    dtype = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "U8": "|u1", "BF16": "<u2"}[kind]
    make = arrays.arrays(dtype, 5)
    x, y = data.draw(make), data.draw(make)
    if kind in ("F32", "F64", "F16"):
        x[:3] = data.draw(st.lists(st.sampled_from(SPECIAL), min_size=3, max_size=3))
    found = []
    for add in (values._with_numpy, values._plainly):
        sums = values._Sums()
        add(sums, x.tobytes(), y.tobytes(), (kind, kind))
        found.append((sums.elements, sums.equal, sums.finite, sums.greatest, pytest.approx(sums.total, nan_ok=True)))
    assert found[0] == found[1]


def gguf(path: Path, *, context: int, template: str) -> Path:
    import gguf

    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_token_list(["a", "b"])
    writer.add_chat_template(template)
    writer.add_tensor("w", np.ones(4, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.parent


def test_what_a_gguf_says_of_itself(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    a = gguf(tmp_path / "a" / "m.gguf", context=128, template="{{ a }}")
    b = gguf(tmp_path / "b" / "m.gguf", context=256, template="{{ b }}")
    found = diff(None, str(a), str(b))
    assert found.relation == "same weights, other packaging"
    (change,) = section(found, "config").changes
    assert (change.name, change.before, change.after) == ("llama.context_length", "128", "256")
    (template,) = section(found, "chat template").changes
    assert (template.before or "").startswith("sha256:")
    assert section(found, "tokenizer").state == "equal"
    for folder in (a, b):
        registry.add(folder, kind="model", name=folder.name)
    assert section(diff(registry, "a", "b"), "config").state == "differs"
    shutil.rmtree(a)
    assert section(diff(registry, "a", "b"), "config").state == "unknown"
    assert section(diff(registry, "b", str(tiny_base)), "config").state == "unknown"


def test_bodies_without_files_and_revocations(registry: Registry) -> None:
    for name, snapshot in (("old", "2026-01-01"), ("new", "2026-02-01")):
        body = {"kind": "external-model", "vendor": "example", "model": "m-1", "snapshot": snapshot}
        registry.add_record(body, kind="external-model", name=name)
    registry.revoke("old", reason="withdrawn by its vendor")
    found = diff(registry, "old", "new")
    (change,) = section(found, "claims").changes
    assert (change.name, change.before) == ("body.snapshot", '"2026-01-01"')
    assert section(found, "files").state == "differs"
    assert (found.a.revoked, found.b.revoked) == ("withdrawn by its vendor", None)
    assert found.plain()["a"]["revoked"] == "withdrawn by its vendor"
