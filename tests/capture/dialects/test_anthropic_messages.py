from __future__ import annotations

import base64
import json
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from capture.dialects.reading import bodies, check_request, check_response, messages, sha, texts
from gateway.fake_anthropic import CITATION, DELTA, MODEL, START, TEXT, error, event, items, message, rich, stream, text
from genealog.capture.dialects.anthropic_messages import read_request, read_response
from genealog.core.call_groups import Digest, ResponseFacts

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(50))
FIELDS = ("type", "message", "content", "content_block", "delta", "index", "usage", "input_tokens", "output_tokens",
          "cache_creation", "text", "thinking", "signature", "partial_json", "citation", "citations", "input", "name",
          "error", "model", "role", "stop_reason", "server_tool_use", "system", "messages", "source", "data", "url",
          "media_type", "metadata", "user_id", "temperature", "tool_choice", "id")  # fmt: skip
WORDS = ("message", "message_start", "content_block_start", "content_block_delta", "message_delta", "error", "text",
         "text_delta", "thinking", "tool_use", "tool_result", "input_json_delta", "signature_delta", "citations_delta",
         "base64", "url", "image", "document", "compaction_delta", "content", "AAAA")  # fmt: skip
USAGE = {
    "prompt_tokens": 23, "completion_tokens": 42, "cached_tokens": 7, "cache_write_tokens": 5,
    "cache_write_1h_tokens": 3, "reasoning_tokens": 20, "searches": 1,
}  # fmt: skip
_events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


# What the vendor's own client makes of the same bytes


def by_client(parts: list[dict[str, Any]]) -> Message | None:
    """Return the message that Anthropic's client has after these events."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for part in parts:
        if part["type"] not in ("ping", "error"):
            snapshot = accumulate_event(
                event=_events.validate_python(part), current_snapshot=snapshot, json_bufs=buffers
            )
    return snapshot


def usage_of(said: Message) -> dict[str, int]:
    usage = said.usage
    prompt = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    found = {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "cached_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_creation_input_tokens,
        "cache_write_1h_tokens": usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else None,
        "reasoning_tokens": usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else None,
        "searches": usage.server_tool_use.web_search_requests if usage.server_tool_use else None,
    }
    return {name: count for name, count in found.items() if count is not None}


@pytest.mark.parametrize("taken", range(len(items(rich())) + 1))
def test_usage_and_texts_are_what_the_client_reports_wherever_a_stream_ends(taken: int) -> None:
    facts = read_response(b"".join(stream(rich())[:taken]), content_type=SSE)
    said = by_client(items(rich())[:taken])
    assert facts.malformed is None
    if said is None:
        assert facts == ResponseFacts()
        return
    assert facts.usage == usage_of(said)
    assert facts.model == said.model
    assert facts.finish_reason == said.stop_reason
    assert facts.texts == tuple(block.text for block in said.content if block.type == "text" and block.text)
    calls = [block for block in said.content if block.type == "tool_use"]
    assert [call["name"] for call in messages(facts)[0]["tool_calls"]] == [call.name for call in calls]


def test_a_whole_answer_says_what_the_client_says() -> None:
    said = Message.model_validate_json(message(rich()))
    facts = read_response(message(rich()), content_type=JSON)
    assert facts.usage == usage_of(said) == USAGE
    assert (facts.model, facts.tier, facts.finish_reason) == (MODEL, "standard", "end_turn")
    assert facts.texts == (TEXT,)


def test_last_snapshot_wins_and_nothing_is_added_up() -> None:
    assert read_response(b"".join(stream()), content_type=SSE).usage == USAGE
    assert START["output_tokens"] + 9 + DELTA["output_tokens"] != USAGE["completion_tokens"]  # type: ignore[operator]


# Responses


@given(texts, st.integers(1, 9))
def test_a_stream_and_a_whole_answer_agree(value: str, size: int) -> None:
    blocks = [*rich(), text(value)]
    whole = read_response(message(blocks), content_type=JSON)
    assert whole == read_response(b"".join(stream(blocks, size=size)), content_type=SSE)
    assert whole.content is not None
    assert whole.texts == ((TEXT, value) if value else (TEXT,))


def test_the_canonical_message() -> None:
    (said,) = messages(read_response(message(rich()), content_type=JSON))
    assert [part["type"] for part in said["parts"]] == [
        "reasoning", "redacted_thinking", "server_tool_use", "web_search_tool_result", "text", "tool_call", "tool_call",
    ]  # fmt: skip
    assert said["tool_calls"] == [
        {"arguments": '{"city":"Paris","days":2.5}', "name": "weather", "type": "function"},
        {"arguments": "{}", "name": "now", "type": "function"},
    ]
    assert said["parts"][0]["signature"] == sha("c2lnbmVk")


@pytest.mark.parametrize(
    "change",
    [
        lambda blocks: blocks[::-1],
        lambda blocks: blocks[1:],
        lambda blocks: [blocks[0] | {"signature": "b3RoZXI="}, *blocks[1:]],
        lambda blocks: [*blocks[:4], text(citations=[CITATION | {"cited_text": "2"}]), *blocks[5:]],
        lambda blocks: [*blocks[:3], blocks[3] | {"content": []}, *blocks[4:]],
        lambda blocks: [*blocks[:6], blocks[6] | {"input": {"a": 1}}],
    ],
)
def test_another_answer_is_another_content(change: Any) -> None:
    contents = {read_response(message(blocks), content_type=JSON).content for blocks in (rich(), change(rich()))}
    assert len(contents) == 2
    assert None not in contents


def test_a_stream_may_be_cut_at_any_byte() -> None:
    body = b"".join(stream(rich(), size=9))
    for length in range(0, len(body), 3):
        facts = read_response(body[:length], content_type=SSE)
        assert facts.malformed is None
        assert TEXT.startswith("".join(facts.texts))


def test_arguments_that_were_cut_stay_as_they_came() -> None:
    body = b"".join(event(item) for item in items([rich()[5]], size=6)[:5])
    (said,) = messages(read_response(body, content_type=SSE))
    assert said["tool_calls"] == [{"arguments": '{"city', "name": "weather", "type": "function"}]


def test_a_block_or_delta_that_nobody_knows() -> None:
    new = {"type": "dream", "id": "d1", "dream": "sheep"}
    facts = read_response(message([new]), content_type=JSON)
    assert messages(facts)[0]["parts"] == [{"sha256": sha('{"dream":"sheep","type":"dream"}'), "type": "dream"}]
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "dream_delta", "dream": "s"}}
    body = b"".join([*stream()[:3], event(delta), *stream()[3:]])
    facts = read_response(body, content_type=SSE)
    assert facts.malformed == "part-not-understood"
    assert facts.usage == USAGE


@pytest.mark.parametrize("status", [400, 529, None])
def test_an_error_leaves_its_kind_and_not_its_message(status: int | None) -> None:
    facts = read_response(error(), status=status, content_type=JSON)
    assert (facts.error, facts.malformed, facts.content) == ("overloaded_error", None, None)
    in_stream = b"".join(stream()[:6]) + b"event: error\ndata: " + error() + b"\n\n"
    facts = read_response(in_stream, status=200, content_type=SSE)
    assert facts.error == "overloaded_error"
    assert facts.usage is not None


def test_an_error_of_a_proxy_is_an_error() -> None:
    facts = read_response(b"<html>", status=502, content_type="text/html")
    assert (facts.error, facts.malformed) == ("upstream-error", "not-json")


@given(bodies(FIELDS, WORDS), st.sampled_from([None, JSON, SSE]), st.sampled_from([None, "gzip", "identity"]))
def test_no_response_makes_the_reader_fail(body: bytes, kind: str | None, encoding: str | None) -> None:
    check_response(read_response(body, content_type=kind, content_encoding=encoding))


@given(st.lists(bodies(FIELDS, WORDS), max_size=5))
def test_no_stream_makes_the_reader_fail(parts: list[bytes]) -> None:
    check_response(read_response(b"".join(b"data: " + part + b"\n\n" for part in parts), content_type=SSE))


# Requests


def asked_by_client(**fields: Any) -> bytes:
    """Return what Anthropic's client sends."""
    sent: list[bytes] = []

    def upstream(asked: httpx2.Request) -> httpx2.Response:
        sent.append(asked.content)
        return httpx2.Response(200, content=message(), headers={"content-type": JSON})

    with httpx2.Client(transport=httpx2.MockTransport(upstream)) as http:
        client = anthropic.Anthropic(api_key="x", base_url="http://model.test", http_client=http, max_retries=0)
        client.messages.create(**{"model": "prod/bot", "max_tokens": 64, **fields})
    return sent[0]


def test_what_the_client_sends_is_read() -> None:
    encoded = base64.b64encode(PNG).decode()
    body = asked_by_client(
        system="Be brief.",
        extra_body={"temperature": 0.2, "top_k": 5},
        metadata={"user_id": "ann"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        tool_choice={"type": "auto"},
        messages=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "cw=="},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [
                    {"type": "text", "text": "sunny"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded}}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "plain"},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "doc"}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
                {"type": "text", "text": "What is this?"}]},
        ],
    )  # fmt: skip
    facts = read_request(body)
    assert facts.malformed is None
    assert [(part.index, part.role, part.type, part.media_type, part.size) for part in facts.parts] == [
        (0, "system", "text", None, None),
        (1, "user", "text", None, None),
        (2, "assistant", "thinking", None, None),
        (2, "assistant", "tool_use", None, None),
        (3, "user", "tool_result", None, None),
        (3, "user", "image", "image/png", len(PNG)),
        (3, "user", "tool_result", None, None),
        (3, "user", "image", None, None),
        (3, "user", "document", None, None),
        (3, "user", "document", None, None),
        (3, "user", "document", None, None),
        (3, "user", "text", None, None),
    ]
    digests = [part.sha256 for part in facts.parts]
    assert digests[:2] == [sha("Be brief."), sha("Hello")]
    assert digests[4:] == [
        sha("sunny"), sha(PNG), sha("plain"), sha("https://example.org/a.png"), sha("file_1"), sha("doc"), sha("inner"),
        sha("What is this?"),
    ]  # fmt: skip
    assert facts.last_texts == ("sunny", "plain", "What is this?")
    assert facts.subject == "ann"
    assert facts.sampler == {"temperature": "0.2", "top_k": "5", "seed_source": "none"}
    assert facts.parameters["model"] == "prod/bot"
    assert facts.parameters["thinking.type"] == "enabled"
    assert facts.parameters["thinking.budget_tokens"] == "1024"
    assert facts.parameters["tool_choice.type"] == "auto"
    assert facts.parameters["metadata"] == Digest(sha256=sha('{"user_id":"ann"}'))
    assert "messages" not in facts.parameters


def test_a_member_never_stands_under_another_keys_name() -> None:
    facts = read_request(b'{"thinking":{"type":"enabled"},"thinking.type":"x"}')
    assert facts.parameters == {"thinking": Digest(sha256=sha('{"type":"enabled"}')), "thinking.type": "x"}


def test_data_that_is_no_base64_is_committed_to_as_it_came() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "no base64!"}
    body = json.dumps({"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]})
    (part,) = read_request(body.encode()).parts
    assert (part.sha256, part.size) == (sha("no base64!"), None)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not-json"),
        (b"[]", "not-an-object"),
        (b'{"model":"a","model":"b"}', "repeated-key"),
        (b'{"a":' * 100_000, "json-too-deep"),
        (b'{"messages":[{"content":"\\ud800"}]}', "text-not-unicode"),
    ],
)
def test_a_request_that_cannot_be_read_says_so(body: bytes, code: str) -> None:
    assert read_request(body).malformed == code


@given(bodies(FIELDS, WORDS))
def test_no_request_makes_the_reader_fail(body: bytes) -> None:
    check_request(read_request(body))
