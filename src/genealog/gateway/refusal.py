"""How the gateway says no: one JSON body that both RFC 9457 readers and OpenAI clients understand.

    {"type": "urn:genealog:error:<code>", "title", "status", "code", "hint",
     "error": {"message", "type", "code", "hint"}}

Nothing of the request comes back but the name it asked for, cut short.
"""

from __future__ import annotations

from typing import Any

import msgspec

from genealog.errors import GenealogError

_STATUS = {"body-too-large": 413, "method-not-allowed": 405}
_RETRY = {"spool-unwritable": b"1", "registry-stale": b"1", "gateway-busy": b"1", "gateway-behind": b"5"}


def status_of(error: GenealogError) -> int:
    """Return the HTTP status of a refusal."""
    return _STATUS.get(error.code, error.http_status)


def refusal(error: GenealogError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body for `error`."""
    status = status_of(error)
    body = msgspec.json.encode(problem(error))
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    if error.code in _RETRY:
        headers.append((b"retry-after", _RETRY[error.code]))
    headers += getattr(error, "headers", ())  # how to authenticate, when to try again
    return status, headers, body


def problem(error: GenealogError) -> dict[str, Any]:
    """Return the body as JSON values."""
    status = status_of(error)
    inner = {"message": str(error), "type": _openai_type(status), "code": error.code}
    if error.hint is not None:
        inner["message"] += f"; {error.hint}"  # clients show nothing but the message
        inner["hint"] = error.hint
    return {**error.problem(), "status": status, "error": inner}


def _openai_type(status: int) -> str:
    """Return the word that OpenAI's own servers use for such a status."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    if status == 402:
        return "insufficient_quota"
    if status == 403:
        return "permission_error"
    if status == 404:
        return "not_found_error"
    return "invalid_request_error" if status < 500 else "server_error"
