"""One real model in every form: one weights ID, whatever packs it; other names, other files, other bits show."""

import shutil
from pathlib import Path

import pytest

from genealog.capture.files import Tree, scan_tree
from genealog.core.manifest import files_root
from genealog.core.weights import diff_tensors, weights_root

pytestmark = pytest.mark.real


def identity(tree: Tree) -> str:
    assert tree.weights is not None, tree.warnings
    return str(weights_root(tree.weights))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as a transformers folder of half floats, which every format here can hold."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from genealog.demo.training import gguf_path

    gguf, path = gguf_path(), tmp_path_factory.mktemp("smol") / "folder"
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.float16).save_pretrained(path)
    return path


def test_one_weights_id_over_every_form(folder: Path, tmp_path: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    one = scan_tree(folder)
    assert dict(one.tied) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert len(one.weights or ()) == 273
    kept = load_file(folder / "model.safetensors")
    state = kept | {"lm_head.weight": kept["model.embed_tokens.weight"]}

    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(folder / "config.json", shards)
    names = sorted(kept)
    for number in range(3):
        save_file({name: kept[name] for name in names[number::3]}, shards / f"model-{number}.safetensors")
    torch.save(state, tmp_path / "m.pt")
    torch.save(state, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    strided = {
        name: tensor.t().contiguous().t() if tensor.dim() == 2 else torch.stack((tensor, tensor), 1)[:, 0]
        for name, tensor in state.items()
    }
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    torch.save({"model": strided, "step": 7}, tmp_path / "strided.pt")
    np.savez(tmp_path / "m.npz", **{name: tensor.numpy() for name, tensor in state.items()})

    forms = {path.name: scan_tree(path) for path in sorted(tmp_path.iterdir())}
    assert len(forms) == 5
    assert {identity(tree) for tree in forms.values()} == {identity(one)}
    artifacts = {files_root(tree.entries) for tree in (one, *forms.values())}
    assert len(artifacts) == 6

    (tmp_path / "m.pt").rename(tmp_path / "renamed.pt")
    renamed = scan_tree(tmp_path / "renamed.pt")
    assert files_root(renamed.entries) not in artifacts
    assert identity(renamed) == identity(one)

    wanted = "model.layers.7.mlp.down_proj.weight"
    flipped = kept[wanted].clone().view(torch.int16)
    flipped[3, 5] ^= 1
    torch.save(state | {wanted: flipped.view(torch.float16)}, tmp_path / "flipped.pt")
    difference = diff_tensors(one.weights or (), scan_tree(tmp_path / "flipped.pt").weights or ())
    assert (difference.changed, difference.added, difference.removed) == ((wanted,), (), ())
