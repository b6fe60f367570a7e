from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.gateway.routes import route, streams_by_default

VERTEX = "/v1/projects/p/locations/eu"
BETA = "/v1beta1/projects/p/locations/eu"
ARN = "arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Ainference-profile%2Feu.anthropic.claude-x-v1%3A0"


# Paths as the vendors' clients send them


@pytest.mark.parametrize(
    ("path", "dialect", "name", "streams"),
    [
        # OpenAI and Azure
        ("/v1/chat/completions", "openai-chat", None, None),
        ("/openai/v1/chat/completions", "openai-chat", None, None),
        ("/v1beta/openai/chat/completions", "openai-chat", None, None),
        (f"{VERTEX}/endpoints/openapi/chat/completions", "openai-chat", None, None),
        ("/v1beta/openai/embeddings", "openai-embeddings", None, False),
        ("/openai/deployments/prod%2Fbot/chat/completions", "openai-chat", "prod/bot", None),
        ("/openai/deployments/prod/bot/embeddings", "openai-embeddings", "prod/bot", False),
        ("/v1/audio/transcriptions", "openai-audio", None, None),
        # Anthropic
        ("/v1/messages", "anthropic-messages", None, None),
        (f"{VERTEX}/publishers/anthropic/models/prod%2Fbot:rawPredict", "anthropic-messages", "prod/bot", None),
        (f"{VERTEX}/publishers/anthropic/models/claude-x@20260101:streamRawPredict", "anthropic-messages",
         "claude-x@20260101", True),
        # Google, Gemini API
        ("/v1beta/models/bot:generateContent", "google-generate", "bot", False),
        ("/v1/models/prod/bot:generateContent", "google-generate", "prod/bot", False),
        ("/v1alpha/models/bot:streamGenerateContent", "google-generate", "bot", True),
        ("/v1beta/tunedModels/x:generateContent", "google-generate", "x", False),
        ("/v1beta/models/emb:batchEmbedContents", "google-embed", "emb", False),
        ("/v1beta/models/emb:embedContent", "google-embed", "emb", False),
        # Google, Vertex: with a project, with an API key, tuned models at endpoints
        (f"{BETA}/publishers/google/models/bot:generateContent", "google-generate", "bot", False),
        (f"{BETA}/publishers/prod/models/bot:generateContent", "google-generate", "prod/bot", False),
        (f"{BETA}/publishers/google/models/bot:streamGenerateContent", "google-generate", "bot", True),
        (f"{BETA}/models/bot:generateContent", "google-generate", "bot", False),
        (f"{BETA}/endpoints/12:generateContent", "google-generate", "12", False),
        (f"{BETA}/endpoints/12:streamGenerateContent", "google-generate", "12", True),
        ("/v1beta1/publishers/google/models/bot:generateContent", "google-generate", "bot", False),
        ("/v1beta1/publishers/google/models/bot:streamGenerateContent", "google-generate", "bot", True),
        ("/v1beta1/models/bot:generateContent", "google-generate", "bot", False),
        (f"{BETA}/publishers/google/models/emb:predict", "google-embed", "emb", False),
        ("/v1beta1/publishers/google/models/emb:embedContent", "google-embed", "emb", False),
        # Bedrock
        ("/model/prod%2Fbot/converse", "bedrock", "prod/bot", False),
        ("/model/anthropic.claude-x-v1%3A0/converse-stream", "bedrock", "anthropic.claude-x-v1:0", True),
        ("/model/anthropic.claude-x-v1:0/invoke", "bedrock", "anthropic.claude-x-v1:0", False),
        (f"/model/{ARN}/invoke-with-response-stream", "bedrock",
         "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-x-v1:0", True),
        # Ollama
        ("/api/chat", "ollama", None, None),
        ("/api/generate", "ollama", None, None),
        ("/api/embed", "ollama", None, False),
        ("/api/embeddings", "ollama", None, False),
        # KServe and Triton
        ("/v2/models/prod/bot/infer", "kserve-http", "prod/bot", False),
        ("/v2/models/bot/versions/3/infer", "kserve-http", "bot", False),
        ("/v2/models/bot/generate_stream", "triton-generate", "bot", True),
    ],
)  # fmt: skip
def test_what_clients_send(path: str, dialect: str, name: str | None, streams: bool | None) -> None:
    found = route("POST", path)
    assert (found.dialect, found.name, found.streams) == (dialect, name, streams)
    assert (found.operation, found.refused, route("PUT", path).refused) == (path, None, None)
    assert found.named_by == ("path" if name is not None else found.named_by)
    assert route("GET", path).dialect == "opaque"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        f"{VERTEX}/publishers/anthropic/models/count-tokens:rawPredict",
        "/v1beta/models/bot:countTokens",
        f"{BETA}/publishers/google/models/bot:countTokens",
        "/v1beta/models/bot:batchGenerateContent",
        f"{BETA}/endpoints/12:predict",
        "/model/m/count-tokens",
        "/model//converse",
        "/api/pull",
        "/v1/models",
        "/",
        "*",
    ],
)
def test_everything_else_is_opaque(path: str) -> None:
    found = route("POST", path)
    assert (found.dialect, found.named_by, found.name, found.refused) == ("opaque", "header", None, None)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/../admin", "dot segments"),
        ("/v1/%2e%2E/admin", "dot segments"),
        ("/v1/..%2fadmin", "dot segments"),
        ("/v1\\..\\admin", "dot segments"),
        ("/v1/..;x/admin", "dot segments"),
        ("/v1beta/models/prod/../x:generateContent", "dot segments"),
        ("/v1beta/models/bot%00:generateContent", "control characters"),
        ("/files/%1b[2J", "control characters"),
        ("/v1/chat/completion%73", "another spelling of a known path"),
        ("/v1/chat%2Fcompletions", "another spelling of a known path"),
        ("//v1/chat/completions", "another spelling of a known path"),
        ("/v1/chat/completions/", "another spelling of a known path"),
        ("/v1/chat/completions;x", "another spelling of a known path"),
        ("/V1/Chat/Completions", "another spelling of a known path"),
        ("/v1beta/models/bot:%67enerateContent", "another spelling of a known path"),
        ("/genealog/v1/load", "a path between gateway and engine"),
        ("//%67enealog/v1/signatures/01", "a path between gateway and engine"),
    ],
)
def test_what_could_mean_something_else_to_an_upstream_passes_nowhere(path: str, why: str) -> None:
    assert route("POST", path).refused == why
    assert route("GET", "/v1/files/a..b/%20").refused is None


def test_long_paths_fill_no_memory() -> None:
    tracemalloc.start()
    try:
        for at in range(300):
            assert route("GET", f"/{at}/" + "x" * 60_000).dialect == "opaque"
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_only_ollama_streams_unasked() -> None:
    paths = ("/api/chat", "/api/generate", "/api/embed", "/v1/messages")
    assert [path for path in paths if streams_by_default(path)] == [
        "/api/chat", "/api/generate",
    ]  # fmt: skip


@given(st.text(max_size=40), st.sampled_from(["", "/v1/messages", "/model/x", "/v1beta/models/", f"{BETA}/"]))
def test_any_path_has_a_route(tail: str, head: str) -> None:
    found = route("POST", head + tail)
    assert found.operation == head + tail
    assert (found.name is not None) == (found.named_by == "path")
