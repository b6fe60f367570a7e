"""Whether an answer says by itself which model made it: the difference between A0 and A1.

A model name that only echoes what was asked for says nothing, so it takes another name or a fingerprint. Of a stream
the first event is read, of anything else the whole body; what cannot be read reports nothing.
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
    """Where dialects name the model: at the top; Google's version; inside of the first event of a stream."""

    model: str | None = None
    model_version: str | None = None
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
        if content_type.startswith("text/event-stream"):
            event = _DATA.search(data)
            data = event[1] if event else b""
        report = _decoder.decode(data)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    inner = report.message or report.response
    model = report.model or report.model_version or (inner.model if inner else None)
    return bool(report.system_fingerprint) or bool(model and model != asked)
