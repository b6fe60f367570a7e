"""A version that was registered without some folders: whoever holds its folder to it leaves out the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genealog.capture.files import scan_tree
from genealog.custody import update
from genealog.custody.held import hold
from genealog.diffing.sides import side
from genealog.diffing.values import _readers
from genealog.engine.gate import Gate
from genealog.errors import GenealogError
from genealog.registry import Registry, Version, left_out


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.init(tmp_path / "store")
    yield registry
    registry.home.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output folder of a trainer: a model, and the checkpoints on the way to it."""
    folder = tmp_path / "out"
    for place, value in ((folder, 2.0), (folder / "checkpoint-1", 1.0)):
        place.mkdir()
        save_file({"w": np.full(4, value, "f4")}, place / "model.safetensors")
        (place / "config.json").write_text("{}")
    return folder


@pytest.fixture
def version(registry: Registry, out: Path) -> Version:
    registry.add_tree(scan_tree(out, exclude=["checkpoint-1"]), out, kind="model", name="tuned")
    return registry.resolve("tuned")


def test_everybody_sees_the_version(registry: Registry, out: Path, version: Version) -> None:
    assert registry.check(out, "tuned").id == version.id
    held = hold(registry, version, None)
    assert (set(held.files), set(held.tensors), held.whole) == ({"config.json", "model.safetensors"}, {"w"}, True)
    (admitted,) = Gate(registry, registry.home.keys.signer("engine")).admit("tuned")
    assert admitted.version.id == version.id
    assert set(admitted.held.files) == {"config.json"}
    assert set(_readers(side(registry, "tuned"))) == {"w"}


def test_what_is_not_left_out_counts(registry: Registry, out: Path, version: Version) -> None:
    (out / "checkpoint-2").mkdir()
    (out / "checkpoint-2" / "config.json").write_text("{}")
    gate = Gate(registry, None)
    for see in (
        lambda: registry.check(out, "tuned"),
        lambda: hold(registry, version, None),
        lambda: gate.admit("tuned"),
    ):
        with pytest.raises(GenealogError, match=r"added: checkpoint-2/config\.json"):
            see()


def test_an_update_in_place_leaves_out_the_same(registry: Registry, out: Path, version: Version) -> None:
    save_file({"w": np.full(4, 3.0, "f4")}, out / "model.safetensors")
    made = update(registry, "tuned", out, ["model.safetensors"])
    assert made.tensors == ("w",)
    assert registry.manifest(registry.resolve(made.id)).excludes == ("checkpoint-1",)
    assert registry.check(out, made.id).id == made.id != version.id


def test_a_store_in_the_folder_is_named_once(registry: Registry, out: Path, version: Version) -> None:
    manifest = registry.manifest(version)
    assert left_out(out, manifest) == ("checkpoint-1",)
    (out / ".genealog").mkdir()
    assert left_out(out, manifest) == (".genealog", "checkpoint-1")
    assert left_out(out) == (".genealog",)
