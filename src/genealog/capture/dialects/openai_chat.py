"""OpenAI chat completions: request and response bytes in, facts out. Whole or streamed, complete or cut.

Nothing here fails: the call has happened, and what cannot be read is said in `malformed`. Numbers keep the exact
token that was received. A JSON object with a repeated key is not interpreted, because two readers of it may disagree
about what was asked.

`content` is the canonical message (role, ordered parts, tool calls, finish reason; no IDs, padding, timestamps), so
that a stream and a whole response with the same text have the same digest. Of several usage snapshots the last one
wins; they are never added up.

Source: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.foreign import (
    LONGEST,
    Number,
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    as_word,
    ascii_key,
    decoded,
    joined,
    read_object,
    spelled,
)
from genealog.capture.dialects.sse import events
from genealog.core.call import Digest, Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex

DIALECT = "openai-chat"

_WORDS = frozenset(("model", "tool_choice", "reasoning_effort", "verbosity", "service_tier"))  # never hold a text
_SAMPLER = ("temperature", "top_p", "top_k", "min_p", "seed")


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    try:
        request = read_object(body)
        messages = as_list(request.get("messages"))
        return RequestFacts(
            parameters={ascii_key(key): _parameter(key, value) for key, value in request.items() if key != "messages"},
            sampler=_sampler(request),
            parts=tuple(part for index, message in enumerate(messages) for part in _parts(index, message)),
            last_texts=tuple(text for _, text, _ in _items(messages[-1]) if text) if messages else (),
            subject=_subject(request),
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,  # noqa: ARG001
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    answer = _Answer()
    try:
        data = decoded(body, (content_encoding or "identity").strip().lower())
        if (content_type or "").lower().startswith("text/event-stream") or data.startswith(b"data:"):
            for event in events(data):
                if event == "[DONE]":
                    break
                answer.take(read_object(event.encode()))
        elif data:
            answer.take(read_object(data))
        return answer.facts()
    except Unreadable as error:
        return answer.facts(malformed=str(error))
    except RecursionError:
        return answer.facts(malformed="json-too-deep")


def _subject(request: dict[str, Any]) -> str | None:
    """Return whom the client says that it asks for: `safety_identifier`, else `user`, which it replaces."""
    named = (request.get(name) for name in ("safety_identifier", "user"))
    return next((str(name) for name in named if isinstance(name, str) and not isinstance(name, Number) and name), None)


class _Answer:
    """What one response says, collected from one object or from many deltas."""

    def __init__(self) -> None:
        self.choices: dict[int, _Choice] = {}
        self.usage: dict[str, int] | None = None
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.error: str | None = None

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or one delta."""
        self.model = as_word(item.get("model")) or self.model
        self.fingerprint = as_word(item.get("system_fingerprint")) or self.fingerprint
        if usage := as_dict(item.get("usage")):
            self.usage = _usage(usage)
        if (error := item.get("error")) is not None:
            self.error = _error(error)
        for position, choice in enumerate(as_list(item.get("choices"))):
            at = as_count(as_dict(choice).get("index"))
            self.choices.setdefault(position if at is None else at, _Choice()).take(as_dict(choice))

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected; a response that is malformed has no `content` and no texts."""
        content, texts, finish_reason = None, (), None
        if self.choices and malformed is None:
            choices = [self.choices[index] for index in sorted(self.choices)]
            finish_reason = choices[0].finish_reason
            try:
                messages = [choice.message() for choice in choices]
                content = encode({"messages": messages, "t": "genealog/content/v1"})
                texts = tuple(
                    part["text"] for message in messages for part in message["parts"] if part["type"] == "text"
                )
            except Unreadable as error:
                malformed = str(error)
        return ResponseFacts(
            content=content,
            texts=texts,
            finish_reason=finish_reason,
            usage=self.usage,
            model=self.model,
            fingerprint=self.fingerprint,
            error=self.error,
            malformed=malformed,
        )


class _Choice:
    """One choice. Pieces of the same text are joined at the end, when surrogate pairs are whole again."""

    def __init__(self) -> None:
        self.role = "assistant"
        self.finish_reason: str | None = None
        self.reasoning: list[str] = []
        self.texts: list[list[str]] = []
        self.refusal: list[str] = []
        self.tools: dict[int, _Tool] = {}
        self.strange = False

    def take(self, choice: dict[str, Any]) -> None:
        self.finish_reason = as_word(choice.get("finish_reason")) or self.finish_reason
        said = as_dict(choice.get("message")) or as_dict(choice.get("delta"))
        self.role = as_word(said.get("role")) or self.role
        self.strange = self.strange or said.get("audio") is not None
        self._take_content(said.get("content"))
        for name in ("reasoning_content", "reasoning"):
            self.reasoning += as_strings(said.get(name))
        self.refusal += as_strings(said.get("refusal"))
        for position, call in enumerate(as_list(said.get("tool_calls"))):
            at = as_count(as_dict(call).get("index"))
            tool = self.tools.setdefault(
                position if at is None else at, _Tool(as_word(as_dict(call).get("type")) or "function")
            )
            tool.take(as_dict(as_dict(call).get("function")))
        if function := as_dict(said.get("function_call")):
            self.tools.setdefault(0, _Tool("function_call")).take(function)

    def _take_content(self, content: object) -> None:
        if isinstance(content, str) and content:
            if not self.texts:
                self.texts.append([])
            self.texts[-1].append(content)
        for part in as_list(content):
            text = as_strings(as_dict(part).get("text"))
            self.strange = self.strange or not text
            self.texts.append(text)

    def message(self) -> dict[str, Any]:
        """Return the canonical message. A part of a kind that we cannot spell makes it unreadable: a digest that
        leaves something out would call two different answers equal.
        """
        if self.strange:
            raise Unreadable("part-not-understood")
        parts = [("reasoning", self.reasoning), *(("text", text) for text in self.texts), ("refusal", self.refusal)]
        message: dict[str, Any] = {
            "parts": [{"text": joined(pieces), "type": kind} for kind, pieces in parts if pieces],
            "role": self.role,
            "tool_calls": [self.tools[index].spelled() for index in sorted(self.tools)],
        }
        if self.finish_reason is not None:
            message["finish_reason"] = self.finish_reason
        return message


class _Tool:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name: list[str] = []
        self.arguments: list[str] = []

    def take(self, function: dict[str, Any]) -> None:
        self.name += as_strings(function.get("name"))
        self.arguments += as_strings(function.get("arguments"))

    def spelled(self) -> dict[str, str]:
        return {"arguments": joined(self.arguments), "name": joined(self.name), "type": self.kind}


def _parts(index: int, message: object) -> Iterator[Part]:
    fields = as_dict(message)
    role = as_word(fields.get("role")) or ""
    for kind, text, item in _items(message):
        committed = spelled(item) if text is None else text.encode()
        yield Part(index=index, role=role, sha256=sha256_hex(committed), type=kind)
    for call in as_list(fields.get("tool_calls")):
        yield Part(index=index, role=role, sha256=sha256_hex(spelled(call)), type="tool_call")


def _items(message: object) -> Iterator[tuple[str, str | None, object]]:
    """Yield (type, text if it is one, as received) for each part of a message's content."""
    content = as_dict(message).get("content")
    if as_strings(content):
        yield "text", joined(as_strings(content)), content
    for item in as_list(content):
        text = as_strings(as_dict(item).get("text"))
        yield as_word(as_dict(item).get("type")) or "unknown", joined(text) if text else None, item


def _parameter(key: str, value: object) -> str | bool | Digest | None:
    if value is None or isinstance(value, bool):
        return value
    spelled_out = isinstance(value, Number) or (isinstance(value, str) and key in _WORDS)
    if isinstance(value, str) and spelled_out and len(value) <= LONGEST:
        return joined([value])
    return Digest(sha256=sha256_hex(spelled(value)))


def _sampler(request: dict[str, Any]) -> dict[str, str]:
    sampler = {
        name: str(value)
        for name in _SAMPLER
        if isinstance(value := request.get(name), Number) and len(value) <= LONGEST
    }
    return sampler | {"seed_source": "client" if "seed" in sampler else "none"}


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    found = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": as_dict(usage.get("prompt_tokens_details")).get("cached_tokens"),
        "reasoning_tokens": as_dict(usage.get("completion_tokens_details")).get("reasoning_tokens"),
    }
    return {name: count for name, value in found.items() if (count := as_count(value)) is not None}


def _error(error: object) -> str:
    """Return the short code of an upstream's error; its message may quote the prompt and stays in the body."""
    fields = as_dict(error)
    for name in ("code", "type"):
        if isinstance(value := fields.get(name), str) and 0 < len(value) <= 64 and value.isascii():
            return str(value)
    return "upstream-error"
