"""What vendors' bodies say: one module for each dialect, request and response bytes in, facts out.

A dialect is found by its name in a frame. Its module is imported when the first call of it is sequenced. To add one:
a module with `read_request` and `read_response`, a row here, its routes in `gateway.routes`, a row in
docs/reference/dialects.md. Nothing here fails: the call has happened, and what cannot be read is said in `malformed`.
Not even a mistake in a reader does: one body that nobody thought of must not keep all calls behind it from the log.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from genealog.core.call_groups import NO_REQUEST_FACTS, NO_RESPONSE_FACTS, RequestFacts, ResponseFacts
from genealog.core.frames import Intent, Outcome

MODULES = {
    "anthropic-messages": "anthropic_messages",
    "bedrock": "bedrock",
    "google-embed": "google_embed",
    "google-generate": "google_generate",
    "ollama": "ollama",
    "kserve-grpc": "kserve_grpc",
    "kserve-http": "kserve_http",
    "openai-audio": "openai_audio",
    "openai-chat": "openai_chat",
    "openai-completions": "openai_completions",
    "openai-embeddings": "openai_embeddings",
    "openai-images": "openai_images",
    "openai-responses": "openai_responses",
    "triton-generate": "triton_generate",
}
_BY_HEADERS = frozenset(
    ("bedrock", "kserve-http")
)  # whose readers take `headers` too: those on record, names in lower case

log = logging.getLogger("genealog.dialects")


class Reader(Protocol):
    """A dialect. `operation` is the path that was asked for. A body may be cut anywhere, and be of any size.

    A dialect in `_BY_HEADERS` needs a header to know where a body's parts begin; its functions take one more argument,
    `headers: Mapping[str, str]`.
    """

    def read_request(self, body: bytes, *, operation: str, content_type: str | None) -> RequestFacts:
        """Say what a request asks."""

    def read_response(
        self,
        body: bytes,
        *,
        operation: str,
        status: int | None,
        content_type: str | None,
        content_encoding: str | None,
    ) -> ResponseFacts:
        """Say what a response says, whole or streamed, complete or cut, an answer or an error."""


@cache
def reader(dialect: str) -> Reader | None:
    """Return the reader of a dialect; None for `opaque`, and for one that another version knows."""
    module = MODULES.get(dialect)
    return cast("Reader", import_module(f"{__name__}.{module}")) if module else None


def read_intent(intent: Intent) -> RequestFacts:
    """Say what the request of a call asks, as its dialect reads it."""
    dialect = reader(intent.dialect)
    if dialect is None:
        return NO_REQUEST_FACTS
    try:
        return dialect.read_request(
            intent.request,
            operation=intent.operation,
            content_type=intent.content_type,
            **_more(intent.dialect, intent.headers),
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote the body
        _say(intent, "request", error)
        return RequestFacts({}, {}, malformed="reader-failed")


def read_answer(
    dialect: str, body: bytes, *, operation: str, status: int | None, content_type: str | None,
    content_encoding: str | None, headers: Mapping[str, str],
) -> ResponseFacts:  # fmt: skip
    """Say what a response says, as a dialect reads it. Raises: whatever a mistake in its reader raises."""
    found = reader(dialect)
    if found is None:
        return NO_RESPONSE_FACTS
    return found.read_response(
        body, operation=operation, status=status, content_type=content_type, content_encoding=content_encoding,
        **_more(dialect, headers),
    )  # fmt: skip


def read_outcome(intent: Intent, outcome: Outcome) -> ResponseFacts:
    """Say what the response of a call says, as its dialect reads it."""
    try:
        return read_answer(
            intent.dialect, outcome.response, operation=intent.operation, status=outcome.status,
            content_type=outcome.content_type, content_encoding=outcome.content_encoding, headers=outcome.headers,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - as above
        _say(intent, "response", error)
        return ResponseFacts(malformed="reader-failed")


def _say(intent: Intent, side: str, error: Exception) -> None:
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("the %s of call %s (%s): %s\n%s", side, intent.call, intent.dialect, type(error).__name__, where)


def _more(dialect: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {"headers": headers} if dialect in _BY_HEADERS else {}
