"""What holds for every dialect of OpenAI's family: any cut, any junk, whole and stream alike, and its types agree."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    ImageEditStreamEvent,
    ImageGenStreamEvent,
    ImagesResponse,
)
from openai.types.audio import Transcription, TranscriptionStreamEvent, TranscriptionVerbose
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

import openai_samples as samples
from genealog.capture.dialects import MODULES, reader
from genealog.core.call_groups import ResponseFacts
from genealog.core.canonical import encode

OPERATIONS = {
    "openai-chat": ("/v1/chat/completions",),
    "openai-completions": ("/v1/completions",),
    "openai-responses": ("/v1/responses",),
    "openai-embeddings": ("/v1/embeddings",),
    "openai-images": ("/v1/images/generations", "/v1/images/edits"),
    "openai-audio": ("/v1/audio/speech", "/v1/audio/transcriptions"),
}
EVERY = [(dialect, operation) for dialect, operations in OPERATIONS.items() for operation in operations]
SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
CHAT = {"content": samples.TEXT, "reasoning_content": "Because.", "audio": {
    "id": "audio_1", "data": samples.b64(samples.WAV), "expires_at": 1, "transcript": "Said."}}  # fmt: skip
CHAT_DELTAS = [
    {"reasoning_content": "Bec"}, {"reasoning_content": "ause."},
    *({"content": piece} for piece in samples.pieces(samples.TEXT)),
    {"audio": {"id": "audio_1"}}, {"audio": {"transcript": "Sa"}}, {"audio": {"data": samples.b64(samples.WAV[:99])}},
    {"audio": {"transcript": "id."}}, {"audio": {"data": samples.b64(samples.WAV[99:])}}, {"audio": {"expires_at": 1}},
]  # fmt: skip

STREAMS: dict[str, tuple[str, str, bytes, bytes]] = {
    "chat": ("openai-chat", "/v1/chat/completions", json.dumps(samples.chat(CHAT)).encode(),
             samples.sse(samples.chat_chunks(*CHAT_DELTAS))),
    "completions": ("openai-completions", "/v1/completions", json.dumps(samples.completion(samples.TEXT, "b")).encode(),
                    samples.sse(samples.completion_chunks(samples.TEXT, "b"))),
    "responses": ("openai-responses", "/v1/responses", json.dumps(samples.response()).encode(),
                  samples.sse(samples.response_events(), named=True, done=False)),
    "images": ("openai-images", "/v1/images/generations", json.dumps(samples.images()).encode(),
               samples.sse(samples.image_events(), named=True, done=False)),
    "transcript": ("openai-audio", "/v1/audio/transcriptions",
                   json.dumps({"text": samples.TEXT, "usage": samples.HEARD_USAGE}).encode(),
                   samples.sse(samples.transcript_events(), done=False)),
}  # fmt: skip


def read(dialect: str, operation: str, body: bytes, content_type: str | None = JSON, **more: Any) -> ResponseFacts:
    found = reader(dialect)
    assert found is not None
    known = {"status": 200, "content_encoding": None, **more}
    return found.read_response(body, operation=operation, content_type=content_type, **known)


def test_every_dialect_of_the_family_is_read() -> None:
    assert {name for name in MODULES if name.startswith("openai-")} == OPERATIONS.keys()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_and_a_whole_answer_have_the_same_facts(name: str) -> None:
    dialect, operation, whole, stream = STREAMS[name]
    first, second = read(dialect, operation, whole), read(dialect, operation, stream, SSE)
    assert first.malformed is None
    assert first.content is not None
    assert (first.content, first.texts, first.usage, first.tier, first.finish_reason, first.model) == (
        second.content, second.texts, second.usage, second.tier, second.finish_reason, second.model,
    )  # fmt: skip
    whole_parts = [part for part in second.parts if part.type != "partial_image"]
    assert list(first.parts) == whole_parts


@pytest.mark.parametrize("name", STREAMS)
def test_any_cut_of_a_stream_says_a_part_of_it(name: str) -> None:
    dialect, operation, _, stream = STREAMS[name]
    whole = read(dialect, operation, stream, SSE)
    said = "".join(whole.texts)
    longest = -1
    for length in [*range(0, len(stream), 7), len(stream)]:
        facts = read(dialect, operation, stream[:length], SSE)
        assert facts.malformed is None, length
        assert facts.usage in (None, whole.usage, {"images": 1}), length
        assert set(facts.parts) <= set(whole.parts) or facts.parts[0].type == "audio", length
        now = "".join(facts.texts)
        if dialect != "openai-chat":
            assert said.startswith(now), length
        assert len(now) >= longest
        longest = len(now)
    assert longest == len(said)


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_compressed_is_read_alike(name: str) -> None:
    dialect, operation, whole, _ = STREAMS[name]
    half = len(whole) // 2
    members = gzip.compress(whole[:half], mtime=0) + gzip.compress(whole[half:], mtime=0)
    assert read(dialect, operation, members, content_encoding="gzip") == read(dialect, operation, whole)
    for encoding in ("br", "zstd"):
        assert read(dialect, operation, whole, content_encoding=encoding).malformed == "content-encoding-unknown"


@pytest.mark.parametrize(("dialect", "operation"), EVERY)
def test_an_error_is_its_code(dialect: str, operation: str) -> None:
    error = {"error": {"message": "secret", "type": "insufficient_quota", "param": None, "code": "quota"}}
    facts = read(dialect, operation, json.dumps(error).encode(), status=429)
    assert facts == ResponseFacts(error="quota")
    bare = {"object": "error", "message": "secret", "type": "BadRequestError", "code": 400}
    assert read(dialect, operation, json.dumps(bare).encode(), status=400).error == "BadRequestError"
    page = read(dialect, operation, b"<html>", "text/html", status=502)
    assert (page.error, page.malformed, page.content) == ("upstream-error", "not-json", None)


@pytest.mark.parametrize(
    ("dialect", "event", "code"),
    [
        ("openai-chat", {"error": {"message": "secret", "code": None, "type": "server_error"}}, "server_error"),
        ("openai-completions", {"error": {"message": "secret"}}, "upstream-error"),
        ("openai-responses", {"type": "error", "code": "ERR", "message": "secret", "sequence_number": 1}, "ERR"),
        ("openai-images", {"type": "error", "error": {"code": "moderation_blocked"}}, "moderation_blocked"),
        ("openai-audio", {"type": "error", "error": {"type": "server_error"}}, "server_error"),
    ],
)
def test_an_error_in_a_stream_is_its_code(dialect: str, event: dict[str, Any], code: str) -> None:
    stream = next(stream for name, _, _, stream in STREAMS.values() if name == dialect)
    begun = stream[: stream.index(b"\n\n", len(stream) // 2) + 2]
    facts = read(dialect, OPERATIONS[dialect][-1], begun + samples.sse([event], done=False), SSE)
    assert (facts.error, facts.malformed) == (code, None)


FIELDS = ("messages", "role", "content", "type", "text", "choices", "delta", "message", "index", "usage", "tool_calls",
          "input", "output", "item", "output_index", "content_index", "response", "data", "embedding", "b64_json",
          "url", "audio", "prompt", "annotations", "summary", "image_url", "file", "images", "prompt_tokens", "error",
          "segments", "input_audio", "file_data", "arguments", "annotation", "part", "duration")  # fmt: skip
TYPES = sorted({event["type"] for event in samples.response_events()} | {
         "message", "reasoning", "image_url", "input_audio", "file", "output_text", "image_generation_call", "refusal",
         "transcript.text.delta", "speech.audio.delta", "image_generation.completed"})  # fmt: skip
leaves = st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats() | st.text(max_size=9) | st.sampled_from(
    [*TYPES, "AAAA", "data:image/png;base64,AAAA", "data:,x", "\ud800", "https://x/"])  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=30,
)
bodies = (
    st.binary(max_size=200)
    | values.map(lambda value: json.dumps(value).encode())
    | st.lists(values, max_size=5).map(
        lambda several: b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in several)
    )
)


@pytest.mark.parametrize(("dialect", "operation"), EVERY)
@given(body=bodies, content_type=st.sampled_from([None, JSON, SSE, "audio/mpeg", "multipart/form-data; boundary=x"]),
       status=st.sampled_from([None, 200, 500]))  # fmt: skip
def test_nothing_makes_a_reader_fail(
    dialect: str, operation: str, body: bytes, content_type: str | None, status: int | None
) -> None:
    found = reader(dialect)
    assert found is not None
    asked = found.read_request(body, operation=operation, content_type=content_type)
    encode([asked.parameters, asked.parts, asked.sampler])
    answered = read(dialect, operation, body, content_type, status=status)
    encode([answered.parts, answered.usage or {}])
    assert answered.content is None or answered.malformed is None
    for text in (*asked.last_texts, *answered.texts):
        assert text.encode()


# What the vendor's own types make of the samples


def as_types(kind: Any, *items: dict[str, Any]) -> None:
    """Check that the vendor's type takes each, strictly, and knows every field but those of other vendors."""
    adapter = TypeAdapter(kind)
    for item in items:
        model = adapter.validate_python(item)
        more = getattr(model, "model_extra", None) or {}
        assert set(more) <= {"obfuscation", "output_index", "item_id", "task"}, (item.get("type", kind), more)


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        (ChatCompletion, [samples.chat({"content": "a"}, {"content": "b"})]),
        (ChatCompletionChunk, samples.chat_chunks({"content": "a"})),
        (Completion, [samples.completion("a")]),
        (Response, [samples.response()]),
        (ResponseStreamEvent, samples.response_events()),
        (CreateEmbeddingResponse, [samples.embeddings()]),
        (ImagesResponse, [samples.images()]),
        (ImageGenStreamEvent, samples.image_events()),
        (ImageEditStreamEvent, samples.image_events("image_edit")),
        (Transcription, [{"text": samples.TEXT, "usage": samples.HEARD_USAGE}]),
        (TranscriptionVerbose, [samples.VERBOSE]),
        (TranscriptionStreamEvent, samples.transcript_events()),
    ],
)
def test_the_samples_are_of_the_vendors_types(kind: Any, items: list[dict[str, Any]]) -> None:
    as_types(kind, *items)


# What the vendor's own client reports of the same bytes


def client(body: bytes, content_type: str) -> openai.OpenAI:
    headers = {"Content-Type": content_type}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body, headers=headers))
    return openai.OpenAI(
        api_key="k", base_url="http://x/v1", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("usage", [samples.CHAT_USAGE, None])
def test_usage_of_a_chat_stream_is_what_the_client_reports(usage: dict[str, Any] | None, cut: bool) -> None:
    body = samples.sse(samples.chat_chunks({"content": "a"}, {"content": "b"}, usage=usage))
    body = body[: body.rindex(b"data: {")] if cut else body
    with client(body, SSE) as vendor:
        stream = vendor.chat.completions.create(model="m", messages=[], stream=True)
        reported = [chunk.usage for chunk in stream if chunk.usage]
    facts = read("openai-chat", "/v1/chat/completions", body, SSE)
    assert facts.usage == (samples.COUNTS if reported else None)
    assert bool(reported) == (usage is not None and not cut)
    if reported:
        assert (facts.usage or {})["prompt_tokens"] == reported[-1].prompt_tokens
        assert (facts.usage or {})["completion_tokens"] == reported[-1].completion_tokens


def test_a_response_stream_is_what_the_client_puts_together() -> None:
    _, operation, _, stream = STREAMS["responses"]
    with client(stream, SSE) as vendor, vendor.responses.stream(model="m", input="x") as events:
        said = events.get_final_response()
    facts = read("openai-responses", operation, stream, SSE)
    assert "".join(facts.texts) == said.output_text
    assert facts.usage == samples.RESPONSE_COUNTS
    assert said.usage is not None
    assert said.usage.input_tokens == samples.RESPONSE_COUNTS["prompt_tokens"]


def test_a_chat_stream_is_what_the_client_puts_together() -> None:
    stream = STREAMS["chat"][3]
    with client(stream, SSE) as vendor, vendor.chat.completions.stream(model="m", messages=[]) as events:
        said = events.get_final_completion()
    facts = read("openai-chat", "/v1/chat/completions", stream, SSE)
    assert facts.texts[0] == said.choices[0].message.content
    assert said.usage is not None
    assert (facts.usage or {})["completion_tokens"] == said.usage.completion_tokens


def _readers() -> list[Callable[..., Any]]:
    return [found.read_response for dialect in OPERATIONS if (found := reader(dialect)) is not None]


def test_no_answer_at_all_says_nothing() -> None:
    assert [say(b"", operation="/x", status=None, content_type=None, content_encoding=None) for say in _readers()] == [
        ResponseFacts()
    ] * len(OPERATIONS)
