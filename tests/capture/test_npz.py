"""numpy archives against numpy: every order and byte order, packed and not; headers by grammar; hostile files."""

import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from genealog.capture import runs
from genealog.capture.files import Tree, scan_tree
from genealog.capture.formats import npz
from genealog.errors import MalformedError, StoreError

DTYPES = {
    "b1": "BOOL", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "u4": "U32", "i8": "I64", "u8": "U64",
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def got(tree: Tree) -> dict[str, tuple[str, tuple[int, ...], str]]:
    return {tensor.name: (tensor.dtype, tensor.shape, tensor.sha256) for tensor in tree.weights or ()}


def expected(values: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    return {name: (DTYPES[a.dtype.str[1:]], a.shape, digest(a)) for name, a in values.items()}


dtypes = st.sampled_from([f"{order}{kind}" for kind in DTYPES for order in "<>"]).map(np.dtype)
values = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text("ab/é.", min_size=1, max_size=4), st.tuples(values, st.booleans()), max_size=4),
    st.booleans(),
)
def test_what_numpy_saves(tmp_path_factory: pytest.TempPathFactory, given_: dict, packed: bool) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("n") / "m.npz"
    whole = {name: np.asfortranarray(a) if fortran else a for name, (a, fortran) in given_.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in whole.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)
    assert got(scan_tree(path)) == expected(whole)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_one_array_is_named_as_its_file(tmp_path: Path, version: tuple[int, int]) -> None:
    array = np.arange(12, dtype=">i2").reshape(3, 4)
    with (tmp_path / "wte.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    assert got(scan_tree(tmp_path)) == expected({"wte": array})


def test_big_packed_arrays(tmp_path: Path) -> None:
    whole = {"a": np.arange(900_000, dtype="f4").reshape(300, 3000), "z": np.zeros((1 << 20,), dtype="f8")}
    np.savez_compressed(tmp_path / "m.npz", a=np.asfortranarray(whole["a"]), z=whole["z"])
    assert got(scan_tree(tmp_path)) == expected(whole)


def test_text_and_times_are_named(tmp_path: Path) -> None:
    odd = {"texts": np.array(["a"]), "bytes": np.array([b"a"]), "dates": np.zeros(1, dtype="M8[s]")}
    np.savez(tmp_path / "m.npz", w=np.ones(2), **odd)
    tree = scan_tree(tmp_path)
    assert list(got(tree)) == ["w"]
    (warning,) = tree.warnings
    assert warning.startswith("npz-not-read: m.npz: ")
    assert all(name in warning for name in odd)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}], dtype=object),
        np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]),
        np.zeros(2, dtype="V2"),  # as bfloat16 is saved
        np.zeros(2, dtype="g"),
    ],
)
def test_numbers_that_are_not_read_leave_no_weights_id(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "m.npz", w=np.ones(2), odd=array)
    tree = scan_tree(tmp_path)
    assert tree.weights is None
    assert [line.partition(":")[0] for line in tree.warnings] == ["weights-not-read", "npz-not-read"]


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return exec, ("raise SystemExit",)


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([Evil()], dtype=object))
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(Evil()))
    assert scan_tree(tmp_path).weights is None


def npy(header: str, body: bytes = b"", *, version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        (GOOD, (2,)),
        ("{'shape':(2,),'fortran_order':False,'descr':'<f4'}", (2,)),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (2L, 1L), }   ", (2, 1)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", ()),
    ],
)
def test_spellings_of_a_header(tmp_path: Path, header: str, shape: tuple[int, ...]) -> None:
    (tmp_path / "a.npy").write_bytes(npy(header, bytes(8)))
    assert got(scan_tree(tmp_path))["a"][1] == shape


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (npy(GOOD, bytes(7)), "npz-truncated"),
        (npy(GOOD, bytes(9)), "npz-header"),
        (npy(GOOD)[:20], "npz-truncated"),
        (npy(GOOD, version=b"\x09\0"), "npz-header"),
        (npy("{'descr': '<f4', 'shape': (2,), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os'),), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': __import__('os'), 'shape': (2,), }", bytes(8)), "npz-header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9007199254740992,), }", bytes(8)), "npz-header"),
        (npy(GOOD.strip("{}\n"), bytes(8)), "npz-header"),
    ],
)
def test_broken_headers(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        scan_tree(tmp_path)
    assert caught.value.code == code
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(MalformedError) as caught:
        scan_tree(tmp_path / "m.npz")
    assert caught.value.code == code


@settings(deadline=None, max_examples=100)
@given(st.data(), st.booleans())
def test_cut_and_changed_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packed: bool) -> None:
    """Damage is refused, or it is in what no tensor owns; it never gives other tensors under a good checksum."""
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, a=np.arange(6.0).reshape(2, 3), b=np.ones(3, dtype=">f4"))
    good = buffer.getvalue()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + (b"" if data.draw(st.booleans()) else bytes([good[at] ^ 1]) + good[at + 1 :])
    path = tmp_path_factory.mktemp("n") / "m.npz"
    path.write_bytes(bad)
    codes = {"npz-zip", "npz-header", "npz-truncated", "tensor-truncated", None}
    assert error_code(path) in codes


def error_code(path: Path) -> str | None:
    try:
        scan_tree(path)
    except MalformedError as error:
        return error.code
    return None


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """A header that promises a terabyte in a packed kilobyte: the bytes that come out are counted."""
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "a.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }", bytes(99))
        )
    assert error_code(tmp_path / "m.npz") == "npz-truncated"


def fortran_bomb(path: Path, size: int, count: int = 1) -> Path:
    """Write deflated members in Fortran order that say `size` bytes each; the bytes behind the header are few."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(count):
            header = npy(f"{{'descr': '|u1', 'fortran_order': True, 'shape': (2, {size // 2}), }}")
            archive.writestr(f"{index}.npy", header + bytes(size))
    return path


def test_nothing_is_unpacked_of_an_archive_that_promises_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file() -> None:
        pytest.fail("an array was unpacked")

    path = fortran_bomb(tmp_path / "m.npz", 1 << 20, count=3)
    monkeypatch.setattr(npz.tempfile, "TemporaryFile", no_file)
    with monkeypatch.context() as patch:  # what all of them say, before the first
        patch.setattr(runs, "MAX_WORK", 1)
        patch.setattr(runs, "_FREE", 2 << 20)
        assert error_code(path) == "too-much-to-hash"
    monkeypatch.setattr(npz, "FREE_UNPACKED", 1 << 19)
    with pytest.raises(MalformedError, match="npz-unpacked") as caught:
        scan_tree(path)
    assert "C order" in str(caught.value.hint)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> BinaryIO:
        return Path("/dev/full").open("r+b", buffering=0)

    monkeypatch.setattr(npz.tempfile, "TemporaryFile", full)
    with pytest.raises(StoreError, match="disk-error"):
        scan_tree(fortran_bomb(tmp_path / "m.npz", 1 << 10))
