"""Ollama's own interface: chat, generate, embed, embeddings; whole, or one JSON object a line.

Source: github.com/ollama/ollama/blob/main/docs/api.md; package `ollama`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.blocks import (
    Answer,
    Said,
    asked,
    collect,
    counts,
    media_part,
    other_part,
    parameters,
    sampler,
    strings,
    text_part,
)
from genealog.capture.dialects.foreign import as_dict, as_list, as_strings, as_word, read_object
from genealog.capture.dialects.json_stream import lines
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts

_WORDS = frozenset(("model", "keep_alive", "think"))
_PARTS = ("messages", "prompt", "system", "suffix", "images", "input")
_SAMPLER = {name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed")}


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    return asked(lambda: _request(read_object(body)))


def _request(request: dict[str, Any]) -> RequestFacts:
    messages = list(_messages(request))
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=_PARTS, opened=("options",)),
        sampler=sampler(as_dict(request.get("options")), _SAMPLER),
        parts=tuple(part for index, message in enumerate(messages) for part in _parts(index, message)),
        last_texts=tuple(as_strings(messages[-1].get("content"))) if messages else (),
    )


def _messages(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is asked as messages, whatever the operation calls it."""
    if as_strings(request.get("system")):
        yield {"role": "system", "content": request["system"]}
    if "prompt" in request or "images" in request:
        yield {"role": "user", "content": request.get("prompt"), "images": request.get("images")}
    if as_strings(request.get("suffix")):
        yield {"role": "suffix", "content": request["suffix"]}
    for text in [*as_strings(request.get("input")), *strings(as_list(request.get("input")))]:
        yield {"role": "user", "content": text}
    for message in as_list(request.get("messages")):
        yield as_dict(message)


def _parts(index: int, message: dict[str, Any]) -> Iterator[Part]:
    role = as_word(message.get("role")) or ""
    for text in as_strings(message.get("content")):
        yield text_part(index, role, "text", text)
    for text in as_strings(message.get("thinking")):
        yield text_part(index, role, "thinking", text)
    for image in as_list(message.get("images")):
        data = as_strings(image)
        yield media_part(index, role, "image", data, None) if data else other_part(index, role, "image", image)
    for call in as_list(message.get("tool_calls")):
        yield other_part(index, role, "tool_call", call)


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`."""
    answer = _Answer(status)

    def feed(data: bytes) -> None:
        if "ndjson" in (content_type or "").lower() or b"\n{" in data.strip():
            for item in lines(data):
                answer.take(item)
        else:
            answer.take(read_object(data))

    return collect(answer, body, content_encoding, feed)


class _Answer(Answer):
    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self._seen = False
        self._role = "assistant"
        self._finish: str | None = None
        self._thinking: list[str] = []
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._images: list[str] = []

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or a line."""
        if "error" in item:
            self.fail(item["error"])
        self.model = as_word(item.get("model")) or self.model
        message = as_dict(item.get("message"))
        self._seen = self._seen or bool(message) or "response" in item
        self._role = as_word(message.get("role")) or self._role
        self._finish = as_word(item.get("done_reason")) or self._finish
        self._text += [*as_strings(message.get("content")), *as_strings(item.get("response"))]
        self._thinking += [*as_strings(message.get("thinking")), *as_strings(item.get("thinking"))]
        self._calls += [as_dict(as_dict(call).get("function")) for call in as_list(message.get("tool_calls"))]
        self._images += [*strings(as_list(message.get("images"))), *as_strings(item.get("image"))]
        self.vectors += as_list(item.get("embeddings"))
        if as_list(item.get("embedding")):
            self.vectors.append(item["embedding"])
        counted = counts({"prompt_tokens": item.get("prompt_eval_count"), "completion_tokens": item.get("eval_count")})
        self.usage = counted or self.usage

    def said(self) -> list[Said]:
        """As `Answer`."""
        if not self._seen and not self._images:
            return []
        said = Said(self._role, self._finish)
        said.text(self._thinking, "reasoning")
        said.text(self._text)
        for image in self._images:
            said.attach("image", [image], None)
        for call in self._calls:
            said.call(as_word(call.get("name")) or "", as_dict(call.get("arguments")))
        return [said]
