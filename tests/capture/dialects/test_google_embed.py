from __future__ import annotations

import json

import pytest
from google.genai import types
from hypothesis import given

from capture.dialects.reading import bodies, check_request, check_response, sha
from gateway.fake_google import VALUES, embeddings, error, predictions, whole
from genealog.capture.dialects.google_embed import read_request, read_response

FIELDS = ("embedding", "embeddings", "predictions", "values", "statistics", "token_count", "usageMetadata", "error",
          "content", "requests", "instances", "parts", "text", "model", "parameters", "promptTokenCount")  # fmt: skip


def test_each_vector_is_committed_to_whatever_the_shape() -> None:
    one, two = (read_response(whole(body), content_type="application/json") for body in (embeddings(), predictions()))
    assert one.content is not None
    assert one.content == two.content
    assert len(json.loads(one.content)["embeddings"]) == len(VALUES)
    assert two.usage == {"prompt_tokens": 8}
    single = read_response(whole({"embedding": {"values": VALUES[0]}}))
    assert single.content is not None
    assert json.loads(single.content)["embeddings"][0]["sha256"] == json.loads(one.content)["embeddings"][0]["sha256"]


def test_usage_is_what_the_client_reports() -> None:
    body = {**embeddings(), "usageMetadata": {"promptTokenCount": 9}}
    said = types.EmbedContentResponse.model_validate(body)
    assert read_response(whole(body)).usage == {"prompt_tokens": said.usage_metadata.prompt_token_count}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "request_",
    [
        {"model": "models/e", "content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY"},
        {"requests": [{"model": "models/e", "content": {"parts": [{"text": "a"}]}}]},
        {"instances": [{"content": "a", "task_type": "RETRIEVAL_QUERY"}], "parameters": {"outputDimensionality": 3}},
    ],
)
def test_each_text_is_a_part(request_: dict[str, object]) -> None:
    facts = read_request(json.dumps(request_).encode())
    assert [(part.index, part.role, part.type, part.sha256) for part in facts.parts] == [(0, "user", "text", sha("a"))]
    assert facts.last_texts == ("a",)


def test_an_error_leaves_its_status() -> None:
    facts = read_response(whole(error(400, "INVALID_ARGUMENT")), status=400)
    assert (facts.error, facts.content) == ("INVALID_ARGUMENT", None)


@given(bodies(FIELDS))
def test_nothing_makes_the_reader_fail(body: bytes) -> None:
    check_request(read_request(body))
    check_response(read_response(body))
