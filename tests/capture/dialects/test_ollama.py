from __future__ import annotations

import base64
import json
from typing import Any

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.dialects.reading import bodies, check_request, check_response, messages, sha, texts
from gateway.fake_ollama import (
    MODEL,
    PNG,
    TEXT,
    THINKING,
    VECTORS,
    chat,
    chat_items,
    embed,
    error,
    generate,
    generate_items,
    image,
    lines,
)
from genealog.capture.dialects.ollama import read_request, read_response

LINES = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
FIELDS = ("model", "message", "messages", "content", "role", "thinking", "tool_calls", "function", "name", "arguments",
          "response", "done_reason", "eval_count", "prompt_eval_count", "embedding", "embeddings", "error", "images",
          "image", "options", "seed", "prompt", "system", "input")  # fmt: skip


@given(texts, st.integers(1, 9))
def test_a_stream_and_a_whole_answer_agree(text: str, size: int) -> None:
    whole = read_response(chat(text), content_type=JSON)
    assert whole == read_response(b"".join(lines(chat_items(text, size=size))), content_type=LINES)
    assert whole.texts == ((text,) if text else ())
    whole = read_response(generate(text, image=image()), content_type=JSON)
    streamed = read_response(b"".join(lines(generate_items(text, size=size, image=image()))), content_type=LINES)
    assert whole == streamed
    assert whole.parts[0].sha256 == sha(PNG)
    assert whole.content is not None


def test_an_answer_says_what_the_client_says() -> None:
    facts = read_response(chat(), content_type=JSON)
    said = ollama.ChatResponse.model_validate_json(chat())
    assert facts.usage == {"prompt_tokens": said.prompt_eval_count, "completion_tokens": said.eval_count}
    assert (facts.model, facts.finish_reason, facts.texts) == (said.model, said.done_reason, (said.message.content,))
    (message,) = messages(facts)
    assert message["parts"][0] == {"text": THINKING, "type": "reasoning"}
    assert said.message.tool_calls is not None
    (call,) = message["tool_calls"]
    assert call["name"] == said.message.tool_calls[0].function.name
    assert json.loads(call["arguments"]) == said.message.tool_calls[0].function.arguments


def test_usage_wherever_a_stream_ends() -> None:
    items = chat_items()
    for taken in range(len(items) + 1):
        facts = read_response(b"".join(lines(items[:taken])), content_type=LINES)
        said = [ollama.ChatResponse.model_validate(item) for item in items[:taken]]
        done = said and said[-1].done
        assert facts.malformed is None
        assert facts.usage == ({"prompt_tokens": 12, "completion_tokens": said[-1].eval_count} if done else None)
        assert "".join(facts.texts) == "".join(one.message.content or "" for one in said)


def test_a_stream_may_be_cut_at_any_byte() -> None:
    for body in (b"".join(lines(chat_items())), b"".join(lines(generate_items()))):
        for length in range(len(body)):
            facts = read_response(body[:length], content_type=LINES)
            assert facts.malformed is None
            assert TEXT.startswith("".join(facts.texts))


def test_vectors() -> None:
    facts = read_response(embed(), content_type=JSON)
    said = ollama.EmbedResponse.model_validate_json(embed())
    assert facts.content is not None
    assert len(json.loads(facts.content)["embeddings"]) == len(said.embeddings) == len(VECTORS)
    assert facts.usage == {"prompt_tokens": said.prompt_eval_count}
    old = read_response(json.dumps({"embedding": VECTORS[0]}).encode(), content_type=JSON)
    assert old.content is not None
    assert json.loads(old.content)["embeddings"] == json.loads(facts.content)["embeddings"][:1]


@pytest.mark.parametrize("before", [[], lines(chat_items())[:3]])
def test_an_error_leaves_no_message(before: list[bytes]) -> None:
    facts = read_response(b"".join(before) + error() + b"\n", status=404, content_type=LINES)
    assert (facts.error, facts.malformed) == ("upstream-error", None)


@pytest.mark.parametrize(
    ("body", "code"), [(b"<html>\n", "not-json"), (b"{\n{}\n", "not-json"), (b'{"a":1,"a":2}\n', "repeated-key")]
)
def test_lines_that_cannot_be_read(body: bytes, code: str) -> None:
    assert read_response(body, content_type=LINES).malformed == code


def asked_by_client(operation: str, **fields: Any) -> dict[str, Any]:
    """Return what Ollama's client sends."""
    kinds = {"chat": "ChatRequest", "generate": "GenerateRequest", "embed": "EmbedRequest"}
    kind = getattr(ollama._types, kinds[operation])
    sent: dict[str, Any] = kind(model=MODEL, **fields).model_dump(exclude_none=True)
    return sent


def test_what_the_client_sends_is_read() -> None:
    options = {"temperature": 0.2, "seed": 7, "num_ctx": 4096, "min_p": 0.05}
    body = asked_by_client(
        "chat",
        options=options,
        think="high",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": [base64.b64encode(PNG).decode()]},
            {"role": "assistant", "thinking": "hm", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "f", "content": "42"},
        ],
    )
    facts = read_request(json.dumps(body).encode())
    assert [(part.index, part.role, part.type, part.size) for part in facts.parts] == [
        (0, "system", "text", None),
        (1, "user", "text", None),
        (1, "user", "image", len(PNG)),
        (2, "assistant", "thinking", None),
        (2, "assistant", "tool_call", None),
        (3, "tool", "text", None),
    ]
    assert facts.parts[2].sha256 == sha(PNG)
    assert facts.last_texts == ("42",)
    assert facts.sampler == {"temperature": "0.2", "min_p": "0.05", "seed": "7", "seed_source": "client"}
    assert facts.parameters["options.num_ctx"] == "4096"
    assert facts.parameters["think"] == "high"


def test_other_operations_are_read() -> None:
    generated = asked_by_client("generate", prompt="a", system="s", suffix="z", images=[ollama._types.Image(value=PNG)])
    facts = read_request(json.dumps(generated).encode())
    assert [(part.role, part.type) for part in facts.parts] == [
        ("system", "text"), ("user", "text"), ("user", "image"), ("suffix", "text"),
    ]  # fmt: skip
    embedded = asked_by_client("embed", input=["a", "b"])
    facts = read_request(json.dumps(embedded).encode())
    assert [(part.index, part.sha256) for part in facts.parts] == [(0, sha("a")), (1, sha("b"))]


@given(bodies(FIELDS), st.sampled_from([None, JSON, LINES]))
def test_nothing_makes_the_reader_fail(body: bytes, kind: str | None) -> None:
    check_request(read_request(body))
    check_response(read_response(body, content_type=kind))


@given(st.lists(bodies(FIELDS), max_size=4))
def test_no_stream_makes_the_reader_fail(parts: list[bytes]) -> None:
    check_response(read_response(b"\n".join(parts), content_type=LINES))
