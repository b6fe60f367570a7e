"""Keras 3 `.keras` files: a zip with a configuration and an HDF5 file of weights, read in place.

The weights have the names that they have in the HDF5 file (`layers/dense/vars/0`), so `model.keras` and
`model.weights.h5` of one model have one weights ID. A configuration may hold Python bytecode (a Lambda layer): it is
never run here, and a warning `keras-code` says that loading the model would.

Source: Keras 3.15 `saving_lib`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from genealog.capture.formats.hdf5 import read_hdf5
from genealog.capture.formats.zips import Member, read_members, unpack
from genealog.core.layout import Layout
from genealog.errors import MalformedError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_JSON = 16 << 20
MAX_OBJECTS = 5_000_000


def layout_of(file: BinaryIO, size: int, *, path: str) -> Layout:
    """Return the weights of a `.keras` file.

    Raises: MalformedError `keras-zip`, `keras-config`, and as `hdf5.read_hdf5`.
    """
    members = read_members(file, size, format_="keras")
    if missing := [name for name in (CONFIG, METADATA, WEIGHTS) if name not in members]:
        raise _bad("config", "this is no Keras 3 model", got=f"no {', '.join(missing)}")
    weights = members[WEIGHTS]
    warnings = (f"keras-code: {path}: loading this model runs code that its configuration holds",) * holds_code(
        _json(file, members[CONFIG])
    )
    facts = _json(file, members[METADATA])
    version = facts.get("keras_version") if isinstance(facts, Mapping) else None
    metadata = (("keras.keras_version", str(version)),) if version else ()
    if not weights.stored:  # Keras stores it; what was packed again is read by nobody in place
        packed = f"keras-packed: {path}: the weights inside are compressed: their tensors are not in the weights ID"
        return Layout("keras", warnings=(*warnings, packed), metadata=metadata, unread=True)
    inside = read_hdf5(file, weights.size, base=weights.start, format_="keras", path=path)
    return Layout(
        format="keras",
        runs=inside.runs,
        loose=inside.loose,
        warnings=(*warnings, *inside.warnings),
        metadata=(*metadata, *(pair for pair in inside.metadata if pair[0] != "keras.keras_version")),
        unread=inside.unread,
    )


def holds_code(config: object) -> bool:
    """Tell whether a Keras configuration holds marshalled functions, as a Lambda layer keeps them."""
    for count, value in enumerate(_values(config)):
        if count > MAX_OBJECTS:
            raise _bad("config", "the configuration is too big", expected=f"≤ {MAX_OBJECTS} values")
        if isinstance(value, Mapping) and value.get("class_name") in ("__lambda__", "Lambda"):
            return True
    return False


def _values(root: object) -> Iterator[object]:
    open_ = [root]
    while open_:
        value = open_.pop()
        yield value
        if isinstance(value, Mapping):
            open_.extend(value.values())
        elif isinstance(value, list):
            open_.extend(value)


def _json(file: BinaryIO, member: Member) -> Any:
    if member.size > MAX_JSON:
        raise _bad("config", f"{member.name} is too big", got=member.size, expected=f"≤ {MAX_JSON} bytes")
    try:
        return json.loads(b"".join(unpack(file, member, format_="keras")))
    except (ValueError, RecursionError):
        raise _bad("config", f"{member.name} is not JSON") from None


def _bad(code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError(f"keras-{code}", message, got=got, expected=expected, hint="download or save the file again")
