"""Weights: the tensors of a model, and the weights ID over them.

    leaf = {"dtype":"F32","name":"lm_head.weight","sha256":"ad73…","shape":[2,2],"t":"genealog/tensor/v1"}

Leaves are sorted by the UTF-8 bytes of the tensor name. File names, offsets and shards do not enter, so the ID
survives re-packaging, and two versions can be compared tensor by tensor. Tied names are all listed.
No format is read here (`core.safetensors` knows headers) and no tensor is hashed (`capture.safetensors` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from genealog.core.canonical import MAX_INTEGER, Record, decode, encode
from genealog.core.ids import WeightsId
from genealog.core.manifest import Difference, check_sha256, compare, in_order
from genealog.core.merkle import leaf_hash, tree_root
from genealog.errors import MalformedError

MAX_RANK = 64

_DTYPE = re.compile(r"(GGML:)?[A-Z0-9_]{1,32}")


class TensorEntry(Record, tag_field="t", tag="genealog/tensor/v1"):
    """One tensor. Its canonical bytes are a leaf of the weights ID; `sha256` is over row-major little-endian bytes."""

    dtype: str
    name: str
    sha256: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-digest`, `bad-dtype`, `bad-shape`."""
        check_sha256(self.sha256)
        if not _DTYPE.fullmatch(self.dtype):
            raise MalformedError("bad-dtype", "not a dtype", got=repr(self.dtype)[:80], expected="BF16, GGML:Q4_1, …")
        if len(self.shape) > MAX_RANK or any(not 0 <= size <= MAX_INTEGER for size in self.shape):
            raise MalformedError("bad-shape", f"the shape of {self.name!r} is out of range", got=self.shape)


class TensorList(Record, tag_field="t", tag="genealog/tensors/v1"):
    """The tensors of one set of weights, sorted by name."""

    tensors: tuple[TensorEntry, ...]

    def __post_init__(self) -> None:
        """Raises: MalformedError `no-tensors`, `not-sorted`."""
        if not self.tensors:
            raise MalformedError("no-tensors", "weights have at least one tensor")
        if any(a.name >= b.name for a, b in pairwise(self.tensors)):
            raise MalformedError("not-sorted", "the tensor names are not sorted, or one stands twice")


def weights_root(entries: Iterable[TensorEntry]) -> WeightsId:
    """Return the weights ID over `entries`, in whatever order they come, from however many files.

    Raises: MalformedError `no-tensors`, `duplicate-tensor`.
    """
    tensors = _sorted_tensors(entries).tensors
    return WeightsId("glw1:" + tree_root([leaf_hash(encode(entry)) for entry in tensors]).hex())


def encode_tensors(entries: Iterable[TensorEntry]) -> bytes:
    """Return the canonical tensor list. Raises: MalformedError `no-tensors`, `duplicate-tensor`."""
    return encode(_sorted_tensors(entries))


def decode_tensors(data: bytes) -> tuple[TensorEntry, ...]:
    """Read a tensor list in its one spelling. Raises: MalformedError, as `canonical.decode` and `TensorList` do."""
    return decode(data, TensorList).tensors


def diff_tensors(old: Iterable[TensorEntry], new: Iterable[TensorEntry]) -> Difference:
    """Return the tensor names that differ between two sets of weights."""
    return compare({entry.name: entry for entry in old}, {entry.name: entry for entry in new})


def _sorted_tensors(entries: Iterable[TensorEntry]) -> TensorList:
    return TensorList(tensors=in_order(entries, lambda entry: entry.name, code="duplicate-tensor"))
