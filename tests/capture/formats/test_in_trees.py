"""Weights of every format inside folders: the right reader, files beside files, and what is missing is said."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from genealog.capture.files import Tree, scan_tree
from genealog.core.weights import weights_root
from genealog.errors import MalformedError

VECTORS = Path(__file__).parents[2] / "vectors" / "tensorflow"
VALUES = np.arange(12, dtype="<f4").reshape(3, 4)


def codes(tree: Tree) -> list[str]:
    return [warning.partition(":")[0] for warning in tree.warnings]


def names(tree: Tree) -> list[str]:
    return [tensor.name for tensor in tree.weights or ()]


def gguf_file(path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", VALUES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def onnx_file(path: Path, *, external: bool) -> None:
    graph = helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(VALUES, "w")])
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0} if external else {}
    onnx.save_model(helper.make_model(graph), str(path), **options)


def hdf5_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=VALUES, chunks=(2, 3), compression="gzip")


def npz_file(path: Path) -> None:
    np.savez(path, w=VALUES)


def test_the_same_tensor_under_one_name_has_one_weights_id_in_every_format(tmp_path: Path) -> None:
    """Where the names agree the IDs do. Real models name their tensors differently in each format: then they do not."""
    gguf_file(tmp_path / "m.gguf")
    onnx_file(tmp_path / "m.onnx", external=False)
    hdf5_file(tmp_path / "m.weights.h5")
    npz_file(tmp_path / "m.npz")
    (tmp_path / "outside").mkdir()
    onnx_file(tmp_path / "outside" / "m.onnx", external=True)
    places = [*(path for path in tmp_path.iterdir() if path.is_file()), tmp_path / "outside"]
    trees = [scan_tree(place) for place in places]
    assert sorted(tree.format for tree in trees) == ["gguf", "hdf5", "npz", "onnx", "onnx"]
    assert len({weights_root(tree.weights or ()) for tree in trees}) == 1


def test_a_saved_model_and_its_shards(tmp_path: Path) -> None:
    tree = scan_tree(VECTORS / "saved")
    assert tree.format == "tensorflow"
    assert "float/.ATTRIBUTES/VARIABLE_VALUE" in names(tree)
    assert tree.entries[0].path == "variables/variables.data-00000-of-00001"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(VECTORS / "merged.index", alone)
    assert scan_tree(alone).weights is None
    assert "tensorflow-shard-missing" in codes(scan_tree(alone))
    assert scan_tree(VECTORS / "merged.index").weights is None  # one file is a tree of its own


def test_files_beside_a_file_are_found_through_links(tmp_path: Path) -> None:
    """As in the cache of the Hugging Face Hub: names in a snapshot are links to blobs that are called by digest."""
    made, blobs, snapshot = tmp_path / "made", tmp_path / "tree" / "blobs", tmp_path / "tree" / "snapshot"
    for folder in (made, blobs, snapshot):
        folder.mkdir(parents=True)
    onnx_file(made / "m.onnx", external=True)
    for number, name in enumerate(("m.onnx", "w.bin")):
        shutil.copy(made / name, blobs / str(number))
        (snapshot / name).symlink_to(Path("..") / "blobs" / str(number))
    tree = scan_tree(tmp_path / "tree")
    assert names(tree) == ["w"]
    assert weights_root(tree.weights or ()) == weights_root(scan_tree(made).weights or ())


def test_external_data_above_the_tree_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx_file(folder / "m.onnx", external=True)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    whole = onnx.load_model(str(folder / "m.onnx"), load_external_data=False)
    for entry in whole.graph.initializer[0].external_data:
        entry.value = "../w.bin" if entry.key == "location" else entry.value
    (folder / "m.onnx").write_bytes(whole.SerializeToString())
    with pytest.raises(MalformedError) as caught:
        scan_tree(folder)
    assert caught.value.code == "sibling-outside"


def test_files_that_are_only_named_so_are_hashed_as_files(tmp_path: Path) -> None:
    for name in ("m.gguf", "m.onnx", "m.keras", "m.h5", "x.index"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    tree = scan_tree(tmp_path)
    assert tree.weights is None
    assert len(tree.entries) == 5


@pytest.mark.parametrize("name", ["m.gguf", "m.onnx", "m.weights.h5"])
def test_a_file_that_was_cut_has_no_identity(tmp_path: Path, name: str) -> None:
    if name.endswith("gguf"):
        gguf_file(tmp_path / name)
    elif name.endswith("onnx"):
        onnx_file(tmp_path / name, external=False)
    else:
        hdf5_file(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MalformedError) as caught:
        scan_tree(tmp_path)
    assert caught.value.code.startswith(("gguf-", "onnx-", "hdf5-"))


BARE = """
import sys
for name in ("numpy", "h5py", "onnx", "gguf", "tensorflow", "keras", "google.protobuf", "torch"):
    sys.modules[name] = None
from genealog.capture.files import scan_tree
for path in sys.argv[1:]:
    tree = scan_tree(path)
    print(tree.format, len(tree.weights or ()), *(line.partition(":")[0] for line in tree.warnings))
"""


def test_a_bare_install_reads_all_but_hdf5(tmp_path: Path) -> None:
    gguf_file(tmp_path / "m.gguf")
    onnx_file(tmp_path / "m.onnx", external=False)
    hdf5_file(tmp_path / "m.h5")
    places = [str(tmp_path / "m.gguf"), str(tmp_path / "m.onnx"), str(VECTORS / "saved"), str(tmp_path / "m.h5")]
    done = subprocess.run([sys.executable, "-c", BARE, *places], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "gguf 1", "onnx 1", "tensorflow 8 tensorflow-strings", "hdf5 0 weights-not-read hdf5-not-read",
    ]  # fmt: skip


def test_threads_read_several_hdf5_files_at_once(tmp_path: Path) -> None:
    for number in range(8):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file.create_dataset(f"w{number}", data=np.full((50, 50), number), chunks=(7, 9), compression="gzip")
    tree = scan_tree(tmp_path)
    assert names(tree) == [f"w{number}" for number in range(8)]
    again = scan_tree(tmp_path)
    assert again.weights == tree.weights
    buffer = io.BytesIO((tmp_path / "part0.h5").read_bytes())
    with h5py.File(buffer) as file:
        assert file["w0"].shape == (50, 50)
