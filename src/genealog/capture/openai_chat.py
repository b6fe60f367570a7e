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

import json
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from genealog.capture.sse import events
from genealog.core.call import Digest, Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode
from genealog.core.frames import MAX_BODY
from genealog.core.ids import sha256_hex

DIALECT = "openai-chat"

_WORDS = frozenset(("model", "tool_choice", "reasoning_effort", "verbosity", "service_tier"))  # never hold a text
_SAMPLER = ("temperature", "top_p", "top_k", "min_p", "seed")
_LONGEST = 256  # characters of a value that is spelled out
_DIGITS = 15  # so that a count fits 53 bits


class Number(str):
    """A JSON number as its exact token."""

    __slots__ = ()


class _Unreadable(Exception):  # noqa: N818 - never leaves this module; carries the code for `malformed`
    pass


def read_request(body: bytes) -> RequestFacts:
    """Read the body of a chat completion request."""
    try:
        request = _object(body)
        messages = _list(request.get("messages"))
        return RequestFacts(
            parameters={_key(key): _parameter(key, value) for key, value in request.items() if key != "messages"},
            sampler=_sampler(request),
            parts=tuple(part for index, message in enumerate(messages) for part in _parts(index, message)),
            last_texts=tuple(text for _, text, _ in _items(messages[-1]) if text) if messages else (),
            subject=_subject(request),
        )
    except _Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def read_response(
    body: bytes, *, content_type: str | None = None, content_encoding: str | None = None
) -> ResponseFacts:
    """Read the body of a chat completion response: JSON, or a stream of events that may end anywhere."""
    answer = _Answer()
    try:
        data = _decoded(body, (content_encoding or "identity").strip().lower())
        if (content_type or "").lower().startswith("text/event-stream") or data.startswith(b"data:"):
            for event in events(data):
                if event == "[DONE]":
                    break
                answer.take(_object(event.encode()))
        elif data:
            answer.take(_object(data))
        return answer.facts()
    except _Unreadable as error:
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
        self.model = _word(item.get("model")) or self.model
        self.fingerprint = _word(item.get("system_fingerprint")) or self.fingerprint
        if usage := _dict(item.get("usage")):
            self.usage = _usage(usage)
        if (error := item.get("error")) is not None:
            self.error = _error(error)
        for position, choice in enumerate(_list(item.get("choices"))):
            at = _count(_dict(choice).get("index"))
            self.choices.setdefault(position if at is None else at, _Choice()).take(_dict(choice))

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
            except _Unreadable as error:
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
        self.finish_reason = _word(choice.get("finish_reason")) or self.finish_reason
        said = _dict(choice.get("message")) or _dict(choice.get("delta"))
        self.role = _word(said.get("role")) or self.role
        self.strange = self.strange or said.get("audio") is not None
        self._take_content(said.get("content"))
        for name in ("reasoning_content", "reasoning"):
            self.reasoning += _strings(said.get(name))
        self.refusal += _strings(said.get("refusal"))
        for position, call in enumerate(_list(said.get("tool_calls"))):
            at = _count(_dict(call).get("index"))
            tool = self.tools.setdefault(
                position if at is None else at, _Tool(_word(_dict(call).get("type")) or "function")
            )
            tool.take(_dict(_dict(call).get("function")))
        if function := _dict(said.get("function_call")):
            self.tools.setdefault(0, _Tool("function_call")).take(function)

    def _take_content(self, content: object) -> None:
        if isinstance(content, str) and content:
            if not self.texts:
                self.texts.append([])
            self.texts[-1].append(content)
        for part in _list(content):
            text = _strings(_dict(part).get("text"))
            self.strange = self.strange or not text
            self.texts.append(text)

    def message(self) -> dict[str, Any]:
        """Return the canonical message. A part of a kind that we cannot spell makes it unreadable: a digest that
        leaves something out would call two different answers equal.
        """
        if self.strange:
            raise _Unreadable("part-not-understood")
        parts = [("reasoning", self.reasoning), *(("text", text) for text in self.texts), ("refusal", self.refusal)]
        message: dict[str, Any] = {
            "parts": [{"text": _joined(pieces), "type": kind} for kind, pieces in parts if pieces],
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
        self.name += _strings(function.get("name"))
        self.arguments += _strings(function.get("arguments"))

    def spelled(self) -> dict[str, str]:
        return {"arguments": _joined(self.arguments), "name": _joined(self.name), "type": self.kind}


def _parts(index: int, message: object) -> Iterator[Part]:
    fields = _dict(message)
    role = _word(fields.get("role")) or ""
    for kind, text, item in _items(message):
        committed = _spelled(item) if text is None else text.encode()
        yield Part(index=index, role=role, sha256=sha256_hex(committed), type=kind)
    for call in _list(fields.get("tool_calls")):
        yield Part(index=index, role=role, sha256=sha256_hex(_spelled(call)), type="tool_call")


def _items(message: object) -> Iterator[tuple[str, str | None, object]]:
    """Yield (type, text if it is one, as received) for each part of a message's content."""
    content = _dict(message).get("content")
    if _strings(content):
        yield "text", _joined(_strings(content)), content
    for item in _list(content):
        text = _strings(_dict(item).get("text"))
        yield _word(_dict(item).get("type")) or "unknown", _joined(text) if text else None, item


def _parameter(key: str, value: object) -> str | bool | Digest | None:
    if value is None or isinstance(value, bool):
        return value
    spelled_out = isinstance(value, Number) or (isinstance(value, str) and key in _WORDS)
    if isinstance(value, str) and spelled_out and len(value) <= _LONGEST:
        return _joined([value])
    return Digest(sha256=sha256_hex(_spelled(value)))


def _sampler(request: dict[str, Any]) -> dict[str, str]:
    sampler = {
        name: str(value)
        for name in _SAMPLER
        if isinstance(value := request.get(name), Number) and len(value) <= _LONGEST
    }
    return sampler | {"seed_source": "client" if "seed" in sampler else "none"}


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    found = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": _dict(usage.get("prompt_tokens_details")).get("cached_tokens"),
        "reasoning_tokens": _dict(usage.get("completion_tokens_details")).get("reasoning_tokens"),
    }
    return {name: count for name, value in found.items() if (count := _count(value)) is not None}


def _error(error: object) -> str:
    """Return the short code of an upstream's error; its message may quote the prompt and stays in the body."""
    fields = _dict(error)
    for name in ("code", "type"):
        if isinstance(value := fields.get(name), str) and 0 < len(value) <= 64 and value.isascii():
            return str(value)
    return "upstream-error"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_no_constant,
            object_pairs_hook=_unique,
        )
    except (ValueError, UnicodeDecodeError):
        raise _Unreadable("not-json") from None
    if not isinstance(value, dict):
        raise _Unreadable("not-an-object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unreadable("repeated-key")
    return found


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _Unreadable("content-encoding-unknown")
    inflate = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, as the header says
    try:
        data = inflate.decompress(body, MAX_BODY)
    except zlib.error:
        raise _Unreadable("content-encoding-broken") from None
    if inflate.unconsumed_tail:
        raise _Unreadable("decoded-body-too-big")
    return data


def _spelled(value: object) -> bytes:
    """Return JSON without white space, keys sorted by code point, numbers as received: one spelling to commit to."""
    if isinstance(value, Number):
        return value.encode()
    if isinstance(value, dict):
        items = (_spelled(key) + b":" + _spelled(value[key]) for key in sorted(value))
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join([_spelled(item) for item in value]) + b"]"
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _joined(pieces: list[str]) -> str:
    """Join pieces of a text; a surrogate pair may have been cut in two between them."""
    text = "".join(pieces)
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _Unreadable("text-not-unicode") from None


def _key(key: str) -> str:
    """Return an ASCII spelling of a foreign key. Two keys never share one."""
    return key.encode("unicode_escape").decode("ascii")


def _word(value: object) -> str | None:
    if not isinstance(value, str) or isinstance(value, Number):
        return None
    return _joined([value])[:_LONGEST]


def _strings(value: object) -> list[str]:
    return [value] if isinstance(value, str) and not isinstance(value, Number) and value else []


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, Number) and value.isdecimal() and len(value) <= _DIGITS else None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
