"""Bedrock's bodies, with botocore and Anthropic's client as judges.

Long because a body of each family of models is spelled out.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import botocore.session
import pytest
from anthropic.lib.bedrock._stream_decoder import AWSEventStreamDecoder
from botocore.eventstream import EventStream
from botocore.parsers import EventStreamJSONParser, RestJSONParser
from botocore.serialize import create_serializer
from hypothesis import given
from hypothesis import strategies as st

from call_samples import answer
from call_samples import chunk as chat_chunk
from capture.dialects.reading import bodies, check_request, check_response, messages, sha, texts
from gateway import fake_anthropic
from gateway.fake_bedrock import (
    CITATION,
    FRAMES,
    METRICS,
    PNG,
    TEXT,
    USAGE,
    anthropic_chunks,
    chunk,
    converse,
    event,
    exception,
    frame,
    items,
    rich,
    stream,
)
from genealog.capture.dialects import anthropic_messages
from genealog.capture.dialects.bedrock import read_request, read_response
from genealog.core.call_groups import ResponseFacts

CONVERSE, STREAM = "/model/m/converse", "/model/m/converse-stream"
INVOKE, INVOKE_STREAM = "/model/m/invoke", "/model/m/invoke-with-response-stream"
OPERATIONS = st.sampled_from([CONVERSE, STREAM, INVOKE, INVOKE_STREAM, ""])
JSON = "application/json"
FIELDS = ("output", "message", "content", "text", "toolUse", "input", "name", "reasoningContent", "reasoningText",
          "signature", "redactedContent", "citationsContent", "citations", "image", "source", "bytes", "format",
          "stopReason", "usage", "inputTokens", "cacheDetails", "ttl", "metadata", "messageStart", "contentBlockStart",
          "contentBlockDelta", "contentBlockIndex", "delta", "start", "messageStop", "results", "outputText",
          "generation", "outputs", "choices", "embedding", "images", "prompt", "inputText", "system", "messages",
          "anthropic_version", "inferenceConfig", "toolResult", "document", "type",
          "amazon-bedrock-invocationMetrics")  # fmt: skip
FULL = {
    "prompt_tokens": 23, "completion_tokens": 42, "cached_tokens": 7, "cache_write_tokens": 5,
    "cache_write_1h_tokens": 3,
}  # fmt: skip
METERED = {"prompt_tokens": 11, "completion_tokens": 42}
_service = botocore.session.get_session().get_service_model("bedrock-runtime")


class _Raw:
    """What botocore reads a body from."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> list[bytes]:
        return [self._body]

    def close(self) -> None:
        """Nothing is open."""


def by_botocore(body: bytes) -> list[dict[str, Any]]:
    """Return the events that boto3 gives of a stream."""
    shape = _service.operation_model("ConverseStream").output_shape.members["stream"]
    found = EventStream(_Raw(body), shape, EventStreamJSONParser(), "ConverseStream")
    return list(found)


def whole_by_botocore(body: bytes) -> dict[str, Any]:
    answered = {"status_code": 200, "headers": {}, "body": body, "context": {"operation_name": "Converse"}}
    said: dict[str, Any] = RestJSONParser().parse(answered, _service.operation_model("Converse").output_shape)
    return said


def usage_of(usage: dict[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": usage["inputTokens"] + usage["cacheReadInputTokens"] + usage["cacheWriteInputTokens"],
        "completion_tokens": usage["outputTokens"],
        "cached_tokens": usage["cacheReadInputTokens"],
        "cache_write_tokens": usage["cacheWriteInputTokens"],
        "cache_write_1h_tokens": sum(one["inputTokens"] for one in usage["cacheDetails"] if one["ttl"] == "1h"),
    }


def streamed(body: bytes, operation: str = STREAM) -> ResponseFacts:
    return read_response(body, operation=operation, status=200, content_type=FRAMES)


def invoked(body: Any, **more: Any) -> ResponseFacts:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(data, operation=INVOKE, status=200, content_type=JSON, **more)


# converse


@given(texts, st.integers(1, 9))
def test_a_stream_and_a_whole_answer_agree(text: str, size: int) -> None:
    blocks = [*rich(), {"text": text}]
    whole = read_response(converse(blocks), operation=CONVERSE, status=200, content_type=JSON)
    assert whole == streamed(b"".join(stream(blocks, size=size)))
    assert whole.content is not None
    assert whole.texts == ((TEXT, "2,102,650", text) if text else (TEXT, "2,102,650"))


def test_a_whole_answer_says_what_the_client_says() -> None:
    facts = read_response(converse(rich()), operation=CONVERSE, status=200, content_type=JSON)
    said = whole_by_botocore(converse(rich()))
    assert facts.usage == usage_of(said["usage"]) == FULL
    assert facts.usage["prompt_tokens"] + facts.usage["completion_tokens"] == said["usage"]["totalTokens"]
    assert (facts.finish_reason, facts.tier) == (said["stopReason"], said["serviceTier"]["type"])
    (part,) = facts.parts
    assert (part.type, part.media_type, part.size, part.sha256) == ("image", "image/png", len(PNG), sha(PNG))
    (message,) = messages(facts)
    assert [one["type"] for one in message["parts"]] == [
        "reasoning", "redacted_thinking", "text", "text", "image", "tool_call", "tool_call",
    ]  # fmt: skip
    assert message["tool_calls"] == [
        {"arguments": '{"city":"Paris","days":2.5}', "name": "weather", "type": "function"},
        {"arguments": "{}", "name": "now", "type": "function"},
    ]


@pytest.mark.parametrize("taken", range(len(items(rich(), size=5)) + 1))
def test_a_stream_says_what_the_client_says_wherever_it_ends(taken: int) -> None:
    body = b"".join(stream(rich(), size=5)[:taken])
    facts = streamed(body)
    said = by_botocore(body)
    deltas = [one["contentBlockDelta"]["delta"] for one in said if "contentBlockDelta" in one]
    ends = [one["messageStop"]["stopReason"] for one in said if "messageStop" in one]
    usages = [one["metadata"]["usage"] for one in said if "metadata" in one]
    assert facts.malformed is None
    assert "".join(facts.texts) == "".join(delta.get("text", "") for delta in deltas)
    assert facts.finish_reason == (ends[0] if ends else None)
    assert facts.usage == (usage_of(usages[-1]) if usages else None)


def test_a_stream_may_be_cut_at_any_byte() -> None:
    body = b"".join(stream(rich(), size=9))
    for length in range(0, len(body), 3):
        facts = streamed(body[:length])
        assert facts.malformed is None
        assert (TEXT + "2,102,650").startswith("".join(facts.texts))


def test_another_answer_is_another_content() -> None:
    changed = [
        rich()[::-1], rich()[1:], [{"text": TEXT}], [rich()[0]], [rich()[4]], [rich()[5]],
        [{"citationsContent": {"content": [{"text": "2,102,650"}], "citations": [CITATION, CITATION]}}],
        [{"text": "2,102,650"}], [{"guardContent": {"text": {"text": "x"}}}],
    ]  # fmt: skip
    contents = {
        read_response(converse(blocks), operation=CONVERSE, status=200).content for blocks in [rich(), *changed]
    }
    assert len(contents) == len(changed) + 1
    assert None not in contents


def test_a_delta_that_nobody_knows() -> None:
    strange = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"dream": "sheep"}})
    facts = streamed(b"".join([*stream()[:2], strange, *stream()[2:]]))
    assert facts.malformed == "part-not-understood"
    assert facts.usage == FULL


def test_an_event_that_nobody_knows_says_nothing() -> None:
    body = b"".join([*stream()[:2], event("dreamStart", {"a": 1}), *stream()[2:]])
    assert streamed(body) == streamed(b"".join(stream()))


def test_the_model_of_a_prompt_router() -> None:
    routed = {"trace": {"promptRouter": {"invokedModelId": "anthropic.claude-x"}}}
    assert streamed(event("metadata", routed)).model == "anthropic.claude-x"


# Errors


@pytest.mark.parametrize("operation", [STREAM, INVOKE_STREAM])
def test_an_exception_in_a_stream(operation: str) -> None:
    begun = stream()[:4] if operation == STREAM else anthropic_chunks()[:4]
    facts = streamed(b"".join(begun) + exception("modelStreamErrorException"), operation)
    assert (facts.error, facts.malformed) == ("modelStreamErrorException", None)
    assert facts.content is not None
    failed = frame({":message-type": "error", ":error-code": "InternalError", ":error-message": "secret"}, b"")
    assert streamed(b"".join(begun) + failed, operation).error == "InternalError"


@pytest.mark.parametrize("operation", [CONVERSE, INVOKE, STREAM])
def test_an_error_leaves_no_message(operation: str) -> None:
    body = b'{"message":"Malformed input request: secret"}'
    facts = read_response(body, operation=operation, status=400, content_type=JSON)
    assert (facts.error, facts.content, facts.malformed) == ("upstream-error", None, None)
    headers = {"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/"}
    facts = read_response(body, operation=operation, status=400, content_type=JSON, headers=headers)
    assert facts.error == "ValidationException"
    named = b'{"__type":"ValidationException","message":"secret"}'
    assert read_response(named, operation=operation, status=400).error == "ValidationException"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"".join(stream())[:-1] + b"\x00" + b"".join(stream()), "event-stream-broken"),
        (frame({":message-type": "event", ":event-type": "chunk"}, b"{"), "not-json"),
        (event("chunk", {"bytes": "*"}), "event-stream-broken"),
        (event("chunk", {"bytes": base64.b64encode(b'{"a":1,"a":2}').decode()}), "repeated-key"),
        (chunk({"riddle": 1}), "part-not-understood"),
    ],
)
def test_a_stream_that_cannot_be_read_says_so(body: bytes, code: str) -> None:
    facts = streamed(body, INVOKE_STREAM)
    assert (facts.malformed, facts.content) == (code, None)


# invoke


def test_anthropic_inside_is_anthropic() -> None:
    blocks = fake_anthropic.rich()
    whole = invoked(fake_anthropic.message(blocks))
    inside = streamed(b"".join(anthropic_chunks(blocks)), INVOKE_STREAM)
    outside = anthropic_messages.read_response(fake_anthropic.message(blocks))
    assert whole == inside == outside
    assert whole.content is not None


def test_anthropics_own_client_reads_the_same_events() -> None:
    body = b"".join(anthropic_chunks(fake_anthropic.rich()))
    events = list(AWSEventStreamDecoder().iter_bytes(iter([body])))
    sse = b"".join(f"event: {one.event}\ndata: {one.data}\n\n".encode() for one in events)
    assert anthropic_messages.read_response(sse, content_type="text/event-stream") == streamed(body, INVOKE_STREAM)


def test_nova_says_the_same_as_in_converse() -> None:
    usage = {**USAGE, "cacheReadInputTokenCount": 7, "cacheWriteInputTokenCount": 5}
    named = {
        name: value for name, value in usage.items() if name not in ("cacheReadInputTokens", "cacheWriteInputTokens")
    }
    body = json.loads(converse()) | {"usage": named}
    del body["serviceTier"]
    whole = invoked(body)
    chunks = [{name: value} for name, value in items() if name != "metadata"]
    last = {"metadata": {"usage": named, "metrics": {}}, "amazon-bedrock-invocationMetrics": METRICS}
    inside = streamed(b"".join(chunk(one) for one in [*chunks, last]), INVOKE_STREAM)
    assert whole == inside
    assert (whole.texts, whole.usage) == ((TEXT,), FULL)


PLAIN: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, int] | None]] = {
    "titan": (
        {"inputTextTokenCount": 11,
         "results": [{"tokenCount": 42, "outputText": "Hi you", "completionReason": "FINISH"}]},
        [
            {"outputText": "Hi ", "index": 0, "totalOutputTextTokenCount": None, "completionReason": None,
             "inputTextTokenCount": 11},
            {"outputText": "you", "index": 0, "totalOutputTextTokenCount": 42, "completionReason": "FINISH",
             "inputTextTokenCount": None},
        ],
        METERED,
    ),
    "llama": (
        {"generation": "Hi you", "prompt_token_count": 11, "generation_token_count": 42, "stop_reason": "stop"},
        [
            {"generation": "Hi ", "prompt_token_count": 11, "generation_token_count": 1, "stop_reason": None},
            {"generation": "you", "prompt_token_count": None, "generation_token_count": 42, "stop_reason": "stop"},
        ],
        METERED,
    ),
    "mistral": (
        {"outputs": [{"text": "Hi you", "stop_reason": "stop"}]},
        [{"outputs": [{"text": "Hi ", "stop_reason": None}]}, {"outputs": [{"text": "you", "stop_reason": "stop"}]}],
        None,
    ),
    "deepseek": (
        {"choices": [{"text": "Hi you", "stop_reason": "stop"}]},
        [{"choices": [{"text": "Hi ", "stop_reason": None}]}, {"choices": [{"text": "you", "stop_reason": "stop"}]}],
        None,
    ),
    "cohere": (
        {"generations": [{"text": "Hi you", "finish_reason": "COMPLETE"}], "prompt": "Hello"},
        [{"generations": [{"text": "Hi you", "finish_reason": "COMPLETE"}]}],
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", PLAIN)
def test_plain_texts(family: str) -> None:
    body, parts, usage = PLAIN[family]
    whole = invoked(body)
    ended = [*parts[:-1], {**parts[-1], "amazon-bedrock-invocationMetrics": METRICS}]
    inside = streamed(b"".join(chunk(part) for part in ended), INVOKE_STREAM)
    assert whole.texts == inside.texts == ("Hi you",)
    assert whole.content == inside.content is not None
    assert whole.finish_reason == inside.finish_reason is not None
    assert whole.usage == usage
    assert inside.usage == METERED


def test_usage_that_stands_in_headers_alone() -> None:
    headers = {"x-amzn-bedrock-input-token-count": "11", "x-amzn-bedrock-output-token-count": "42"}
    assert invoked(PLAIN["mistral"][0], headers=headers).usage == METERED
    assert invoked(PLAIN["mistral"][0], headers={"x-amzn-bedrock-input-token-count": "many"}).usage is None
    other = {"x-amzn-bedrock-input-token-count": "1"}
    assert invoked(PLAIN["titan"][0], headers=other).usage == METERED


def test_chat_inside_is_chat() -> None:
    whole = invoked(answer())
    parts = [chat_chunk({"role": "assistant", "content": TEXT[:5]}), chat_chunk({"content": TEXT[5:]}),
             chat_chunk({}, "stop")]  # fmt: skip
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in parts]
    chunks[-1]["amazon-bedrock-invocationMetrics"] = METRICS
    inside = streamed(b"".join(chunk(part) for part in chunks), INVOKE_STREAM)
    assert whole.texts == inside.texts == (TEXT,)
    assert whole.content == inside.content is not None
    assert inside.usage == METERED


def test_vectors_and_images() -> None:
    titan = invoked({"embedding": [0.5, 1], "inputTextTokenCount": 3})
    assert titan.usage == {"prompt_tokens": 3}
    assert titan.content is not None
    cohere = invoked({"id": "x", "embeddings": [[0.5, 1]], "texts": ["a"], "response_type": "embeddings_floats"})
    assert cohere.content == titan.content
    made = invoked({"images": [base64.b64encode(PNG).decode()]})
    assert [(part.type, part.size, part.sha256) for part in made.parts] == [("image", len(PNG), sha(PNG))]


# Requests


def asked_by_client(**fields: Any) -> bytes:
    """Return what boto3 sends."""
    model = _service.operation_model("Converse")
    sent = create_serializer("rest-json").serialize_to_request({"modelId": "m", **fields}, model)
    body: bytes = sent["body"]
    return body


def test_what_boto3_sends_is_read() -> None:
    body = asked_by_client(
        system=[{"text": "Be brief."}],
        messages=[
            {"role": "user", "content": [
                {"text": "What is this?"},
                {"image": {"format": "png", "source": {"bytes": PNG}}},
                {"document": {"format": "pdf", "name": "d", "source": {"bytes": b"%PDF"}}},
                {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/a.mp4"}}}},
                {"cachePoint": {"type": "default"}}]},
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [
                {"text": "42"}, {"json": {"b": 2}}, {"image": {"format": "png", "source": {"bytes": PNG}}}]}}]},
        ],
        inferenceConfig={"temperature": 0.2, "topP": 0.9, "maxTokens": 64},
        additionalModelRequestFields={"top_k": 5},
        serviceTier={"type": "flex"},
    )  # fmt: skip
    facts = read_request(body, operation=CONVERSE)
    assert facts.malformed is None
    assert [(part.index, part.role, part.type, part.media_type, part.size) for part in facts.parts] == [
        (0, "system", "text", None, None),
        (1, "user", "text", None, None),
        (1, "user", "image", "image/png", len(PNG)),
        (1, "user", "document", "application/pdf", 4),
        (1, "user", "video", "video/mp4", None),
        (1, "user", "cachePoint", None, None),
        (2, "assistant", "toolUse", None, None),
        (3, "user", "toolResult", None, None),
        (3, "user", "json", None, None),
        (3, "user", "image", "image/png", len(PNG)),
    ]
    assert facts.parts[4].sha256 == sha("s3://b/a.mp4")
    assert facts.last_texts == ("42",)
    assert facts.sampler == {"temperature": "0.2", "top_p": "0.9", "seed_source": "none"}
    assert facts.parameters["inferenceConfig.maxTokens"] == "64"
    assert facts.parameters["serviceTier.type"] == "flex"


@pytest.mark.parametrize(
    ("body", "sampler"),
    [
        ({"inputText": "Hello", "textGenerationConfig": {"temperature": 0.5, "topP": 1}},
         {"temperature": "0.5", "top_p": "1", "seed_source": "none"}),
        ({"prompt": "Hello", "top_p": 0.5, "max_gen_len": 9}, {"top_p": "0.5", "seed_source": "none"}),
        ({"prompt": "Hello", "p": 0.5, "k": 3}, {"top_p": "0.5", "top_k": "3", "seed_source": "none"}),
        ({"anthropic_version": "bedrock-2023-05-31", "messages": [{"role": "user", "content": "Hello"}], "top_k": 3},
         {"top_k": "3", "seed_source": "none"}),
        ({"messages": [{"role": "user", "content": "Hello"}], "temperature": 1},
         {"temperature": "1", "seed_source": "none"}),
        ({"texts": ["Hello"], "input_type": "search_query"}, {"seed_source": "none"}),
    ],
)  # fmt: skip
def test_what_each_family_is_asked(body: dict[str, Any], sampler: dict[str, str]) -> None:
    facts = read_request(json.dumps(body).encode(), operation=INVOKE)
    assert [(part.index, part.role, part.sha256) for part in facts.parts] == [(0, "user", sha("Hello"))]
    assert (facts.last_texts, facts.sampler) == (("Hello",), sampler)


# Anything


@given(bodies(FIELDS), OPERATIONS, st.sampled_from([None, JSON, FRAMES]), st.sampled_from([None, 200, 400]))
def test_nothing_makes_the_reader_fail(body: bytes, operation: str, kind: str | None, status: int | None) -> None:
    check_request(read_request(body, operation=operation))
    check_response(read_response(body, operation=operation, status=status, content_type=kind))


@given(st.lists(st.tuples(st.sampled_from([*FIELDS, "chunk", "metadata"]), bodies(FIELDS)), max_size=4), OPERATIONS)
def test_no_stream_makes_the_reader_fail(parts: list[tuple[str, bytes]], operation: str) -> None:
    body = b"".join(frame({":message-type": "event", ":event-type": name}, data) for name, data in parts)
    chunks = b"".join(event("chunk", {"bytes": base64.b64encode(data).decode()}) for _, data in parts)
    for data in (body, chunks):
        check_response(read_response(data, operation=operation, status=200, content_type=FRAMES))
