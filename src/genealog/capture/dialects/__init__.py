"""What vendors' bodies say: one module for each dialect, request and response bytes in, facts out.

A dialect is found by its name in a frame. Its module is imported when the first call of it is sequenced. To add one:
a module with `read_request` and `read_response`, a row here, its routes in `gateway.routes`, a row in
docs/reference/dialects.md. Nothing here fails: the call has happened, and what cannot be read is said in `malformed`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol, cast

from genealog.core.call import RequestFacts, ResponseFacts

MODULES = {
    "openai-chat": "openai_chat",
}


class Reader(Protocol):
    """A dialect. `operation` is the path that was asked for. A body may be cut anywhere, and be of any size."""

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
