"""PyTorch checkpoints against torch itself: every layout gives the bytes that torch loads, and nothing runs.

Long because every kind of checkpoint that torch writes, and every way to hide something in one, has a case here.
"""

import contextlib
import hashlib
import io
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genealog.capture.files import Tree, scan_tree
from genealog.capture.formats import gather
from genealog.core.weights import weights_root
from genealog.errors import MalformedError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64, "C128": torch.complex128, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value: object, path: Path, *, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def digest(tensor: torch.Tensor) -> str:
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return hashlib.sha256(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"").hexdigest()


def expected(tensors: dict[str, torch.Tensor]) -> list[tuple[str, str, tuple[int, ...], str]]:
    return sorted((name, NAMES[t.dtype], tuple(t.shape), digest(t)) for name, t in tensors.items())


def got(tree: Tree) -> list[tuple[str, str, tuple[int, ...], str]]:
    return [(tensor.name, tensor.dtype, tensor.shape, tensor.sha256) for tensor in tree.weights or ()]


def sample(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype)


@BOTH
def test_every_dtype(tmp_path: Path, zipped: bool) -> None:
    tensors = {name: sample(dtype, 2, 3) for name, dtype in DTYPES.items()}
    tree = scan_tree(save(tensors, tmp_path / "m.pt", zipped=zipped))
    assert got(tree) == expected(tensors)
    assert (tree.format, tree.warnings) == ("torch", ())


def shapes_of(base: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "plain": base, "transposed": base.t(), "row": base[1], "column": base[:, 1], "stepped": base[::2, ::3],
        "expanded": base[:1].expand(5, base.shape[1]), "scalar": base[0, 0], "empty": base[:0], "permuted":
        base.reshape(2, 2, -1).permute(2, 0, 1), "again": base, "one": base[0, :1].expand(7),
        "parameter": torch.nn.Parameter(base.float()),
    }  # fmt: skip


@BOTH
@pytest.mark.parametrize("small", [False, True], ids=["as it is", "small buffers"])
def test_views_of_one_storage(tmp_path: Path, zipped: bool, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        monkeypatch.setattr(gather, "BLOCK", 24)
        monkeypatch.setattr(gather, "SPAN", 40)
    for dtype in (torch.float32, torch.bfloat16, torch.complex128, torch.uint8):
        tensors = shapes_of(sample(dtype, 4, 6)) if dtype.is_floating_point else {"t": sample(dtype, 4, 6).t()}
        assert got(scan_tree(save(tensors, tmp_path / "m.pt", zipped=zipped))) == expected(tensors)


strided = st.tuples(
    st.lists(st.integers(0, 5), max_size=4), st.lists(st.integers(0, 9), min_size=4, max_size=4), st.integers(0, 20)
)


@settings(deadline=None, max_examples=150)
@given(strided, st.sampled_from(["F32", "BF16", "U8", "C128"]), st.sampled_from([8, 64, 4096]))
def test_any_strides(view: tuple[list[int], list[int], int], dtype: str, buffer: int) -> None:
    shape, steps, offset = view
    base = torch.arange(offset + 200, dtype=torch.float32).to(DTYPES[dtype])
    tensor = base.as_strided(shape, steps[: len(shape)], offset)
    file = io.BytesIO(base.view(torch.uint8).numpy().tobytes())
    width, sizes, strides = base.element_size(), list(tensor.shape), list(tensor.stride())
    if width == 16:
        width, sizes, strides = 8, [*sizes, 2], [*(2 * step for step in strides), 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "BLOCK", buffer)
        patch.setattr(gather, "SPAN", buffer)
        data = b"".join(gather.gather(file, offset * base.element_size(), width, sizes, strides))
    assert hashlib.sha256(data).hexdigest() == digest(tensor)


trees = st.recursive(
    st.sampled_from(list(DTYPES.values())[:12]).map(lambda dtype: sample(dtype, 2, 2))
    | st.integers()
    | st.text(max_size=3),
    lambda inner: (
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=2)
    ),
    max_leaves=8,
)


def flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix[:-1]: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: tensor for key, item in items for name, tensor in flat(item, f"{prefix}{key}.").items()}


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), trees, min_size=1), st.booleans())
def test_what_torch_loads_is_what_we_see(tmp_path_factory: pytest.TempPathFactory, value: Any, zipped: bool) -> None:
    path = save(value, tmp_path_factory.mktemp("t") / "m.pt", zipped=zipped)
    loaded = torch.load(path, weights_only=True)
    assert got(scan_tree(path)) == expected(flat(loaded))


@BOTH
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_wrapped_weights(tmp_path: Path, zipped: bool, wrapper: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    bare = scan_tree(save(model.state_dict(), tmp_path / "bare.pt"))
    value = {wrapper: model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    tree = scan_tree(save(value, tmp_path / "m.pt", zipped=zipped))
    assert got(tree) == got(bare) == expected(dict(model.state_dict()))
    assert tree.warnings == (f"torch-rest: m.pt: besides {wrapper}, not in the weights ID: epoch, optimizer",)
    alone = scan_tree(save(optimizer.state_dict(), tmp_path / "adam.pt", zipped=zipped))
    assert (alone.weights, alone.warnings[0].split(":")[0]) == (None, "torch-optimizer")


def test_the_state_of_a_trainer_is_no_weights(tmp_path: Path) -> None:
    """A checkpoint of transformers' Trainer in its older form: its random states hold a tensor too."""
    weights = {"w": torch.ones(2)}
    save(weights, tmp_path / "pytorch_model.bin")
    for name in ("rng_state.pth", "rng_state_0.pth", "scheduler.pt", "scaler.pt", "random_states_0.pkl"):
        save({"cpu": torch.get_rng_state(), "numpy": np.random.RandomState(0).get_state()}, tmp_path / name)
    save({"w": torch.zeros(2)}, tmp_path / "mp_rank_00_optim_states.pt")
    tree = scan_tree(tmp_path)
    assert got(tree) == expected(weights)
    assert {line.split(":")[0] for line in tree.warnings} == {"torch-training"}


def test_two_wrappers_are_no_wrapper(tmp_path: Path) -> None:
    value = {"model": {"w": torch.ones(1)}, "module": {"w": torch.zeros(1)}}
    assert [name for name, *_ in got(scan_tree(save(value, tmp_path / "m.pt")))] == ["model.w", "module.w"]


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor_is_named(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    odd = {
        "quantised": quantised, "sparse": torch.eye(2).to_sparse(), "conjugated": sample(torch.complex64, 2).conj(),
        "meta": torch.ones(2, device="meta"),
    }  # fmt: skip
    tree = scan_tree(save({"w": torch.ones(2), **odd}, tmp_path / "m.pt"))
    assert tree.weights is None  # an ID over the rest would look like one over all
    first, warning = tree.warnings
    assert first.startswith("weights-not-read: ")
    assert warning.startswith("torch-not-read: ")
    assert all(name in warning for name in odd)


def test_a_shard_that_cannot_be_read_leaves_no_weights_id(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save({"a": torch.ones(2)}, folder / "model-1.pt")
    assert scan_tree(folder).weights is not None
    save({"b": torch.eye(2).to_sparse()}, folder / "model-2.pt")
    tree = scan_tree(folder)
    assert (tree.weights, tree.format) == (None, "torch")
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    assert [name for name, *_ in got(scan_tree(folder))] == ["a"]  # another format has all of it, as far as it says


def test_a_tensor_and_a_module_have_no_names(tmp_path: Path) -> None:
    alone = scan_tree(save(torch.ones(2), tmp_path / "t.pt"))
    assert (alone.weights, alone.warnings[0].split(":")[0]) == (None, "torch-no-names")
    whole = scan_tree(save(torch.nn.Linear(2, 2), tmp_path / "m.pt"))
    assert whole.weights is None
    assert [line.split(":")[0] for line in whole.warnings] == ["pickle-unsafe", "torch-no-weights"]
    assert "torch.nn.modules.linear.Linear at byte" in whole.warnings[0]


@pytest.mark.filterwarnings("ignore")
def test_a_script_is_no_checkpoint(tmp_path: Path) -> None:
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, tmp_path / "m.pt")
    tree = scan_tree(tmp_path / "m.pt")
    assert tree.weights is None
    assert any(line.startswith("torch-script: ") for line in tree.warnings)


class Calls:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def evil(path: Path) -> Calls:
    return Calls(exec, f"open({str(path)!r}, 'w').close()")


@BOTH
@pytest.mark.parametrize("where", ["beside", "inside", "key"])
def test_hostile_checkpoints_are_told_and_run_nothing(tmp_path: Path, zipped: bool, where: str) -> None:
    mark = tmp_path / "ran"
    weights: dict[Any, Any] = {"w": torch.ones(2)}
    if where == "beside":
        weights["x"] = evil(mark)
    elif where == "inside":
        weights["deep"] = [{"x": (OrderedDict(y=evil(mark)),)}]
    else:
        weights[evil(mark)] = 1
    path = save(weights, tmp_path / "m.pt", zipped=zipped)
    seen: list[str] = []
    armed = True

    def watch(event: str, arguments: Any) -> None:
        if armed and (
            event in ("exec", "pickle.find_class", "os.system") or (event == "import" and arguments[0] == "posix")
        ):
            seen.append(event)

    import genealog.capture.formats.torch  # noqa: F401 - so that the watch sees no import of ours

    sys.addaudithook(watch)
    tree = scan_tree(path)
    armed = False
    assert seen == []
    assert not mark.exists()
    assert tree.warnings[0].startswith("pickle-unsafe: builtins.exec at byte ")
    assert tree.warnings[0].endswith(" in m.pt")
    at = int(tree.warnings[0].split(" at byte ")[1].split()[0])
    assert b"exec" in path.read_bytes()[at : at + 40]
    assert [name for name, *_ in got(tree)] == ["w"]


def test_a_state_that_changes_a_tensor_is_not_believed(tmp_path: Path) -> None:
    """BUILD gives a rebuilt tensor other bytes when it is loaded: what the arguments say is not what one gets."""
    good = save({"w": torch.ones(2), "v": torch.zeros(2)}, tmp_path / "good.pt")
    with zipfile.ZipFile(good) as archive:
        data = archive.read("good/data.pkl")
    # `v` becomes what BUILD of `w`'s own arguments would make it: ((storage, …) b
    at = data.rindex(b"R") + 1
    repack(good, tmp_path / "m.pt", {"data.pkl": data[:at] + b"(NNNNtb" + data[at:]})
    tree = scan_tree(tmp_path / "m.pt")
    assert tree.weights is None
    assert tree.warnings[1].startswith("torch-not-read: ")


def repack(source: Path, target: Path, changed: dict[str, bytes], *, more: dict[str, bytes] | None = None,
           compress: int = zipfile.ZIP_STORED) -> Path:  # fmt: skip
    """Write a checkpoint again with members changed or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name.partition("/")[2], old.read(name)))
        for name, data in (more or {}).items():
            new.writestr(name, data)
    return target


def refused(path: Path) -> str:
    with pytest.raises(MalformedError) as caught:
        scan_tree(path)
    return caught.value.code


def test_tricks_with_the_archive(tmp_path: Path) -> None:
    good = save({"w": torch.ones(2)}, tmp_path / "good.pt")
    same = got(scan_tree(good))
    assert got(scan_tree(repack(good, tmp_path / "same.pt", {}))) == same
    pickle_ = zipfile.ZipFile(good).read("good/data.pkl")
    second = repack(good, tmp_path / "second.pt", {}, more={"evil/data.pkl": b"cos\nsystem\n(S'x'\ntR."})
    assert refused(second) == "torch-no-pickle"
    with pytest.warns(UserWarning, match="Duplicate"):
        repack(good, tmp_path / "twice.pt", {}, more={"good/data.pkl": pickle_})
    assert refused(tmp_path / "twice.pt") == "torch-zip"
    assert refused(repack(good, tmp_path / "case.pt", {}, more={"good/DATA.pkl": pickle_})) == "torch-zip"
    assert refused(repack(good, tmp_path / "packed.pt", {}, compress=zipfile.ZIP_DEFLATED)) == "torch-zip"
    assert refused(repack(good, tmp_path / "short.pt", {"data/0": b"1234"})) == "torch-storage"
    assert refused(repack(good, tmp_path / "cut.pt", {"data.pkl": pickle_[:-3]})) == "torch-pickle"
    assert refused(repack(good, tmp_path / "long.pt", {"data.pkl": pickle_ + b"."})) == "torch-pickle"
    for name, data in {
        "before.pt": b"#!/bin/sh\n" + good.read_bytes(),
        "behind.pt": good.read_bytes() + b"\0",
        "two.pt": good.read_bytes() + good.read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(data)
        if name == "before.pt":
            assert scan_tree(tmp_path / name).weights is None  # it does not begin as a checkpoint
        else:
            assert refused(tmp_path / name) == "torch-zip"
    big = repack(good, tmp_path / "big.pt", {"byteorder": b"big"})
    assert scan_tree(big).warnings[1].startswith("torch-big-endian: ")
    beyond = pickle_.replace(b"K\x00K\x02\x85", b"K\x01K\x02\x85", 1)
    assert beyond != pickle_
    assert refused(repack(good, tmp_path / "beyond.pt", {"data.pkl": beyond})) == "torch-out-of-storage"


@cache
def saved_once(zipped: bool) -> bytes:
    """Return one checkpoint for all examples: the older form holds memory addresses, so no two are the same."""
    buffer = io.BytesIO()
    value = {"w": torch.ones(3), "v": torch.ones(2, 2).t()}
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@BOTH
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_cut_and_changed_checkpoints(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, data: st.DataObject
) -> None:
    """A file that was damaged is refused, or gives names that its bytes really hold: never a crash."""
    folder = tmp_path_factory.mktemp("t")
    good = saved_once(zipped)
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(1, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    (folder / "m.pt").write_bytes(bad)
    with contextlib.suppress(MalformedError):
        scan_tree(folder / "m.pt")


def test_what_is_no_checkpoint_in_its_clothes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "assets.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    with tarfile.open(tmp_path / "old.pth", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    tree = scan_tree(tmp_path)
    assert tree.weights is None
    assert [line.split(": ")[:2] for line in tree.warnings] == [
        ["torch-foreign", "assets.bin"], ["torch-foreign", "empty.pt"], ["torch-tar", "old.pth"],
    ]  # fmt: skip


def test_encrypted_and_commented_archives(tmp_path: Path) -> None:
    good = save({"w": torch.ones(2)}, tmp_path / "good.pt")
    with zipfile.ZipFile(repack(good, tmp_path / "m.pt", {}), "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)
    assert refused(tmp_path / "m.pt") == "torch-zip"
    data = bytearray(good.read_bytes())
    at = data.index(b"PK\x01\x02") + 8
    data[at : at + 2] = struct.pack("<H", struct.unpack_from("<H", data, at)[0] | 1)
    (tmp_path / "m.pt").write_bytes(data)
    assert refused(tmp_path / "m.pt") == "torch-zip"


def test_views_that_multiply_are_refused(tmp_path: Path) -> None:
    """A file of a kilobyte that asks for a terabyte of hashing."""
    path = save({"w": torch.ones(1).expand(1 << 38)}, tmp_path / "m.pt")
    assert refused(path) == "too-much-to-hash"


def test_plain_pickles_are_scanned(tmp_path: Path) -> None:
    (tmp_path / "ok.pkl").write_bytes(pickle.dumps({"a": [1, 2.5, np.ones(3)]}))
    (tmp_path / "bad.pickle").write_bytes(pickle.dumps(Calls(print, "x")) + pickle.dumps(evil(tmp_path / "ran")))
    (tmp_path / "text.bin").write_bytes(b"\x00 no pickle at all")
    tree = scan_tree(tmp_path)
    lines = "\n".join(tree.warnings)
    assert (tree.weights, tree.format) == (None, "pickle")
    assert (
        "pickle-unsafe: builtins.print at byte 11" in lines.replace("at byte 12", "at byte 11")
        or "builtins.print" in lines
    )
    assert "builtins.exec" in lines
    assert "pickle-unsafe" not in "\n".join(line for line in tree.warnings if "ok.pkl" in line or "text.bin" in line)
    assert "pickle-broken: text.bin: " in lines


def test_a_flipped_bit_names_its_tensor(tmp_path: Path) -> None:
    path = save({"a": torch.ones(4), "b": torch.ones(4).double()}, tmp_path / "m.pt")
    before = scan_tree(path)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<4d", 1, 1, 1, 1))] ^= 1
    path.write_bytes(data)
    after = scan_tree(path)
    assert [old.name for old, new in zip(before.weights or (), after.weights or (), strict=True) if old != new] == ["b"]
    assert weights_root(before.weights or ()) != weights_root(after.weights or ())
