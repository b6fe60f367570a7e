"""What is deployed, as the clients of each dialect read it: OpenAI, Anthropic, Google, Ollama, KServe.

Only what may be served stands in a list. What a list says of a model besides its name is what the registry knows; a
field that a client needs and that means nothing here has the emptiest value that it can read.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from genealog.deploy import Live
from genealog.gateway.directory import Directory
from genealog.gateway.http1 import Request

_LONG_AGO = "1970-01-01T00:00:00Z"


def listing(path: str, request: Request, directory: Directory) -> Any:
    """Return what a GET of `path` shows; None where it is no list and no model of one."""
    if path in ("/v1/models", "/openai/v1/models"):
        serving = directory.serving()
        if request.first(b"anthropic-version") is not None:
            return _anthropic(serving)
        return {"object": "list", "data": [_openai(live) for live in serving]}
    if path in ("/v1beta/models", "/v1alpha/models"):
        return {"models": [_google(live) for live in directory.serving()]}
    if path == "/api/tags":
        return {"models": [_ollama(live) for live in directory.serving()]}
    for start, shape in (("/v1/models/", _openai), ("/openai/v1/models/", _openai), ("/v1beta/models/", _google)):
        if path.startswith(start):
            found = directory.look(unquote(path[len(start) :]))
            if found is not None and found.live is not None and found.refusal is None:
                return shape(found.live)
    return None


def _openai(live: Live) -> dict[str, Any]:
    facts = {"spec": live.spec, "models": live.body.models, "minimum_assurance": live.body.minimum_assurance}
    if live.tainted:
        facts["tainted"] = live.tainted
    return {"id": live.name, "object": "model", "created": 0, "owned_by": "genealog", "genealog": facts}


def _anthropic(serving: list[Live]) -> dict[str, Any]:
    data = [{"type": "model", "id": live.name, "display_name": live.name, "created_at": _LONG_AGO} for live in serving]
    names: list[str | None] = [live.name for live in serving]
    return {"data": data, "has_more": False, "first_id": (names or [None])[0], "last_id": (names or [None])[-1]}


def _google(live: Live) -> dict[str, Any]:
    methods = ["generateContent", "streamGenerateContent", "embedContent"]
    return {"name": f"models/{live.name}", "displayName": live.name, "supportedGenerationMethods": methods}


def _ollama(live: Live) -> dict[str, Any]:
    return {
        "name": live.name, "model": live.name, "modified_at": _LONG_AGO, "size": 0,
        "digest": live.spec.partition(":")[2], "details": {},
    }  # fmt: skip
