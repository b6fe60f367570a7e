"""KServe v2 inference over HTTP: tensors in JSON, or behind it as bytes. Triton, KServe, OpenVINO, MLServer speak it.

Where bytes follow the JSON, the header `Inference-Header-Content-Length` says where they begin, so it is read from the
headers on record; without it a body is JSON alone. With 0 the whole body is the one input of the model.

Each input and output is a part of its own (`tensors`), so `content` is the same for JSON and for bytes. Its `error` is
a text that may quote what was asked, so it stays in the body.

Source: KServe Open Inference Protocol v2, and Triton's extensions for binary tensor data, raw requests, shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genealog.capture.dialects.blocks import asked, parameters
from genealog.capture.dialects.foreign import (
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_word,
    decoded,
    read_object,
    spelled,
)
from genealog.capture.dialects.tensors import Tensor, content, from_json, shape_of
from genealog.core.call_groups import RequestFacts, ResponseFacts

LENGTH = "inference-header-content-length"
_WORDS = frozenset(("model_name", "model_version"))
_NOWHERE: Mapping[str, str] = {}


def read_request(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    content_type: str | None = None,  # noqa: ARG001
    headers: Mapping[str, str] = _NOWHERE,
) -> RequestFacts:
    """As `dialects.Reader`."""
    return asked(lambda: _request(body, headers))


def _request(body: bytes, headers: Mapping[str, str]) -> RequestFacts:
    data = decoded(body, headers.get("content-encoding", "identity").strip().lower())
    if headers.get(LENGTH) == "0":
        tensors = [Tensor("", "", (), data)]
        return RequestFacts({}, {}, parts=tuple(tensor.part(0) for tensor in tensors))
    request, rest = _split(data, headers)
    tensors = read_tensors(request.get("inputs"), rest)
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=("inputs",), opened=("parameters",)),
        sampler={},
        parts=tuple(tensor.part(0) for tensor in tensors),
        last_texts=tuple(text for tensor in tensors for text in tensor.texts()),
    )


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,  # noqa: ARG001
    content_encoding: str | None = None,
    headers: Mapping[str, str] = _NOWHERE,
) -> ResponseFacts:
    """As `dialects.Reader`."""
    error = "upstream-error" if status is not None and status >= 400 else None
    try:
        data = decoded(body, (content_encoding or "identity").strip().lower())
        if not data:
            return ResponseFacts(error=error)
        response, rest = _split(data, headers)
        tensors = read_tensors(response.get("outputs"), rest)
        return ResponseFacts(
            content=content([tensors]),
            texts=tuple(text for tensor in tensors for text in tensor.texts()),
            parts=tuple(tensor.part(0) for tensor in tensors),
            model=model_of(response),
            error="upstream-error" if "error" in response else error,
        )
    except Unreadable as unreadable:
        return ResponseFacts(error=error, malformed=str(unreadable))
    except RecursionError:
        return ResponseFacts(error=error, malformed="json-too-deep")


def model_of(response: Mapping[str, Any]) -> str | None:
    """Return what the server calls the model that answered, as it stands in paths: `echo/versions/1`."""
    name, version = as_word(response.get("model_name")), as_word(response.get("model_version"))
    return f"{name}/versions/{version}" if name and version else name


def _split(data: bytes, headers: Mapping[str, str]) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a body, and the bytes behind it. Raises: Unreadable `inference-header`, as `read_object`."""
    stated = headers.get(LENGTH)
    if stated is None:
        return read_object(data), b""
    length = int(stated) if stated.isascii() and stated.isdecimal() and len(stated) < 16 else len(data) + 1
    if length > len(data):
        raise Unreadable("inference-header")
    return read_object(data[:length]), data[length:]


def read_tensors(items: object, rest: bytes) -> list[Tensor]:
    """Read the inputs or outputs of a message, whose bytes stand in `rest`, one after the other.

    Raises: Unreadable `tensor-shape`, `tensor-bytes-missing`, `tensor-bytes-left`.
    """
    tensors: list[Tensor] = []
    at = 0
    for item in map(as_dict, as_list(items)):
        name, datatype = as_word(item.get("name")) or "", as_word(item.get("datatype")) or ""
        shape = shape_of(as_count(size) for size in as_list(item.get("shape")))
        said = as_dict(item.get("parameters"))
        if (size := as_count(said.get("binary_data_size"))) is not None:
            if at + size > len(rest):
                raise Unreadable("tensor-bytes-missing")
            tensors.append(Tensor(name, datatype, shape, rest[at : at + size]))
            at += size
        elif isinstance(data := item.get("data"), list):
            tensors.append(from_json(name, datatype, shape, data))
        else:
            tensors.append(Tensor(name, datatype, shape, None, spelled(said), elsewhere=True))
    if at != len(rest):
        raise Unreadable("tensor-bytes-left")
    return tensors
