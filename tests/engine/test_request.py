"""A request is understood as a whole or refused by the name of what is not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.engine.request import ChatRequest, ParameterError, parse_chat, spelling
from genealog.errors import MalformedError

HELLO = [{"role": "user", "content": "hello"}]


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "anything", "messages": HELLO} | fields).encode())


def test_defaults_are_those_of_openai() -> None:
    request = parse()
    assert request == ChatRequest(
        messages=({"role": "user", "content": "hello"},), temperature=1, top_p=1, seed=None, max_tokens=None, stop=(),
        stream=False, include_usage=False, logprobs=None,
    )  # fmt: skip


@pytest.mark.parametrize(("sent", "kept"), [("0.70", "0.70"), ("7e-1", "7e-1"), ("0", "0"), ("1.0", "1.0")])
def test_numbers_keep_their_spelling(sent: str, kept: str) -> None:
    request = parse_chat(b'{"messages": [{"role": "user", "content": ""}], "temperature": %s}' % sent.encode())
    assert spelling(request.temperature) == kept
    assert spelling(parse().temperature) == "1"
    assert spelling(0.25) == "0.25"


def test_neutral_and_null_parameters_pass() -> None:
    fields = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "user": "u"}
    fields |= {"response_format": {"type": "text"}, "stop": None, "seed": None, "reasoning_effort": None}
    assert parse(**fields) == parse()


def test_text_parts_are_joined_and_developers_are_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse(messages=[{"role": "developer", "content": parts}, {"role": "user", "content": "c", "name": "n"}])
    assert request.messages == ({"role": "system", "content": "ab"}, {"role": "user", "content": "c"})


@pytest.mark.parametrize(
    ("parameter", "fields"),
    [
        ("n", {"n": 2}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("logit_bias", {"logit_bias": {"50256": -100}}),
        ("tools", {"tools": [{"type": "function"}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("top_k", {"top_k": 3}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": "0.5"}),
        ("temperature", {"temperature": True}),
        ("top_p", {"top_p": -0.1}),
        ("seed", {"seed": 2**64}),
        ("seed", {"seed": 1.0}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 3, "max_completion_tokens": 4}),
        ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
        ("stop", {"stop": ""}),
        ("stop", {"stop": 5}),
        ("stream", {"stream": 1}),
        ("stream_options", {"stream_options": {"padding": True}}),
        ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hello"}),
        ("messages[0]", {"messages": ["hello"]}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": ""}]}),
        ("messages[0].role", {"messages": [{"role": ["user"], "content": ""}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("messages[0].tool_calls", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": "\ud800"}]}),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(parameter: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as caught:
        parse(**fields)
    assert caught.value.parameter == parameter
    assert caught.value.code == "unsupported-parameter"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"nul", b"\xff", b'{"seed": NaN}', b'{"n": 1, "n": 2}', b'{"a": ' * 100_000, b"1" * 5000],
)
def test_what_is_not_one_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="not-json"):
        parse_chat(body)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"messages": value, "stop": value, "seed": value}).encode()
))  # fmt: skip
def test_nothing_but_our_errors_comes_out(body: bytes) -> None:
    with suppress(MalformedError):
        parse_chat(body)
