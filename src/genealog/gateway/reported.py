"""Whether an answer says by itself which model made it: the difference between A0 and A1.

A model name that only echoes what was asked for says nothing, so it takes another name or a fingerprint. Of a stream
the first event is read, and the last one with a fingerprint; of anything else the whole body. What cannot be read
reports nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import msgspec

_MOST = 8 * 1024 * 1024
_DATA = re.compile(rb"^data: ?(.*)$", re.MULTILINE)


class _Inner(msgspec.Struct):
    model: str | None = None


class _Report(msgspec.Struct, rename={"model_version": "modelVersion"}):
    """Where dialects name the model: at the top; Google's version; KServe's name; inside of the first event."""

    model: str | None = None
    model_version: str | None = None
    model_name: str | None = None
    system_fingerprint: str | None = None
    message: _Inner | None = None
    response: _Inner | None = None


_decoder = msgspec.json.Decoder(_Report)


def reports_itself(body: Iterable[bytes], *, content_type: str, content_encoding: str, asked: str) -> bool:
    """Say whether the response body (its chunks) names a model other than `asked`, or a fingerprint."""
    data = b"".join(body)
    try:
        if content_encoding not in ("", "identity"):
            data = zlib.decompressobj(wbits=47).decompress(data, _MOST)  # 47: gzip or zlib, by its head
        if not content_type.startswith("text/event-stream"):
            return _says(data, asked)
        first = _DATA.search(data)
        if first is not None and _says(first[1], asked):
            return True
        last = data.rfind(b'"system_fingerprint"')  # vLLM says it at the end only
        return last >= 0 and _says(_DATA.findall(data[data.rfind(b"data:", 0, last) :])[0], asked)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError):
        return False


def _says(data: bytes, asked: str) -> bool:
    report = _decoder.decode(data)
    inner = report.message or report.response
    model = report.model or report.model_version or report.model_name or (inner.model if inner else None)
    return bool(report.system_fingerprint) or bool(model and model != asked)
