"""The weights root and the tensor list: published vectors, one spelling."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.safetensors import DTYPE_BITS
from genealog.core.weights import TensorEntry, decode_tensors, diff_tensors, encode_tensors, weights_root
from genealog.errors import MalformedError

VECTOR_LEAVES = (
    '{"dtype":"F32","name":"lm_head.weight","sha256":"ad73b9acd6e4a74b2f5bb5386658ce3bb146cd040a1867646ab3b973fb6632b1","shape":[2,2],"t":"genealog/tensor/v1"}',
    '{"dtype":"BF16","name":"model.norm.weight","sha256":"d8bb9aa76809cb163204bc91ab5ce83e79014dc3bad1b04bca1afcd3e2f34160","shape":[3],"t":"genealog/tensor/v1"}',
    '{"dtype":"I64","name":"scalar","sha256":"9db26f8ea010babf6afb228a7b257afe54c28f98cd0b246a2f16dc14d16336d7","shape":[],"t":"genealog/tensor/v1"}',
)
VECTOR_ID = "glw1:ef85ec6f4266cb5f2198e36848d029d697f4e8eb791b491a8ed2933c27b02e75"


def tensor(name: str, data: bytes = b"", dtype: str = "U8", shape: tuple[int, ...] | None = None) -> TensorEntry:
    digest = hashlib.sha256(data).hexdigest()
    return TensorEntry(dtype=dtype, name=name, sha256=digest, shape=(len(data),) if shape is None else shape)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
shapes = st.lists(st.integers(0, 2**53 - 1), max_size=4).map(tuple)
tensors = st.builds(tensor, names, st.binary(max_size=4), st.sampled_from([*DTYPE_BITS, "GGML:Q4_1"]), shapes)
models = st.lists(tensors, min_size=1, max_size=8, unique_by=lambda item: item.name)


def test_vector() -> None:
    entries = [
        tensor("lm_head.weight", struct.pack("<4f", 1, 2, 3, 4), "F32", (2, 2)),
        tensor("model.norm.weight", bytes.fromhex("803f00400040"), "BF16", (3,)),
        tensor("scalar", struct.pack("<q", -7), "I64", ()),
    ]
    assert tuple(encode(item).decode() for item in entries) == VECTOR_LEAVES
    assert weights_root(entries) == VECTOR_ID
    assert weights_root(reversed(entries)) == VECTOR_ID


@given(models)
def test_tensor_list_round_trip(entries: list[TensorEntry]) -> None:
    data = encode_tensors(entries)
    read = decode_tensors(data)
    assert set(read) == set(entries)
    assert [item.name.encode() for item in read] == sorted(item.name.encode() for item in entries)
    assert encode_tensors(read) == data
    for other in (b" " + data, data + b"\n", data.replace(b":", b": ", 1)):
        with pytest.raises(MalformedError):
            decode_tensors(other)


@given(models)
def test_every_field_counts(entries: list[TensorEntry]) -> None:
    first, *rest = entries
    root = weights_root(entries)
    flat = TensorEntry(dtype=first.dtype, name=first.name, sha256=first.sha256, shape=(*first.shape, 1))
    cast = TensorEntry(dtype=first.dtype + "X", name=first.name, sha256=first.sha256, shape=first.shape)
    assert root != weights_root([flat, *rest])
    assert root != weights_root([cast, *rest])


def test_refusals() -> None:
    one = encode(tensor("a"))
    for data, code in (
        (b'{"t":"genealog/tensors/v1","tensors":[]}', "no-tensors"),
        (b'{"t":"genealog/tensors/v1","tensors":[%b,%b]}' % (one, one), "not-sorted"),
        (b'{"tensors":[%b]}' % one, "not-canonical"),
    ):
        with pytest.raises(MalformedError) as caught:
            decode_tensors(data)
        assert caught.value.code == code
    with pytest.raises(MalformedError, match="duplicate-tensor"):
        weights_root([tensor("a"), tensor("a", b"1")])
    with pytest.raises(MalformedError, match="no-tensors"):
        weights_root([])
    with pytest.raises(MalformedError, match="bad-shape"):
        tensor("a", shape=(-1,))
    with pytest.raises(MalformedError, match="bad-shape"):
        tensor("a", shape=(1,) * 65)
    with pytest.raises(MalformedError, match="bad-shape"):
        tensor("a", shape=(2**53,))
    with pytest.raises(MalformedError, match="bad-dtype"):
        tensor("a", dtype="float32")
    with pytest.raises(MalformedError, match="text-not-unicode"):
        weights_root([tensor("\ud800")])


def test_difference_names_the_layers() -> None:
    old = [tensor("embed", b"1"), tensor("norm", b"2")]
    new = [tensor("embed", b"9"), tensor("norm", b"2"), tensor("lora", b"3")]
    difference = diff_tensors(old, new)
    assert (difference.changed, difference.added, difference.removed) == (("embed",), ("lora",), ())
