"""Tensors of a layout as bytes, and hostile copies of a file: what tests of every format's reader share."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from genealog.capture.formats.siblings import Siblings, siblings_in
from genealog.capture.listing import list_tree
from genealog.core.layout import Layout
from genealog.errors import MalformedError

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
CODES = ("gguf-", "onnx-", "keras-", "hdf5-", "tensorflow-", "sibling-", "tensor-")
MUCH = 64 << 20  # no reader may hold so much for a file of some kilobytes


def tensors(layout: Layout, data: bytes) -> Tensors:
    """Return name → (dtype, shape, bytes) of everything that `layout` says of a file of these bytes."""
    found: Tensors = {run.name: (run.dtype, run.shape, data[run.start : run.stop]) for run in layout.runs}
    for loose in layout.loose:
        assert loose.name not in found
        found[loose.name] = (loose.dtype, loose.shape, b"".join(loose.read(io.BytesIO(data))))
    return found


def beside(folder: Path, path: str) -> Siblings:
    """Return how the file `path` of `folder` opens its siblings."""
    return siblings_in(list_tree(folder)[0], path)


def survives(read: Callable[[bytes], Layout], data: bytes) -> Tensors | None:
    """Read hostile bytes: tensors inside the file, or our own error, and little memory. Nothing else may come out."""
    tracemalloc.start()
    try:
        layout = read(data)
        for run in layout.runs:
            assert 0 <= run.start <= run.stop <= len(data)
        return tensors(layout, data)
    except MalformedError as error:
        assert error.code.startswith(CODES), error  # noqa: PT017 - either outcome will do
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MUCH, peak
