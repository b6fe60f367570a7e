"""Online updates: only what changed is read, the chain of versions is whole, and a false step says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genealog.answers import Answers
from genealog.capture.files import scan_tree
from genealog.core import records
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.core.weights import weights_root
from genealog.custody import Checker, update
from genealog.custody.checking import strength
from genealog.errors import GenealogError, MalformedError, VerificationError
from genealog.registry import Registry
from model_making import execution, flip


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example", identity="Jane Doe")


def layer(folder: Path, number: int, value: float) -> str:
    folder.mkdir(exist_ok=True)
    name = f"layer-{number}.safetensors"
    save_file({f"layers.{number}.weight": np.full((4, 4), value, dtype=np.float32)}, folder / name)
    return name


def policy(folder: Path, layers: int = 3) -> Path:
    for number in range(layers):
        layer(folder, number, float(number))
    (folder / "config.json").write_text(json.dumps({"layers": layers}))
    return folder


def step(folder: Path, previous: Path, number: int, value: float) -> list[str]:
    """Make the next version in a folder of its own; returns what changed in it."""
    folder.mkdir()
    for file in previous.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return [layer(folder, number, value)]


def test_three_updates_are_a_chain_that_bytes_prove(registry: Registry, tmp_path: Path) -> None:
    before = policy(tmp_path / "v0")
    registry.add(before, kind="model", name="policy")
    first = registry.resolve("policy").id
    made = []
    for number in range(1, 4):
        folder = tmp_path / f"v{number}"
        changed = step(folder, before, number % 3, 10.0 + number)
        made.append(update(registry, "policy", folder, changed))
        before = folder
    assert [item.tensors for item in made] == [("layers.1.weight",), ("layers.2.weight",), ("layers.0.weight",)]
    for item, folder in zip(made, ("v1", "v2", "v3"), strict=True):
        again = registry.add(tmp_path / folder, kind="model", name=folder)  # every byte read: the same IDs
        assert (again.id, again.weights, again.new) == (item.id, item.weights, False)
        edges = Checker(registry).check(item.id)
        assert strength(edges) is State.PROVEN
        assert {edge.method for edge in edges} == {"equal-weights"}
    found = Answers(registry.home).lineage(made[-1].id)
    assert {node.id for node in found.artifacts} == {first, *(item.id for item in made)}


def test_a_step_that_says_less_than_it_changed_is_contradicted(registry: Registry, tmp_path: Path) -> None:
    registry.add(policy(tmp_path / "v0"), kind="model", name="policy")
    changed = step(tmp_path / "v1", tmp_path / "v0", 1, 5.0)
    flip(tmp_path / "v1" / "layer-2.safetensors")  # same size, same header: only bytes tell
    made = update(registry, "policy", tmp_path / "v1", changed)
    edges = Checker(registry).check(made.id)
    assert {edge.code for edge in edges if edge.direction == "out"} == {"bytes-differ"}


def test_an_update_that_recorded_other_tensors_is_contradicted(registry: Registry, tmp_path: Path) -> None:
    registry.add(policy(tmp_path / "v0"), kind="model", name="v0")
    step(tmp_path / "v1", tmp_path / "v0", 1, 5.0)
    registry.add(tmp_path / "v1", kind="model", name="v1")
    execution(registry, "online-update", [("previous", "v0")], "v1", facts={"changed": "1", "delta": "0" * 64})
    edges = Checker(registry).check("v1")
    assert {(edge.state, edge.code) for edge in edges} == {(State.CONTRADICTED, "update-mismatch")}


@pytest.mark.parametrize("how", ["another size", "another header", "a file more", "a file less"])
def test_what_changed_and_was_not_named_is_refused(registry: Registry, tmp_path: Path, how: str) -> None:
    registry.add(policy(tmp_path / "v0"), kind="model", name="policy")
    changed = step(tmp_path / "v1", tmp_path / "v0", 1, 5.0)
    match how:
        case "another size":
            (tmp_path / "v1" / "config.json").write_text("{}")
        case "another header":
            save_file({"layers.x.weight": np.zeros((4, 4), dtype=np.float32)}, tmp_path / "v1/layer-2.safetensors")
        case "a file more":
            (tmp_path / "v1" / "note").write_text("x")
        case "a file less":
            (tmp_path / "v1" / "layer-2.safetensors").unlink()
    with pytest.raises(VerificationError, match="bytes-differ"):
        update(registry, "policy", tmp_path / "v1", changed)


def test_an_update_names_files_that_are_there(registry: Registry, tmp_path: Path) -> None:
    registry.add(policy(tmp_path / "v0"), kind="model", name="policy")
    with pytest.raises(MalformedError, match="no-change"):
        update(registry, "policy", tmp_path / "v0", [])
    with pytest.raises(MalformedError, match="unknown-file"):
        update(registry, "policy", tmp_path / "v0", ["nothing"])
    with pytest.raises(GenealogError, match="unknown-artifact"):
        update(registry, "nobody", tmp_path / "v0", ["config.json"])


def test_two_thousand_versions_are_one_complete_chain(registry: Registry, tmp_path: Path) -> None:
    folder = policy(tmp_path / "live", layers=2)
    registry.add(folder, kind="model", name="policy")
    for number in range(40):  # the rest are stated in one batch: what is tested is the chain, not the disk
        layer(folder, number % 2, 100.0 + number)
        made = update(registry, "policy", folder, [f"layer-{number % 2}.safetensors"])
        assert made.tensors == (f"layers.{number % 2}.weight",)
    previous, bodies = made.id, []
    for number in range(1960):
        body = records.Artifact(kind="model", registered_at="2026-01-01T00:00:00.000Z", body={"n": number})
        start = records.Execution(kind="online-update", started_at="2026-01-01T00:00:00.000Z", nonce=f"{number:032x}")
        identifier = record_id(body.body)
        events = tuple(
            records.Event(artifact=item, direction=way, role=role, state=State.STATED)  # type: ignore[arg-type]
            for item, way, role in ((previous, "in", "previous"), (identifier, "out", "model"))
        )
        end = records.ExecutionEnd(
            execution=record_id(start), ended_at="2026-01-01T00:00:00.000Z", exit="succeeded", events=events
        )
        bodies += [(body, "v", None), (start, "online-update", None), (end, "online-update", None)]
        previous = identifier
    registry.append_all(bodies, signer=registry.signer())
    found = Answers(registry.home).lineage(previous)
    assert len(found.artifacts) == 2001
    assert len(found.executions) == 2000


def test_another_format_in_the_folder_has_no_say_in_the_weights(registry: Registry, tmp_path: Path) -> None:
    """As a whole scan has it: safetensors give the weights, and arrays beside them are files."""
    before = policy(tmp_path / "v0", layers=2)
    np.savez(before / "statistics.npz", mean=np.zeros(3))
    registry.add(before, kind="model", name="policy")
    changed = step(tmp_path / "v1", before, 1, 7.0)
    np.savez(tmp_path / "v1" / "statistics.npz", mean=np.ones(3))
    made = update(registry, "policy", tmp_path / "v1", [*changed, "statistics.npz"])
    assert made.weights == weights_root(scan_tree(tmp_path / "v1").weights or ())
    changed = step(tmp_path / "v2", tmp_path / "v1", 0, 8.0)
    assert update(registry, "policy", tmp_path / "v2", changed).tensors == ("layers.0.weight",)


def test_an_update_that_cannot_be_read_whole_has_no_weights_id(registry: Registry, tmp_path: Path) -> None:
    for name, more in (("v0", {}), ("v1", {"odd": np.zeros(2, "V2")})):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "m.npz", w=np.ones(2), **more)
    registry.add(tmp_path / "v0", kind="model", name="policy")
    assert update(registry, "policy", tmp_path / "v1", ["m.npz"]).weights is None
