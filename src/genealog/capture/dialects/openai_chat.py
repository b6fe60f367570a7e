"""OpenAI chat completions: request and response bytes in, facts out. Whole or streamed, complete or cut.

Also of Azure, vLLM, and others who speak it. `content` is the canonical message (role, ordered parts, tool calls,
finish reason; no IDs, padding, timestamps), so that a stream and a whole response with the same text have the same
digest. A field of a message that we cannot spell makes the answer `part-not-understood`. Of several usage snapshots the
last one wins; they are never added up.

Source: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects import media
from genealog.capture.dialects.foreign import (
    Number,
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    as_word,
    joined,
    read_object,
    spelled,
)
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    digest_of,
    error_code,
    items,
    not_understood,
    parameters,
    parts_of,
    sampler,
    subject,
    usage_counts,
)
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode_made
from genealog.core.ids import sha256_hex

DIALECT = "openai-chat"

_UNDERSTOOD = frozenset((
    "annotations", "audio", "content", "function_call", "images", "reasoning", "reasoning_content", "refusal", "role",
    "tool_calls",
))  # fmt: skip
_USUAL = frozenset(("content", "refusal", "role"))
_TOOL = frozenset(("custom", "function", "id", "index", "type"))


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    try:
        request = read_object(body)
        messages = as_list(request.get("messages"))
        return RequestFacts(
            parameters=parameters(request, "messages"),
            sampler=sampler(request),
            parts=tuple([part for index, message in enumerate(messages) for part in _parts(index, as_dict(message))]),
            last_texts=_texts(messages[-1]) if messages else (),
            subject=subject(request),
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    return answered(_Answer(), body, status=status, content_type=content_type, content_encoding=content_encoding)


class _Answer:
    """What one response says, collected from one object or from many deltas."""

    def __init__(self) -> None:
        self.choices: dict[int, _Choice] = {}
        self.usage: dict[str, int] | None = None
        self.tier: str | None = None
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.error: str | None = None

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or one delta."""
        self.model = as_word(item.get("model")) or self.model
        self.fingerprint = as_word(item.get("system_fingerprint")) or self.fingerprint
        self.tier = as_word(item.get("service_tier")) or self.tier
        if usage := as_dict(item.get("usage")):
            self.usage = usage_counts(usage)
        if (error := item.get("error")) is not None:
            self.error = error_code(error)
        for position, choice in enumerate(as_list(item.get("choices"))):
            at = as_count(as_dict(choice).get("index"))
            self.choices.setdefault(position if at is None else at, _Choice()).take(as_dict(choice))

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected; a response that is malformed has no `content`, no texts and no parts."""
        content, finish_reason = None, None
        texts: tuple[str, ...] = ()
        parts: tuple[Part, ...] = ()
        if self.choices and malformed is None:
            choices = [self.choices[index] for index in sorted(self.choices)]
            finish_reason = choices[0].finish_reason
            try:
                messages = [choice.message() for choice in choices]
                content = encode_made({"messages": messages, "t": CONTENT})
                texts = tuple([text for choice in choices for text in choice.read()])
                parts = tuple([part for index in sorted(self.choices) for part in self.choices[index].shown(index)])
            except Unreadable as error:
                content, malformed = None, str(error)
        return ResponseFacts(
            content=content,
            texts=texts,
            finish_reason=finish_reason,
            usage=self.usage,
            tier=self.tier,
            parts=parts,
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
        self.reasoning: dict[str, list[str]] = {}
        self.texts: list[list[str]] = []
        self.refusal: list[str] = []
        self.transcript: list[str] = []
        self.audio: list[str] | None = None
        self.images: list[media.Media] = []
        self.annotations: list[object] = []
        self.tools: dict[int, _Tool] = {}
        self.strange = False

    def take(self, choice: dict[str, Any]) -> None:
        self.finish_reason = as_word(choice.get("finish_reason")) or self.finish_reason
        said = as_dict(choice.get("message")) or as_dict(choice.get("delta"))
        self._take_content(said.get("content"))
        self.role = as_word(said.get("role")) or self.role
        self.refusal += as_strings(said.get("refusal"))
        if said.keys() <= _USUAL:
            return
        self.strange = self.strange or any(said[name] not in (None, [], {}, "") for name in said.keys() - _UNDERSTOOD)
        for name in ("reasoning_content", "reasoning"):
            if name in said:
                self.reasoning.setdefault(name, []).extend(as_strings(said[name]))
        self.annotations += as_list(said.get("annotations"))
        self._take_media(said)
        for position, call in enumerate(as_list(said.get("tool_calls"))):
            at = as_count(as_dict(call).get("index"))
            tool = self.tools.setdefault(position if at is None else at, _Tool("function"))
            self.strange = tool.take(as_dict(call)) or self.strange
        if function := as_dict(said.get("function_call")):
            self.tools.setdefault(0, _Tool("function_call")).add(function, "arguments")

    def _take_content(self, content: object) -> None:
        if isinstance(content, str) and content:
            if not self.texts:
                self.texts.append([])
            self.texts[-1].append(content)
        for part in as_list(content):
            text = as_strings(as_dict(part).get("text"))
            self.strange = self.strange or not text
            self.texts.append(text)

    def _take_media(self, said: dict[str, Any]) -> None:
        if audio := as_dict(said.get("audio")):
            self.audio = self.audio or []
            self.audio += as_strings(audio.get("data"))
            self.transcript += as_strings(audio.get("transcript"))
        for image in as_list(said.get("images")):
            url = as_dict(as_dict(image).get("image_url")).get("url")
            self.strange = self.strange or not as_strings(url)
            self.images += [media.of_url(text) for text in as_strings(url)]

    def message(self) -> dict[str, Any]:
        """Return the canonical message. Raises: Unreadable `part-not-understood`."""
        if self.strange:
            raise not_understood()
        parts: list[dict[str, Any]] = []
        if self.reasoning:  # a server may say it under both names
            texts = dict.fromkeys([joined(pieces) for pieces in self.reasoning.values() if pieces])
            parts += [{"text": text, "type": "reasoning"} for text in texts]
        parts += [{"text": joined(pieces), "type": "text"} for pieces in self.texts if pieces]
        if self.transcript:
            parts.append({"text": joined(self.transcript), "type": "transcript"})
        if self.refusal:
            parts.append({"text": joined(self.refusal), "type": "refusal"})
        parts += [_committed(part) for part in self.shown(0)]
        message: dict[str, Any] = {
            "parts": parts,
            "role": self.role,
            "tool_calls": [self.tools[index].spelled() for index in sorted(self.tools)],
        }
        if self.annotations:
            message["annotations"] = digest_of(self.annotations)
        if self.finish_reason is not None:
            message["finish_reason"] = self.finish_reason
        return message

    def read(self) -> list[str]:
        """Return what a person reads or hears of it."""
        return [joined(pieces) for pieces in (*self.texts, self.transcript) if pieces]

    def shown(self, index: int) -> list[Part]:
        """Return its audio and images. Raises: Unreadable `part-not-understood` if the audio is not base64."""
        if not self.images and self.audio is None:
            return []
        found = [image.part(index, self.role, "image") for image in self.images]
        if self.audio is not None:
            if (audio := media.of_streamed(self.audio)) is None:
                raise not_understood()
            found.append(audio.part(index, self.role, "audio"))
        return found


def _committed(part: Part) -> dict[str, Any]:
    size = {} if part.size is None else {"size": part.size}
    return {"sha256": part.sha256, "type": part.type, **size}


class _Tool:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name: list[str] = []
        self.arguments: list[str] = []

    def take(self, call: dict[str, Any]) -> bool:
        """Add a call, or a piece of it; say whether there is more to it than we can spell."""
        self.kind = as_word(call.get("type")) or self.kind
        self.add(as_dict(call.get("function")), "arguments")
        self.add(as_dict(call.get("custom")), "input")
        return any(call[name] not in (None, [], {}, "") for name in call.keys() - _TOOL)

    def add(self, function: dict[str, Any], field: str) -> None:
        self.name += as_strings(function.get("name"))
        self.arguments += as_strings(function.get(field))

    def spelled(self) -> dict[str, str]:
        return {"arguments": joined(self.arguments), "name": joined(self.name), "type": self.kind}


def _texts(message: object) -> tuple[str, ...]:
    content = as_dict(message).get("content")
    return tuple([text for _, text, _ in items(content) if text])


def _parts(index: int, message: dict[str, Any]) -> Iterator[Part]:
    role = as_word(message.get("role")) or ""
    content = message.get("content")
    if isinstance(content, str) and content.isascii() and content and not isinstance(content, Number):
        yield Part(index=index, role=role, sha256=sha256_hex(content.encode()), type="text")
    else:
        yield from parts_of(index, role, content)
    if len(message) == 2:
        return
    for refusal in as_strings(message.get("refusal")):
        yield Part(index=index, role=role, sha256=sha256_hex(joined([refusal]).encode()), type="refusal")
    for name in as_strings(as_dict(message.get("audio")).get("id")):
        yield media.reference(name).part(index, role, "audio")
    for call in as_list(message.get("tool_calls")):
        yield Part(index=index, role=role, sha256=sha256_hex(spelled(call)), type="tool_call")
    if function := as_dict(message.get("function_call")):
        yield Part(index=index, role=role, sha256=sha256_hex(spelled(function)), type="function_call")
