from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from capture.dialects.reading import bodies, check_request, check_response, messages, sha, texts
from gateway.fake_google import EARLY, MODEL, PNG, TEXT, answer, as_array, as_events, blocked, error, items, rich, whole
from genealog.capture.dialects.google_generate import read_request, read_response
from genealog.core.call_groups import Digest, ResponseFacts

SSE = "text/event-stream"
JSON = "application/json; charset=UTF-8"
FIELDS = ("candidates", "content", "parts", "text", "thought", "thoughtSignature", "inlineData", "inline_data", "data",
          "mimeType", "functionCall", "args", "name", "index", "finishReason", "usageMetadata", "promptTokenCount",
          "promptTokensDetails", "modality", "tokenCount", "modelVersion", "promptFeedback", "blockReason", "error",
          "status", "contents", "systemInstruction", "generationConfig", "seed", "topP", "fileData", "fileUri",
          "groundingMetadata", "webSearchQueries", "functionResponse", "role")  # fmt: skip
WORDS = ("AUDIO", "SAFETY", "STOP", "AAAA", "user", "model")
FULL = {
    "prompt_tokens": 16, "completion_tokens": 50, "cached_tokens": 8, "reasoning_tokens": 20, "audio_prompt_tokens": 5,
    "image_completion_tokens": 20,
}  # fmt: skip
FORMS = {"events": (as_events, SSE), "array": (as_array, JSON)}


def streamed(form: str, parts: list[dict[str, Any]]) -> ResponseFacts:
    spell, kind = FORMS[form]
    return read_response(b"".join(spell(parts)), content_type=kind)


def usage_of(usage: types.GenerateContentResponseUsageMetadata | None) -> dict[str, int] | None:
    """Return what Google's client reports, in our words."""
    if usage is None or usage.prompt_token_count is None:
        return None
    found = {
        "prompt_tokens": usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0),
        "completion_tokens": (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        "cached_tokens": usage.cached_content_token_count,
        "reasoning_tokens": usage.thoughts_token_count,
        "audio_prompt_tokens": next(
            (one.token_count for one in usage.prompt_tokens_details or () if one.modality == "AUDIO"), None
        ),
        "image_completion_tokens": next(
            (one.token_count for one in usage.candidates_tokens_details or () if one.modality == "IMAGE"), None
        ),
    }
    return {name: count for name, count in found.items() if count is not None}


# Responses


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_stream_says_what_the_client_says_wherever_it_ends(form: str, size: int) -> None:
    parts = items(rich(), size=size)
    for taken in range(len(parts) + 1):
        facts = streamed(form, parts[:taken])
        said = [types.GenerateContentResponse.model_validate(part) for part in parts[:taken]]
        counted = [usage for one in said if (usage := usage_of(one.usage_metadata))]
        assert facts.malformed is None
        assert facts.usage == (counted[-1] if counted else None)
        assert "".join(facts.texts) == "".join(
            part.text or ""
            for one in said
            for candidate in one.candidates or ()
            for part in (candidate.content.parts if candidate.content else None) or ()
            if not part.thought
        )
        assert facts.model == (said[-1].model_version if said else None)


@given(texts, st.integers(1, 9), st.sampled_from(sorted(FORMS)))
def test_a_stream_and_a_whole_answer_agree(value: str, size: int, form: str) -> None:
    parts = [*rich(), {"text": value}]
    at_once = read_response(whole(answer(parts)), content_type=JSON)
    assert at_once == streamed(form, items(parts, size=size))
    assert at_once.content is not None
    assert at_once.texts == ((TEXT, value) if value else (TEXT,))


def test_a_whole_answer() -> None:
    facts = read_response(whole(answer(rich())), content_type=JSON)
    said = types.GenerateContentResponse.model_validate(answer(rich()))
    assert facts.usage == FULL == usage_of(said.usage_metadata)
    assert facts.usage["prompt_tokens"] + facts.usage["completion_tokens"] == said.usage_metadata.total_token_count  # type: ignore[union-attr]
    assert (facts.model, facts.tier, facts.finish_reason) == (MODEL, "ON_DEMAND", "STOP")
    (part,) = facts.parts
    assert (part.type, part.media_type, part.size, part.sha256) == ("inlineData", "image/png", len(PNG), sha(PNG))
    (message,) = messages(facts)
    assert [one["type"] for one in message["parts"]] == [
        "reasoning", "executableCode", "codeExecutionResult", "text", "inlineData", "tool_call", "tool_call",
    ]  # fmt: skip
    assert message["tool_calls"][0] == {
        "arguments": '{"city":"Paris","days":2.5}', "name": "weather", "type": "function"
    }  # fmt: skip
    assert message["parts"][3]["signature"] == sha("c2lnbmVk")


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_may_be_cut_at_any_byte(form: str) -> None:
    spell, kind = FORMS[form]
    body = b"".join(spell(items(rich(), size=9)))
    lengths = []
    for length in range(0, len(body), 3):
        facts = read_response(body[:length], content_type=kind)
        assert facts.malformed is None, body[:length][-40:]
        lengths.append(len("".join(facts.texts)))
        assert TEXT.startswith("".join(facts.texts))
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(TEXT)


def test_an_array_that_is_broken_says_so() -> None:
    body = b"".join(as_array(items(rich())))
    broken = body.replace(b'"candidates":', b'"candidates" =', 1)
    assert read_response(broken, content_type=JSON).malformed == "not-json"
    assert read_response(b"[\xff]", content_type=JSON).malformed == "not-json"
    assert read_response(b'[{"a":1,"a":2}]', content_type=JSON).malformed == "repeated-key"


def test_usage_without_counts_does_not_win() -> None:
    last = answer([], finish=None, usageMetadata={"trafficType": "PROVISIONED_THROUGHPUT"})
    facts = streamed("events", [answer([{"text": "a"}], finish=None, usageMetadata=EARLY), last])
    assert facts.usage == {"prompt_tokens": 12, "completion_tokens": 3}
    assert facts.tier == "PROVISIONED_THROUGHPUT"


def test_another_answer_is_another_content() -> None:
    changed = [
        rich()[::-1], rich()[1:], [{"text": TEXT, "thought": True}], [{"text": TEXT}], [rich()[4]],
        [{"inlineData": {"mimeType": "image/webp", "data": rich()[4]["inlineData"]["data"]}}],
        [{"functionCall": {"name": "weather", "args": {"city": "Rome"}}}],
    ]  # fmt: skip
    contents = {read_response(whole(answer(parts)), content_type=JSON).content for parts in [rich(), *changed]}
    assert len(contents) == len(changed) + 1


def test_candidates_keep_their_order() -> None:
    one = {"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "MAX_TOKENS"}
    zero = {"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}
    facts = read_response(json.dumps({"candidates": [zero, one]}).encode(), content_type=JSON)
    assert (facts.texts, facts.finish_reason) == (("a", "b"), "STOP")
    apart = b"".join(as_events([{"candidates": [one]}, {"candidates": [{**zero, "index": 0}]}]))
    assert read_response(apart, content_type=SSE).content == facts.content


@pytest.mark.parametrize("form", [None, *FORMS])
def test_a_prompt_that_is_blocked(form: str | None) -> None:
    facts = read_response(whole(blocked()), content_type=JSON) if form is None else streamed(form, [blocked()])
    assert (facts.finish_reason, facts.content, facts.malformed) == ("SAFETY", None, None)
    assert facts.usage == {"prompt_tokens": 12}


@pytest.mark.parametrize("form", [None, *FORMS])
def test_an_error_leaves_its_status_and_not_its_message(form: str | None) -> None:
    facts = read_response(whole(error()), status=429) if form is None else streamed(form, [*items(rich())[:4], error()])
    assert (facts.error, facts.malformed) == ("RESOURCE_EXHAUSTED", None)


def test_searches_are_counted() -> None:
    queries = {"webSearchQueries": ["paris", "population of paris"]}
    body = answer([{"text": "a"}])
    body["candidates"][0]["groundingMetadata"] = queries
    facts = read_response(whole(body), content_type=JSON)
    assert facts.usage is not None
    assert facts.usage["searches"] == 2


@given(bodies(FIELDS, WORDS), st.sampled_from([None, JSON, SSE]), st.sampled_from([None, "gzip"]))
def test_no_response_makes_the_reader_fail(body: bytes, kind: str | None, encoding: str | None) -> None:
    check_response(read_response(body, content_type=kind, content_encoding=encoding))


@given(st.lists(bodies(FIELDS, WORDS), max_size=4))
def test_no_stream_makes_the_reader_fail(parts: list[bytes]) -> None:
    check_response(read_response(b"".join(b"data: " + part + b"\n\n" for part in parts), content_type=SSE))
    check_response(read_response(b"[" + b",".join(parts) + b"]", content_type=JSON))


# Requests


def asked_by_client(**fields: Any) -> bytes:
    """Return what Google's client sends."""
    sent: list[bytes] = []

    def upstream(asked: httpx.Request) -> httpx.Response:
        sent.append(asked.content)
        return httpx.Response(200, content=whole(answer(rich())), headers={"content-type": JSON})

    with httpx.Client(transport=httpx.MockTransport(upstream)) as http:
        options = types.HttpOptions(base_url="http://model.test", httpx_client=http)
        genai.Client(api_key="x", http_options=options).models.generate_content(**{"model": "bot", **fields})
    return sent[0]


def test_what_the_client_sends_is_read() -> None:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.", temperature=0.2, top_k=5, seed=7, max_output_tokens=64, stop_sequences=["x"]
    )
    contents = [
        types.Content(role="user", parts=[
            types.Part(text="What is this?"),
            types.Part.from_bytes(data=b"\xfb\xff\xfe" + PNG, mime_type="image/png"),
            types.Part.from_uri(file_uri="gs://b/a.mp4", mime_type="video/mp4")]),
        types.Content(role="model", parts=[
            types.Part(text="hm", thought=True), types.Part.from_function_call(name="f", args={"a": 1})]),
        types.Content(role="user", parts=[types.Part.from_function_response(name="f", response={"b": 2})]),
        types.Content(role="user", parts=[types.Part(text="And now?")]),
    ]  # fmt: skip
    facts = read_request(asked_by_client(contents=contents, config=config))
    assert facts.malformed is None
    assert [(part.index, part.role, part.type, part.media_type, part.size) for part in facts.parts] == [
        (0, "system", "text", None, None),
        (1, "user", "text", None, None),
        (1, "user", "inlineData", "image/png", len(PNG) + 3),
        (1, "user", "fileData", "video/mp4", None),
        (2, "model", "thought", None, None),
        (2, "model", "functionCall", None, None),
        (3, "user", "functionResponse", None, None),
        (4, "user", "text", None, None),
    ]
    assert facts.parts[0].sha256 == sha("Be brief.")
    assert facts.parts[2].sha256 == sha(b"\xfb\xff\xfe" + PNG)
    assert facts.parts[3].sha256 == sha("gs://b/a.mp4")
    assert facts.last_texts == ("And now?",)
    assert facts.sampler == {"temperature": "0.2", "top_k": "5.0", "seed": "7", "seed_source": "client"}
    assert facts.parameters["generationConfig.maxOutputTokens"] == "64"
    assert facts.parameters["generationConfig.stopSequences"] == Digest(sha256=sha('["x"]'))


def test_names_with_underscores_mean_the_same() -> None:
    data = base64.b64encode(PNG).decode()
    snake = {
        "contents": [{"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": data}}]}],
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {"top_p": 0.5, "seed": 3},
    }
    camel = {
        "contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"topP": 0.5, "seed": 3},
    }
    one, two = (read_request(json.dumps(body).encode()) for body in (snake, camel))
    assert (one.parts, one.sampler) == (two.parts, two.sampler)
    assert one.sampler == {"top_p": "0.5", "seed": "3", "seed_source": "client"}


@given(bodies(FIELDS, WORDS))
def test_no_request_makes_the_reader_fail(body: bytes) -> None:
    check_request(read_request(body))
