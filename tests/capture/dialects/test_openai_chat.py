from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
import zlib
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from call_samples import TEXT, answer, chunk, request, stream
from genealog.capture.dialects.openai_chat import read_request, read_response
from genealog.core.call_groups import Digest
from genealog.core.canonical import encode

SSE = "text/event-stream"
JSON = "application/json"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = ("messages", "role", "content", "type", "text", "choices", "delta", "message", "index", "usage", "tool_calls",
          "function", "name", "arguments", "error", "code", "model", "refusal", "seed", "prompt_tokens")  # fmt: skip
chat_values = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=30,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Requests


def test_numbers_keep_the_token_that_was_received() -> None:
    body = b'{"temperature":0.20,"top_p":1E-1,"seed":18446744073709551615,"max_tokens":512,"stream":true,"stop":null}'
    facts = read_request(body)
    assert facts.parameters == {
        "temperature": "0.20",
        "top_p": "1E-1",
        "seed": "18446744073709551615",
        "max_tokens": "512",
        "stream": True,
        "stop": None,
    }
    assert facts.sampler == {
        "temperature": "0.20",
        "top_p": "1E-1",
        "seed": "18446744073709551615",
        "seed_source": "client",
    }


def test_without_a_seed_nobody_chose_one() -> None:
    assert read_request(request()).sampler == {"seed_source": "none"}


def test_only_known_words_are_spelled_out() -> None:
    facts = read_request(request(user="alice", tool_choice="auto", stop=["\u00e9"], metadata={"b": 1.50, "a": "x"}))
    assert facts.parameters["tool_choice"] == "auto"
    assert facts.parameters["user"] == Digest(sha256=sha('"alice"'))
    assert facts.parameters["stop"] == Digest(sha256=sha('["\u00e9"]'))
    assert facts.parameters["metadata"] == Digest(sha256=sha('{"a":"x","b":1.5}'))


def test_a_long_word_and_a_long_number_are_committed_to() -> None:
    facts = read_request(b'{"model":"' + b"m" * 300 + b'","seed":' + b"9" * 5000 + b"}")
    assert all(isinstance(value, Digest) for value in facts.parameters.values())
    assert facts.sampler == {"seed_source": "none"}


def test_the_parts_of_a_prompt() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                     {"type": "image_url", "image_url": {"url": "data:,x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]  # fmt: skip
    facts = read_request(json.dumps({"model": "m", "messages": messages}).encode())
    assert [(part.index, part.role, part.type) for part in facts.parts] == [
        (0, "system", "text"),
        (1, "user", "text"),
        (1, "user", "image_url"),
        (2, "assistant", "tool_call"),
        (3, "tool", "text"),
    ]
    assert facts.parts[1].sha256 == sha("What is this?")
    assert (facts.parts[2].sha256, facts.parts[2].size, facts.parts[2].media_type) == (sha("x"), 1, "text/plain")
    assert facts.last_texts == ("42",)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"\xff", "not-json"),
        (b"[]", "not-an-object"),
        (b'{"temperature":NaN}', "not-json"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"model":"a"}', "not-json"),
        (b'{"model":"a","model":"b"}', "repeated-key"),
        (b'{"messages":[{"role":"user","role":"system"}]}', "repeated-key"),
        (b'{"a":' * 100_000, "json-too-deep"),
        (b'{"messages":[{"content":"\\ud800"}]}', "text-not-unicode"),
    ],
)
def test_a_request_that_cannot_be_read_says_so(body: bytes, code: str) -> None:
    facts = read_request(body)
    assert facts.malformed == code
    assert not facts.parameters
    assert not facts.parts


@given(st.binary(max_size=200) | chat_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"stop":' + b"[" * 900 + b"]" * 900 + b"}")
def test_no_request_makes_the_reader_fail(body: bytes) -> None:
    facts = read_request(body)
    encode(facts.parameters)
    encode(facts.parts)
    encode(facts.sampler)


@given(st.dictionaries(st.text(max_size=6), st.integers(), max_size=6))
def test_foreign_keys_stay_apart_and_become_ascii(values: dict[str, int]) -> None:
    values.pop("messages", None)
    facts = read_request(json.dumps(values).encode())
    assert sorted(facts.parameters.values(), key=str) == sorted((str(value) for value in values.values()), key=str)
    encode(facts.parameters)


# Responses


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
def test_a_stream_and_a_whole_response_agree(text: str, size: int) -> None:
    whole = read_response(answer(text), content_type=JSON)
    streamed = read_response(b"".join(stream(text, size=size)), content_type=f"{SSE}; charset=utf-8")
    assert whole == streamed
    assert whole.texts == ((text,) if text else ())
    assert whole.content is not None


def test_the_canonical_message() -> None:
    assert read_response(answer("Hi"), content_type=JSON).content == (
        b'{"messages":[{"finish_reason":"stop","parts":[{"text":"Hi","type":"text"}],"role":"assistant","tool_calls":[]}],'
        b'"t":"genealog/content/v1"}'
    )


def test_another_text_or_finish_reason_is_another_content() -> None:
    contents = {
        read_response(body).content for body in (answer("a"), answer("b"), answer("a", finish="length"), answer(""))
    }
    assert len(contents) == 4


def test_what_a_response_reports() -> None:
    facts = read_response(answer(), content_type=JSON)
    assert (facts.model, facts.fingerprint, facts.finish_reason) == ("tiny-2026", "fp_1", "stop")
    assert facts.usage == {"prompt_tokens": 11, "completion_tokens": 7}


def test_tool_calls_agree_too() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}]
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        {
            "tool_calls": [
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ':"Paris"}'}}]},
    ]
    body = b"".join(chunk(delta) for delta in deltas) + chunk({}, "tool_calls") + b"data: [DONE]\n\n"
    whole = read_response(answer(None, finish="tool_calls", tool_calls=calls))  # type: ignore[arg-type]
    assert read_response(body, content_type=SSE).content == whole.content
    assert whole.content is not None
    assert b"weather" in whole.content
    assert whole.texts == ()


def test_reasoning_and_refusal_are_parts_and_no_texts() -> None:
    facts = read_response(answer("x", reasoning_content="because", refusal="no"))
    assert facts.content is not None
    parts = json.loads(facts.content)["messages"][0]["parts"]
    assert [(part["type"], part["text"]) for part in parts] == [
        ("reasoning", "because"), ("text", "x"), ("refusal", "no"),
    ]  # fmt: skip
    assert facts.texts == ("x",)


def test_several_choices_keep_their_order() -> None:
    def choice(index: int, text: str) -> dict[str, Any]:
        return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}

    facts = read_response(json.dumps({"choices": [choice(1, "b"), choice(0, "a")]}).encode())
    assert facts.texts == ("a", "b")


def test_the_last_usage_snapshot_wins() -> None:
    snapshots = [{"prompt_tokens": 11, "completion_tokens": n} for n in (1, 2, 3)]
    body = b"".join(chunk({"content": "a"}, usage=usage) for usage in snapshots)
    facts = read_response(body, content_type=SSE)
    assert facts.usage == {"prompt_tokens": 11, "completion_tokens": 3}
    details = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert read_response(json.dumps({"usage": details}).encode()).usage == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "cached_tokens": 8,
        "reasoning_tokens": 2,
    }


def test_counts_that_are_none_are_left_out() -> None:
    usage = (
        '{"prompt_tokens":-1,"completion_tokens":1.5,"prompt_tokens_details":{"cached_tokens":99999999999999999999}}'
    )
    assert read_response(b'{"usage":' + usage.encode() + b"}").usage == {}


def test_a_stream_that_was_cut_anywhere_gives_the_beginning() -> None:
    body = b"".join(stream())
    for length in range(len(body)):
        facts = read_response(body[:length], content_type=SSE)
        assert facts.malformed is None
        assert TEXT.startswith("".join(facts.texts))


def test_nothing_counts_after_done() -> None:
    body = b"".join(stream("a")) + chunk({"content": "b"})
    assert read_response(body, content_type=SSE).texts == ("a",)


def test_a_surrogate_pair_that_two_deltas_share_is_joined() -> None:
    body = b"".join(b'data: {"choices":[{"delta":{"content":"\\u%s"}}]}\n\n' % half for half in (b"d83d", b"de00"))
    assert read_response(body, content_type=SSE).texts == ("\U0001f600",)


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"<html>", "text/html", "not-json"),
        (b"[1]", JSON, "not-an-object"),
        (b"data: {\n\n", SSE, "not-json"),
        (answer("\ud800"), JSON, "text-not-unicode"),
        (answer("x", audio={"data": "AAA"}), JSON, "part-not-understood"),
        (
            json.dumps({"choices": [{"message": {"content": [{"type": "image"}]}}]}).encode(),
            JSON,
            "part-not-understood",
        ),
    ],
)
def test_a_response_that_cannot_be_read_says_so(body: bytes, content_type: str, code: str) -> None:
    facts = read_response(body, content_type=content_type)
    assert facts.malformed == code
    assert facts.content is None
    assert facts.texts == ()


def test_a_message_that_is_not_understood_still_tells_what_it_cost() -> None:
    facts = read_response(answer("x", audio={"data": "AAA"}))
    assert facts.usage == {"prompt_tokens": 11, "completion_tokens": 7}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "secret", "type": "invalid_request_error", "code": "too_long"}, "too_long"),
        ({"message": "secret", "type": "server_error", "code": None}, "server_error"),
        ({"code": 429}, "429"),
        ("secret", "upstream-error"),
    ],
)  # fmt: skip
def test_an_error_leaves_its_code_and_not_its_message(error: object, code: str) -> None:
    facts = read_response(json.dumps({"error": error}).encode(), content_type=JSON)
    assert facts.error == code
    assert facts.malformed is None
    in_stream = chunk({"content": "a"}) + b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    assert read_response(in_stream, content_type=SSE).error == code


@pytest.mark.parametrize(
    ("encoding", "encoded"), [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_compressed_response_is_read(encoding: str, encoded: Any) -> None:
    facts = read_response(encoded(answer()), content_type=JSON, content_encoding=encoding)
    assert facts == read_response(answer())


def test_a_compressed_stream_may_be_cut() -> None:
    body = gzip.compress(b"".join(stream()))
    facts = read_response(body[: len(body) // 2], content_type=SSE, content_encoding="gzip")
    assert facts.malformed is None


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("br", b"...", "content-encoding-unknown"),
        ("gzip", b"no gzip", "content-encoding-broken"),
        ("gzip", gzip.compress(bytes(33 * 2**20)), "decoded-body-too-big"),
    ],
)
def test_an_encoding_that_cannot_be_undone_is_said(encoding: str, body: bytes, code: str) -> None:
    assert read_response(body, content_type=JSON, content_encoding=encoding).malformed == code


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,"])
def test_a_body_that_is_made_to_fill_the_memory_is_not_read(value: bytes) -> None:
    body = b'{"model":"m","tools":[' + value * (5 << 20) + b"1]}"
    tracemalloc.start()
    try:
        assert read_request(body).malformed == "json-too-many-values"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(
    st.binary(max_size=200) | chat_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([None, JSON, SSE]),
    st.sampled_from([None, "gzip", "identity"]),
)
def test_no_response_makes_the_reader_fail(body: bytes, content_type: str | None, encoding: str | None) -> None:
    read_response(body, content_type=content_type, content_encoding=encoding)


@given(st.lists(chat_values, max_size=4))
def test_no_stream_makes_the_reader_fail(items: list[object]) -> None:
    body = b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in items)
    facts = read_response(body, content_type=SSE)
    assert facts.content is None or json.loads(facts.content)["t"] == "genealog/content/v1"


def test_what_the_openai_client_sends_is_read() -> None:
    sent: list[bytes] = []

    def upstream(asked: httpx2.Request) -> httpx2.Response:
        sent.append(asked.content)
        return httpx2.Response(200, content=answer(), headers={"content-type": JSON})

    with httpx2.Client(transport=httpx2.MockTransport(upstream)) as http:
        client = openai.OpenAI(api_key="x", base_url="http://model.test/v1", http_client=http, max_retries=0)
        said = client.chat.completions.create(
            model="prod/bot", messages=[{"role": "user", "content": "caf\u00e9?"}], temperature=0.2, seed=2**63 - 1
        )
    facts = read_request(sent[0])
    assert facts.malformed is None
    assert facts.parts[0].sha256 == sha("caf\u00e9?")
    assert facts.sampler == {"temperature": "0.2", "seed": "9223372036854775807", "seed_source": "client"}
    assert read_response(answer()).texts == (said.choices[0].message.content,)


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ('"user": "ann"', "ann"),
        ('"user": "old", "safety_identifier": "ann"', "ann"),
        ('"user": "ann", "safety_identifier": ""', "ann"),
        ('"user": "ann", "safety_identifier": null', "ann"),
        ('"user": 7', None),
        ('"user": {"id": "ann"}', None),
        ('"model": "m"', None),
    ],
)
def test_whom_a_call_is_about(fields: str, subject: str | None) -> None:
    assert read_request(f'{{"messages": [], {fields}}}'.encode()).subject == subject
