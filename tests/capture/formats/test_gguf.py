"""GGUF: what the header says is what the `gguf` package wrote and reads; hostile headers are refused in bounds."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.capture.formats.gguf import layout_of
from genealog.core.gguf import TYPES
from genealog.core.layout import Layout
from genealog.errors import MalformedError
from layouts import survives, tensors


def read(data: bytes) -> Layout:
    return layout_of(io.BytesIO(data), len(data), path="model.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(*, tensors: int = 0, pairs: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs)) + b"".join(pairs)


def info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def sample(path: Path, *, alignment: int = 32) -> bytes:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_custom_alignment(alignment)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "b", "é"])
    writer.add_array("numbers", [1, 2, 3])
    generator = np.random.default_rng(0)
    writer.add_tensor("blk.0.weight", generator.standard_normal((3, 5)).astype(np.float32))
    writer.add_tensor("blk.1.weight", generator.standard_normal((2, 3, 4)).astype(np.float16))
    writer.add_tensor("ids", np.arange(7, dtype=np.int64))
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.BF16):
        values = generator.standard_normal((4, 64)).astype(np.float32)
        writer.add_tensor(f"q.{kind.name}", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sample(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def agrees_with_gguf(path: Path, layout: Layout) -> None:
    import gguf

    theirs = gguf.GGUFReader(path).tensors
    assert len(theirs) == len(layout.runs)
    for tensor, run in zip(theirs, layout.runs, strict=True):
        assert run.name == tensor.name
        assert run.dtype.removeprefix("GGML:") == tensor.tensor_type.name
        assert run.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (run.start, run.stop) == (int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes))


@pytest.mark.parametrize("alignment", [32, 64])
def test_agrees_with_the_gguf_package(tmp_path: Path, alignment: int) -> None:
    data = sample(tmp_path / "tiny.gguf", alignment=alignment)
    layout = read(data)
    agrees_with_gguf(tmp_path / "tiny.gguf", layout)
    found = tensors(layout, data)
    assert found["blk.0.weight"][:2] == ("F32", (3, 5))
    assert found["q.Q4_1"][:2] == ("GGML:Q4_1", (4, 64))
    assert found["q.BF16"][:2] == ("BF16", (4, 64))
    assert found["ids"] == ("I64", (7,), np.arange(7, dtype="<i8").tobytes())
    metadata = dict(layout.metadata)
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.name"] == "tiny"
    assert metadata["tokenizer.chat_template"] == "sha256:" + hashlib.sha256(b"{{ messages }}").hexdigest()
    assert metadata["tokenizer.ggml.tokens"].startswith("sha256:")


def test_knows_every_type_of_the_gguf_package() -> None:
    import gguf

    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert theirs == TYPES


@pytest.mark.real
def test_the_real_model() -> None:
    from genealog.demo.training import gguf_path

    path = gguf_path()
    with path.open("rb") as file:
        layout = layout_of(file, path.stat().st_size, path=path.name)
    assert len(layout.runs) == 272
    agrees_with_gguf(path, layout)


def test_nested_arrays_are_stepped_over() -> None:
    inner = struct.pack("<IQ", 0, 2) + b"\1\2"
    nested = text("deep") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 2) + inner + inner
    data = header(tensors=1, pairs=(nested,)) + info("x", (2,), 24, 0)
    data += bytes(-len(data) % 32) + b"\7\10"
    assert tensors(read(data), data) == {"x": ("I8", (2,), b"\7\10")}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GGUF", "gguf-header"),
        (header(version=1), "gguf-version"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "gguf-version"),
        (header(version=4), "gguf-version"),
        (header(tensors=1 << 60), "gguf-truncated"),
        (header(pairs=(text("a") + struct.pack("<IB", 0, 1),) * 2), "gguf-duplicate-key"),
        (header(pairs=(text("a") + struct.pack("<IIQ", 9, 0, 1 << 62),)), "gguf-truncated"),
        (header(pairs=(text("a") + struct.pack("<IIQ", 9, 8, 1 << 62),)), "gguf-truncated"),
        (header(pairs=(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20,)), "gguf-header"),
        (header(pairs=(text("a") + struct.pack("<IQ", 8, 1 << 40),)), "gguf-truncated"),
        (header(pairs=(text("a") + struct.pack("<IB", 7, 2),)), "gguf-header"),
        (header(pairs=(text("a") + struct.pack("<IB", 99, 2),)), "gguf-header"),
        (header(pairs=(text("general.alignment") + struct.pack("<II", 4, 12),)), "gguf-header"),
        (header(tensors=1) + info("x", (1,) * 5, 0, 0), "gguf-header"),
        (header(tensors=1) + info("x", (2,), 77, 0), "gguf-header"),
        (header(tensors=1) + info("x", (33,), 8, 0), "gguf-header"),
        (header(tensors=1) + info("x", (1 << 40, 1 << 40), 0, 0), "gguf-header"),
        (header(tensors=1) + info("x", (2,), 24, 8), "gguf-header"),
        (header(tensors=1) + info("x", (200,), 24, 0), "gguf-truncated"),
        (header(tensors=1) + info("x", (2,), 24, 32) + bytes(100), "gguf-overlap"),
        (header(tensors=2) + info("x", (2,), 24, 0) + info("x", (2,), 24, 32) + bytes(100), "gguf-duplicate-key"),
        (header(tensors=2) + info("x", (2,), 24, 0) + info("y", (2,), 24, 0) + bytes(100), "gguf-overlap"),
        (header(tensors=1) + info("x", (2,), 24, 0) + bytes(200), "gguf-overlap"),
    ],
)  # fmt: skip
def test_refuses(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(data)
    assert caught.value.code == code


def test_every_truncation_is_refused(written: bytes) -> None:
    whole = tensors(read(written), written)
    for size in range(0, len(written), 7):
        found = survives(read, written[:size])
        assert found is None or found == whole  # all that is cut is padding


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=9))
def test_edited_bytes_never_surprise(written: bytes, place: float, value: bytes) -> None:
    at = int(place * len(written))
    survives(read, written[:at] + value + written[at + len(value) :])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_random_headers_never_surprise(data: bytes) -> None:
    survives(read, b"GGUF\3\0\0\0" + data)


KINDS = st.sampled_from(["f4", "f2", "f8", "i1", "i2", "i4", "i8"])
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(arrays=st.dictionaries(st.text(min_size=1, max_size=20), st.tuples(KINDS, SHAPES), min_size=1, max_size=6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, tuple[str, list[int]]]) -> None:
    import gguf

    path = tmp_path_factory.mktemp("round") / "x.gguf"
    writer = gguf.GGUFWriter(path, "test")
    made = {}
    for name, (kind, shape) in arrays.items():
        made[name] = np.arange(np.prod(shape)).astype(f"<{kind}").reshape(shape)
        writer.add_tensor(name, made[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = path.read_bytes()
    spelled = {"f": "F", "i": "I"}
    assert tensors(read(data), data) == {
        name: (spelled[a.dtype.kind] + str(a.dtype.itemsize * 8), a.shape, a.tobytes()) for name, a in made.items()
    }
