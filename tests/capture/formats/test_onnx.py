"""ONNX: initializers as the `onnx` package reads them, however they are stored; hostile models refused in bounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from genealog.capture.formats.onnx import TYPES, layout_of
from genealog.core.layout import Layout
from genealog.errors import MalformedError
from layouts import beside, survives, tensors

NOTHING = Path(__file__).parent / "nothing"
TYPED = [  # data types whose elements can stand in typed fields
    kind for kind in TYPES if kind not in (TensorProto.UINT2, TensorProto.INT2)
]


def read(data: bytes, folder: Path | None = None) -> Layout:
    siblings = beside(folder, "model.onnx") if folder else _alone
    return layout_of(io.BytesIO(data), len(data), path="model.onnx", siblings=siblings)


def _alone(location: str) -> io.BytesIO:
    raise MalformedError("sibling-missing", "a weights file names a file that is not there", got=location)


def model(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [], [], initializer=list(initializers))
    return helper.make_model(graph, producer_name="tests")


def array(name: str, kind: int, *, raw: bool, count: int = 6) -> onnx.TensorProto:
    """Make a tensor of any kind out of small numbers."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    values = np.arange(count).reshape(2, -1).astype(dtype)
    if raw:
        return numpy_helper.from_array(values, name)
    return helper.make_tensor(name, kind, values.shape, values.flatten().tolist())


def bytes_of(tensor: onnx.TensorProto) -> bytes:
    """Return the row-major little-endian bytes, through the onnx package: as it would write `raw_data` itself."""
    again = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    return bytes(again.raw_data)


@pytest.mark.parametrize("kind", TYPES)
def test_raw_and_typed_fields_are_the_same_bytes(kind: int) -> None:
    raw, typed = array("w", kind, raw=True), array("w", kind, raw=False) if kind in TYPED else None
    found = []
    for tensor in filter(None, (raw, typed)):
        data = model(tensor).SerializeToString()
        found.append(tensors(read(data), data)["w"])
        assert found[-1] == (TYPES[kind][0], (2, 3), bytes_of(tensor))
    assert all(item == found[0] for item in found)


def test_every_numeric_type_of_the_package_is_known() -> None:
    left_out = {TensorProto.UNDEFINED, TensorProto.STRING}
    assert set(TensorProto.DataType.values()) - left_out == set(TYPES)


def test_negative_numbers_and_floats_one_by_one() -> None:
    ints = helper.make_tensor("i", TensorProto.INT8, (3,), [-1, -128, 127])
    longs = helper.make_tensor("l", TensorProto.INT64, (2,), [-(2**63), 2**63 - 1])
    # as proto2 wrote them: each float with its own tag (field 4, wire type 5)
    loose = b"\x08\x02\x10\x01B\x01f" + b"".join(b"\x25" + np.float32(x).tobytes() for x in (1.5, -2))
    plain = model(ints, longs).SerializeToString()
    graph = b"\x2a" + bytes((len(loose),)) + loose
    data = plain + b"\x3a" + bytes((len(graph),)) + graph
    with pytest.raises(MalformedError) as caught:  # two graphs
        read(data)
    assert caught.value.code == "onnx-header"
    alone = b"\x3a" + bytes((len(graph),)) + graph
    assert tensors(read(alone), alone)["f"][2] == np.array([1.5, -2], "<f4").tobytes()
    found = tensors(read(plain), plain)
    assert found["i"][2] == b"\xff\x80\x7f"
    assert found["l"][2] == np.array([-(2**63), 2**63 - 1], "<i8").tobytes()


def test_inner_graphs_sparse_text_and_constants() -> None:
    inner = helper.make_graph([], "then", [], [], initializer=[array("w", TensorProto.FLOAT, raw=True)])
    node = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["k"], value=array("k", TensorProto.FLOAT, raw=True))
    words = helper.make_tensor("words", TensorProto.STRING, (1,), [b"hello"])
    whole = model(array("w", TensorProto.FLOAT, raw=True), words, nodes=(node, constant))
    sparse = onnx.SparseTensorProto(values=array("s", TensorProto.FLOAT, raw=True), dims=[9])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(6)))
    whole.graph.sparse_initializer.append(sparse)
    data = whole.SerializeToString()
    layout = read(data)
    assert sorted(tensors(layout, data)) == ["choose/else_branch/w", "choose/then_branch/w", "w"]
    codes = [warning.partition(":")[0] for warning in layout.warnings]
    assert codes == ["onnx-sparse", "onnx-strings", "onnx-constants"]
    assert layout.unread
    assert dict(layout.metadata)["onnx.producer"] == "tests"


def external(folder: Path) -> bytes:
    whole = model(array("a", TensorProto.FLOAT, raw=True), array("b", TensorProto.INT64, raw=True, count=600))
    onnx.save_model(
        whole, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return (folder / "model.onnx").read_bytes()


def test_external_data_is_read_beside_the_model(tmp_path: Path) -> None:
    data = external(tmp_path)
    found = tensors(read(data, tmp_path), data)
    assert found["a"][2] == np.arange(6, dtype="<f4").tobytes()
    assert found["b"] == ("I64", (2, 300), np.arange(600, dtype="<i8").tobytes())


def test_external_data_that_is_not_there_gives_no_tensors(tmp_path: Path) -> None:
    layout = read(external(tmp_path))
    assert not layout.runs
    assert not layout.loose
    assert layout.warnings == (
        "onnx-external-missing: model.onnx: named, and not beside it: no tensor was read: weights.bin",
    )


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../x", "", "a\0b", "..\\x"])
def test_external_data_never_leaves_the_tree(tmp_path: Path, location: str) -> None:
    external(tmp_path)
    whole = onnx.load_model(str(tmp_path / "model.onnx"), load_external_data=False)
    for tensor in whole.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    with pytest.raises(MalformedError) as caught:
        read(whole.SerializeToString(), tmp_path)
    assert caught.value.code == "sibling-outside"


def test_external_data_that_was_cut_is_refused(tmp_path: Path) -> None:
    data = external(tmp_path)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(MalformedError) as caught:
        read(data, tmp_path)
    assert caught.value.code == "onnx-truncated"


def broken(**changes: object) -> onnx.TensorProto:
    tensor = array("w", TensorProto.FLOAT, raw=True)
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(tensor, name)[:] = value
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x08\x0a", "onnx-header"),
        (b"\x08", "onnx-truncated"),
        (b"\x3a\xff\xff\xff\xff\x0f", "onnx-truncated"),
        (b"\x0b", "onnx-header"),
        (b"\x00\x00", "onnx-header"),
        (b"\x08" + b"\xff" * 10, "onnx-header"),
        (model(broken(), broken()).SerializeToString(), "onnx-duplicate-name"),
        (model(broken(dims=[2, 4])).SerializeToString(), "onnx-tensor"),
        (model(broken(dims=[-1])).SerializeToString(), "onnx-tensor"),
        (model(broken(dims=[1] * 65)).SerializeToString(), "onnx-tensor"),
        (model(broken(dims=[1 << 52, 1 << 52])).SerializeToString(), "onnx-tensor"),
        (model(broken(data_type=99)).SerializeToString(), "onnx-tensor"),
    ],
)
def test_refuses(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(data)
    assert caught.value.code == code


@pytest.mark.parametrize("values", [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7], [300] * 6, [-200] * 6])
def test_elements_that_do_not_fit_are_refused(values: list[int]) -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT8, dims=[2, 3], int32_data=values)
    data = model(tensor).SerializeToString()
    with pytest.raises(MalformedError) as caught:
        tensors(read(data), data)
    assert caught.value.code == "onnx-tensor"


def field(number: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes((length & 127 | 128,)), length >> 7
    return bytes((number << 3 | 2,)) + size + bytes((length,)) + content


def test_graphs_nested_without_end_are_refused() -> None:
    graph = b""
    for _ in range(40):  # an attribute `g` of a node of a graph
        graph = field(1, field(5, field(1, b"then") + field(6, graph)))
    with pytest.raises(MalformedError) as caught:
        read(field(7, graph))
    assert caught.value.code == "onnx-header"


@pytest.fixture(scope="module")
def written() -> bytes:
    kinds = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.INT4)
    return model(*(array(f"{k}.{raw}", k, raw=raw) for k in kinds for raw in (True, False))).SerializeToString()


def test_every_truncation_is_refused(written: bytes) -> None:
    whole = tensors(read(written), written)
    for size in range(len(written)):
        found = survives(read, written[:size])
        assert found is None or found == whole  # what is cut came after the graph, as a message of its own


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=6))
def test_edited_bytes_never_surprise(written: bytes, place: float, value: bytes) -> None:
    at = int(place * len(written))
    survives(read, written[:at] + value + written[at + len(value) :])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_never_surprise(data: bytes) -> None:
    survives(read, data)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT64, TensorProto.DOUBLE]),
    numbers=st.lists(st.integers(0, 2**31 - 1), max_size=40), raw=st.booleans(),
)  # fmt: skip
def test_round_trip(kind: int, numbers: list[int], raw: bool) -> None:
    values = np.array(numbers, helper.tensor_dtype_to_np_dtype(kind))
    tensor = (
        numpy_helper.from_array(values, "x") if raw else helper.make_tensor("x", kind, values.shape, values.tolist())
    )
    data = model(tensor).SerializeToString()
    assert tensors(read(data), data)["x"] == (TYPES[kind][0], values.shape, values.tobytes())
