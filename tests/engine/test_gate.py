"""The load gate over a real registry: only registered bytes pass, and every refusal stands in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genealog.capture.files import scan_tree
from genealog.capture.listing import list_tree
from genealog.core.ids import record_id
from genealog.core.records import Decision, Event, Execution, ExecutionEnd, Loaded
from genealog.core.statement import read_statement
from genealog.core.states import State
from genealog.core.weights import weights_root
from genealog.deploy import Deployments
from genealog.engine import held
from genealog.engine.gate import Gate
from genealog.engine.held import read_folder
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied
from genealog.registry import Registry, Version

NOW = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.init(tmp_path / "store")
    yield registry
    registry.home.close()


@pytest.fixture
def gate(registry: Registry) -> Gate:
    return Gate(registry, registry.home.keys.signer("engine"))


def folder(path: Path, value: int = 0, **files: str) -> Path:
    """Write something with the shape of a model: one tensor of four bytes, and a configuration."""
    path.mkdir()
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes([value] * 4))
    (path / "config.json").write_text("{}")
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def add(registry: Registry, path: Path, kind: str = "model") -> Version:
    registry.add(path, kind=kind)
    return registry.resolve(path.name)


def train(registry: Registry, base: Version, adapter: Version, *, weights: str | None) -> None:
    """Register the run that made `adapter` from `base`."""
    start = Execution(kind="adapter-train", started_at=NOW, nonce=adapter.id[5:37])
    events = (
        Event(artifact=base.id, direction="in", role="base", state=State.STATED, weights=weights),
        Event(artifact=adapter.id, direction="out", role="adapter", state=State.STATED, weights=adapter.weights),
    )
    end = ExecutionEnd(execution=record_id(start), ended_at=NOW, exit="succeeded", events=events)
    for body in (start, end):
        registry.append(body, signer=registry.signer(), name="train")


def refusals(registry: Registry) -> list[tuple[str, str]]:
    """Return (code, subject) of the refusals in the log, having checked who signed every decision on a load."""
    log = registry.home.registry_log()
    log.refresh()
    reads = [read_statement(bytes(entry)) for entry in log.entries(0, log.size)]
    decisions = [(read.body, read.keyids) for read in reads if isinstance(read.body, Decision)]
    engine = registry.home.keys.signer("engine").keyid
    assert all((body.point, keys) == ("load", (engine,)) for body, keys in decisions)
    return [(body.code, body.subject) for body, _ in decisions if body.outcome == "deny"]


def test_name_id_and_path_all_lead_to_the_same_version(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    for ref in ("m", version.id, str(tmp_path / "m")):
        (admitted,) = gate.admit(ref)
        assert admitted.version == version
        assert admitted.loaded == Loaded(role="model", artifact=version.id, weights=str(version.weights))
    assert admitted.digests == {"model/config.json": read_folder(tmp_path / "m").digests["config.json"]}
    assert refusals(registry) == []


def test_an_unregistered_folder_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    with pytest.raises(PolicyDenied, match="unregistered-model"):
        gate.admit(str(path))
    assert refusals(registry) == [("unregistered-model", read_folder(path).artifact)]


def test_a_name_that_nobody_knows_is_not_a_decision(registry: Registry, gate: Gate) -> None:
    with pytest.raises(MissingError, match="unknown-artifact"):
        gate.admit("nobody")
    assert refusals(registry) == []


def test_a_version_that_this_machine_has_not_seen_needs_a_path(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    (registry.home.path / "locations.json").unlink()
    with pytest.raises(MissingError, match="no-location"):
        gate.admit("m")
    assert gate.admit(str(tmp_path / "m"))[0].version == version


def test_edited_files_are_named(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    add(registry, folder(tmp_path / "m"))
    (tmp_path / "m" / "config.json").write_text("{ }")
    (tmp_path / "m" / "new.txt").write_text("")
    with pytest.raises(PolicyDenied, match=r"bytes-differ.*") as caught:
        gate.admit("m")
    assert "changed: config.json; added: new.txt" in str(caught.value)
    assert refusals(registry) == [("bytes-differ", read_folder(tmp_path / "m").artifact)]


def test_a_revoked_version_is_refused_by_name_and_by_path(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    admitted = gate.admit("m")
    registry.revoke("m", reason="poisoned")
    for ref in ("m", str(tmp_path / "m")):
        with pytest.raises(PolicyDenied, match="poisoned"):
            gate.admit(ref)
    with pytest.raises(PolicyDenied, match="model-revoked"):
        gate.recheck(admitted)
    assert refusals(registry) == [("model-revoked", version.id)] * 3


@pytest.mark.parametrize("pinned", [True, False])
def test_an_adapter_passes_on_the_base_of_its_run(registry: Registry, gate: Gate, tmp_path: Path, pinned: bool) -> None:
    base, adapter = add(registry, folder(tmp_path / "b")), add(registry, folder(tmp_path / "a", 1), "adapter")
    train(registry, base, adapter, weights=base.weights if pinned else None)
    admitted = gate.admit("b", "a")
    assert [(item.role, item.version.id) for item in admitted] == [("base", base.id), ("adapter", adapter.id)]


def test_an_adapter_on_another_base_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    base, other = add(registry, folder(tmp_path / "b")), add(registry, folder(tmp_path / "o", 2))
    adapter = add(registry, folder(tmp_path / "a", 1), "adapter")
    train(registry, base, adapter, weights=base.weights)
    with pytest.raises(PolicyDenied, match="wrong-base"):
        gate.admit("o", "a")
    repackaged = add(registry, folder(tmp_path / "r", README_md="same weights"))
    assert (repackaged.weights, repackaged.id) != (base.weights, base.id)
    with pytest.raises(PolicyDenied, match="wrong-base"):
        gate.admit("r", "a")
    assert refusals(registry) == [("wrong-base", adapter.id)] * 2
    assert other.id != base.id


def test_a_run_that_names_other_weights_for_the_base_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    base, adapter = add(registry, folder(tmp_path / "b")), add(registry, folder(tmp_path / "a", 1), "adapter")
    train(registry, base, adapter, weights=adapter.weights)
    with pytest.raises(PolicyDenied, match="wrong-base"):
        gate.admit("b", "a")


def test_an_adapter_without_a_run_has_no_known_base(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    add(registry, folder(tmp_path / "b"))
    adapter = add(registry, folder(tmp_path / "a", 1), "adapter")
    with pytest.raises(PolicyDenied, match="base-unknown"):
        gate.admit("b", "a")
    assert refusals(registry) == [("base-unknown", adapter.id)]


def test_a_swapped_adapter_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    base, adapter = add(registry, folder(tmp_path / "b")), add(registry, folder(tmp_path / "a", 1), "adapter")
    train(registry, base, adapter, weights=base.weights)
    evil = folder(tmp_path / "evil", 66)
    (tmp_path / "a" / "model.safetensors").write_bytes((evil / "model.safetensors").read_bytes())
    with pytest.raises(PolicyDenied, match=r"changed: model.safetensors"):
        gate.admit("b", "a")
    with pytest.raises(PolicyDenied, match="unregistered-model"):
        gate.admit("b", str(evil))
    assert [code for code, _ in refusals(registry)] == ["bytes-differ", "unregistered-model"]


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("model.safetensors", b"\x40\0\0\0\0\0\0\0{", "safetensors-truncated"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "not-safetensors"),
        ("pytorch_model.bin", b"\x80\x04.", "unsafe-format"),
        ("model.gguf", b"GGUF", "unsupported-format"),
    ],
)
def test_bytes_that_cannot_be_loaded_safely_are_refused(
    registry: Registry, gate: Gate, tmp_path: Path, name: str, data: bytes, code: str
) -> None:
    path = folder(tmp_path / "m")
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        gate.admit(str(path))
    assert caught.value.code == code
    assert refusals(registry) == [(code, "m")]


def test_a_pickle_beside_safetensors_is_hashed_and_not_kept(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", optimizer_pt="\x80")
    version = add(registry, path)
    (admitted,) = gate.admit("m")
    assert admitted.version == version
    assert set(admitted.held.files) == {"config.json"}


def test_a_refusal_that_cannot_be_logged_says_so(registry: Registry, tmp_path: Path) -> None:
    stranger = registry.home.keys.create("stranger")
    with pytest.raises(PolicyDenied) as caught:
        Gate(registry, stranger).admit(str(folder(tmp_path / "m")))
    assert "could not be logged" in str(caught.value.hint)


def test_without_a_key_refusals_are_raised_only(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(GenealogError, match="unregistered-model"):
        Gate(registry, None).admit(str(folder(tmp_path / "m")))
    assert refusals(registry) == []


def tied_folder(path: Path) -> Path:
    """Something with the shape of a tied model: the file holds the embeddings and not the head."""
    path.mkdir()
    name = "model.embed_tokens.weight"
    header = json.dumps({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_tied_names_are_added_as_the_registration_says(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, tied_folder(tmp_path / "tied"))
    (admitted,) = gate.admit("tied")
    assert admitted.loaded.weights == version.weights
    assert version.weights != read_folder(tmp_path / "tied").weights_id({})


def test_a_version_from_before_there_were_ties_is_served(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    """Its weights ID lists what the file holds, and nothing says that names were added: so none are."""
    path = tied_folder(tmp_path / "tied")
    held, tree = read_folder(path), scan_tree(path)
    registry.add_tree(replace(tree, weights=held.weights, tied={}), path, kind="model", name="tied")
    (admitted,) = gate.admit("tied")
    assert admitted.loaded.weights == held.weights_id({}) != weights_root(tree.weights or ())


def test_a_registration_cannot_invent_a_tie(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    path = tied_folder(tmp_path / "tied")
    tree = scan_tree(path)
    registry.add_tree(replace(tree, tied={"lm_head.weight": "nothing"}), path, kind="model", name="tied")
    with pytest.raises(MalformedError, match="bad-tie"):
        gate.admit("tied")
    assert [code for code, _ in refusals(registry)] == ["bad-tie"]


def test_a_file_added_after_signing_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    add(registry, folder(tmp_path / "m"))
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ evil }}")
    with pytest.raises(PolicyDenied) as caught:
        gate.admit("m")
    assert caught.value.code == "files-added"
    assert "added: chat_template.jinja" in caught.value.message
    assert [code for code, _ in refusals(registry)] == ["files-added"]


def test_a_link_out_of_the_folder_is_refused(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    (tmp_path / "outside.json").write_bytes((tmp_path / "m" / "config.json").read_bytes())
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m" / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(MalformedError, match="symlink-leaves-root"):
        gate.admit("m")
    assert refusals(registry) == [("symlink-leaves-root", version.id)]


@pytest.mark.parametrize("moment", ["after-listing", "after-reading"])
def test_files_swapped_between_check_and_use_are_not_loaded(
    registry: Registry, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What is hashed is what is loaded: bytes that come before are hashed and refused, later ones are never read."""
    version = add(registry, folder(tmp_path / "m"))
    evil = (folder(tmp_path / "evil", 66) / "model.safetensors").read_bytes()
    good = (tmp_path / "m" / "model.safetensors").read_bytes()

    def swap() -> None:
        (tmp_path / "swapped").write_bytes(evil)
        (tmp_path / "swapped").replace(tmp_path / "m" / "model.safetensors")

    if moment == "after-listing":

        def listed(path: Path, **options: Any) -> Any:
            found = list_tree(path, **options)
            swap()
            return found

        monkeypatch.setattr(held, "list_tree", listed)
        with pytest.raises(PolicyDenied, match=r"changed: model\.safetensors"):
            gate.admit("m")
        assert [code for code, _ in refusals(registry)] == ["bytes-differ"]
        return
    (admitted,) = gate.admit("m")
    swap()
    _, _, view = admitted.held.tensors["w"]
    assert bytes(view) == good[-4:] != evil[-4:]
    assert admitted.held.artifact == version.id


def decided(registry: Registry) -> list[Decision]:
    """Return the decisions of policy on loads, in log order."""
    reads = [read_statement(bytes(entry)).body for entry in registry.home.registry_log().entries()]
    return [body for body in reads if isinstance(body, Decision) and body.policy is not None]


def test_policy_is_asked_and_a_yes_is_recorded(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    gate.admit("m")
    (decision,) = decided(registry)
    assert (decision.point, decision.outcome, decision.subject) == ("load", "allow", version.id)
    assert registry.resolve(str(decision.policy)).kind == "policy"
    assert version.id.encode() in registry.home.objects.get(str(decision.input))


def test_policy_may_refuse_what_the_gate_would_admit(registry: Registry, gate: Gate, tmp_path: Path) -> None:
    version = add(registry, folder(tmp_path / "m"))
    parent = add(registry, folder(tmp_path / "parent", 7))
    train(registry, parent, version, weights=None)
    registry.revoke("parent", reason="poisoned")
    with pytest.raises(PolicyDenied) as caught:
        gate.admit("m")
    assert caught.value.code == "model-tainted"
    assert [body.code for body in decided(registry)] == ["model-tainted"]
    Deployments(registry.home).deploy("bot", model="m", upstream="http://127.0.0.1:1", allow_tainted="looked at")
    assert gate.admit("m")[0].version.id == version.id
