"""Google's embeddings: `embedContent` and `batchEmbedContents` of the Gemini API, `predict` of Vertex.

`content` has the digest of each vector, as that of OpenAI's embeddings has.

Source: ai.google.dev/api/embeddings,
docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.dialects.blocks import (
    Answer,
    asked,
    collect,
    field_of,
    known,
    parameters,
    sampler,
    total,
    word,
)
from genealog.capture.dialects.foreign import as_dict, as_list, as_strings, read_object
from genealog.capture.dialects.google_generate import content_parts, last_texts, usage_of
from genealog.core.call_groups import RequestFacts, ResponseFacts

_WORDS = frozenset(("model", "taskType", "task_type"))
_PARTS = ("content", "requests", "instances")


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`. Each text to embed is a part with an index of its own."""
    return asked(lambda: _request(read_object(body)))


def _request(request: dict[str, Any]) -> RequestFacts:
    contents = [request["content"]] if "content" in request else []
    contents += [as_dict(item).get("content") for item in as_list(request.get("requests"))]
    contents += [
        {"parts": [{"text": text} for text in as_strings(as_dict(item).get("content"))] or [item]}
        for item in as_list(request.get("instances"))
    ]
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=_PARTS, opened=("parameters",)),
        sampler=sampler({}, {}),
        parts=tuple(part for index, content in enumerate(contents) for part in content_parts(index, content)),
        last_texts=last_texts(contents[-1]) if contents else (),
    )


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,  # noqa: ARG001
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`."""
    answer = Answer(status)
    return collect(answer, body, content_encoding, lambda data: _take(answer, read_object(data)))


def _take(answer: Answer, item: dict[str, Any]) -> None:
    if "error" in item:
        answer.fail(item["error"])
    answer.model = word(item, "modelVersion")
    found = [as_dict(item["embedding"])] if "embedding" in item else []
    found += [as_dict(one) for one in as_list(item.get("embeddings"))]
    found += [as_dict(as_dict(one).get("embeddings")) for one in as_list(item.get("predictions"))]
    answer.vectors = [one["values"] for one in found if "values" in one]
    counted = total(*(field_of(as_dict(one.get("statistics")), "tokenCount") for one in found))
    usage = usage_of(as_dict(field_of(item, "usageMetadata"))) or known({"prompt_tokens": counted})
    answer.usage = usage or None
