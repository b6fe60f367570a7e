"""Google's generateContent, of the Gemini API and of Vertex: whole, as events (`alt=sse`), or as an array that grows.

The last `usageMetadata` that counts wins. `promptTokenCount` there leaves out what tools gave, and
`candidatesTokenCount` the thoughts; here a prompt is all that went in, a completion all that came out. Texts of one
kind that follow each other are one part, because a stream cuts them where it likes. Grounding and citations are left
out of `content`.

Source: ai.google.dev/api/generate-content,
docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference; package `google-genai`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.blocks import (
    Answer,
    Said,
    asked,
    collect,
    field_of,
    known,
    media_part,
    other_part,
    parameters,
    sampler,
    strings,
    text_part,
    total,
    word,
)
from genealog.capture.dialects.foreign import as_count, as_dict, as_list, as_strings, read_object
from genealog.capture.dialects.json_stream import array_items
from genealog.capture.dialects.sse import events
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.ids import sha256_hex

_CONFIG = "generationConfig"
_WORDS = frozenset(
    f"{prefix}{name}"
    for prefix in ("", f"{_CONFIG}.", "generation_config.")
    for name in ("cachedContent", "mediaResolution", "model", "responseMimeType", "response_mime_type", "serviceTier")
)
_PARTS = ("contents", "systemInstruction", "system_instruction")
_SAMPLER = {"temperature": "temperature", "topP": "top_p", "topK": "top_k", "seed": "seed"}
_KINDS = (
    "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult", "toolCall",
    "toolResponse",
)  # fmt: skip
_ABOUT = frozenset(("thought", "thoughtSignature", "thought_signature"))


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    return asked(lambda: _request(read_object(body)))


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
        if (content_type or "").lower().startswith("text/event-stream") or data.startswith(b"data:"):
            for event in events(data):
                answer.take(read_object(event.encode()))
        elif data.lstrip().startswith(b"["):
            for item in array_items(data):
                answer.take(item)
        else:
            answer.take(read_object(data))

    return collect(answer, body, content_encoding, feed)


def _request(request: dict[str, Any]) -> RequestFacts:
    contents = as_list(request.get("contents"))
    if isinstance(request.get("contents"), dict):
        contents = [request["contents"]]
    if system := field_of(request, "systemInstruction"):
        contents = [as_dict(system) | {"role": "system"}, *contents]
    config = as_dict(field_of(request, _CONFIG))
    chosen = {name: field_of(config, name) for name in _SAMPLER}
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=_PARTS, opened=(_CONFIG, "generation_config")),
        sampler=sampler(chosen, _SAMPLER),
        parts=tuple(part for index, content in enumerate(contents) for part in content_parts(index, content)),
        last_texts=last_texts(contents[-1]) if contents else (),
    )


def last_texts(content: object) -> tuple[str, ...]:
    """Return the texts of a content."""
    return tuple(strings(as_dict(part).get("text") for part in as_list(as_dict(content).get("parts"))))


def content_parts(index: int, content: object) -> Iterator[Part]:
    """Yield the parts of a content, each committed to."""
    fields = as_dict(content)
    role = word(fields, "role") or "user"
    for item in as_list(fields.get("parts")):
        part = as_dict(item)
        kind = _kind(part)
        value = as_dict(field_of(part, kind))
        text = as_strings(part.get("text"))
        data = as_strings(value.get("data"))
        if text:
            yield text_part(index, role, "thought" if part.get("thought") is True else "text", text[0])
        elif kind == "inlineData" and data:
            yield media_part(index, role, kind, data, word(value, "mimeType"))
        elif kind == "fileData" and (uri := as_strings(field_of(value, "fileUri"))):
            yield other_part(index, role, kind, uri[0], word(value, "mimeType"))
        else:
            yield other_part(index, role, kind, item)
        if kind == "functionResponse":
            yield from content_parts(index, {"role": role, "parts": value.get("parts")})


def _kind(part: dict[str, Any]) -> str:
    return next((kind for kind in _KINDS if field_of(part, kind) is not None), "unknown")


class _Answer(Answer):
    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self._candidates: dict[int, _Candidate] = {}
        self._blocked: str | None = None
        self._searches: dict[int, int] = {}

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or a part of a stream."""
        if "error" in item:
            self.fail(item["error"])
        self.model = word(item, "modelVersion") or self.model
        self._blocked = word(as_dict(field_of(item, "promptFeedback")), "blockReason") or self._blocked
        for position, value in enumerate(as_list(item.get("candidates"))):
            candidate = as_dict(value)
            index = as_count(candidate.get("index"))
            at = position if index is None else index
            self._candidates.setdefault(at, _Candidate(at)).take(candidate)
            queries = field_of(as_dict(field_of(candidate, "groundingMetadata")), "webSearchQueries")
            if as_list(queries):
                self._searches[at] = len(as_list(queries))
        usage = as_dict(field_of(item, "usageMetadata"))
        self.tier = word(usage, "trafficType") or word(usage, "serviceTier") or self.tier
        if counted := usage_of(usage):
            self.usage = counted
        if self._searches and self.usage is not None:
            self.usage = self.usage | {"searches": sum(self._searches.values())}

    def said(self) -> list[Said]:
        """As `Answer`."""
        return [self._candidates[at].said() for at in sorted(self._candidates)]

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """As `Answer`; a prompt that was blocked has the reason where an answer has its end."""
        if self._blocked and not self._candidates and malformed is None:
            return ResponseFacts(
                finish_reason=self._blocked, usage=self.usage, tier=self.tier, model=self.model, error=self.error
            )
        return super().facts(malformed)


class _Candidate:
    """One candidate: its parts, texts of one kind joined."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._role = "model"
        self._finish: str | None = None
        self._runs: list[_Run | dict[str, Any]] = []

    def take(self, candidate: dict[str, Any]) -> None:
        self._finish = word(candidate, "finishReason") or self._finish
        content = as_dict(candidate.get("content"))
        self._role = word(content, "role") or self._role
        for item in as_list(content.get("parts")):
            part = as_dict(item)
            if not isinstance(part.get("text"), str) and set(part) - _ABOUT:
                self._runs.append(part)
                continue
            thought = part.get("thought") is True
            last = self._runs[-1] if self._runs else None
            if not isinstance(last, _Run) or last.thought != thought:
                last = _Run(thought)
                self._runs.append(last)
            last.pieces += as_strings(part.get("text"))
            last.signatures += as_strings(field_of(part, "thoughtSignature"))

    def said(self) -> Said:
        """Return the message."""
        said = Said(self._role, self._finish, self._index)
        for run in self._runs:
            if isinstance(run, _Run):
                said.text(run.pieces, "reasoning" if run.thought else "text", **_signature(run.signatures))
            else:
                _spell(said, run)
        return said


class _Run:
    """Texts of one kind that follow each other."""

    def __init__(self, thought: bool) -> None:
        self.thought = thought
        self.pieces: list[str] = []
        self.signatures: list[str] = []


def _spell(said: Said, part: dict[str, Any]) -> None:
    kind = _kind(part)
    value = as_dict(field_of(part, kind))
    data = as_strings(value.get("data"))
    if kind == "inlineData" and data:
        said.attach(kind, data, word(value, "mimeType"))
    elif kind == "functionCall" and "partialArgs" not in value and "willContinue" not in value:
        said.call(word(value, "name") or "", as_dict(value.get("args")))
    else:
        said.other(kind, {name: item for name, item in part.items() if name not in _ABOUT})
    said.parts[-1] |= _signature(as_strings(field_of(part, "thoughtSignature")))


def _signature(signatures: list[str]) -> dict[str, str]:
    joint = "".join(signatures).encode("utf-8", "surrogatepass")
    return {"signature": sha256_hex(joint)} if joint else {}


def usage_of(usage: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a usageMetadata."""
    prompt = _by_modality(usage, "promptTokensDetails")
    came = _by_modality(usage, "candidatesTokensDetails")
    thoughts = field_of(usage, "thoughtsTokenCount")
    return known(
        {
            "prompt_tokens": total(field_of(usage, "promptTokenCount"), field_of(usage, "toolUsePromptTokenCount")),
            "completion_tokens": total(field_of(usage, "candidatesTokenCount"), thoughts),
            "cached_tokens": as_count(field_of(usage, "cachedContentTokenCount")),
            "reasoning_tokens": as_count(thoughts),
            "audio_prompt_tokens": prompt.get("AUDIO"),
            "image_prompt_tokens": prompt.get("IMAGE"),
            "audio_completion_tokens": came.get("AUDIO"),
            "image_completion_tokens": came.get("IMAGE"),
        }
    )


def _by_modality(usage: dict[str, Any], name: str) -> dict[str, int]:
    details = [as_dict(item) for item in as_list(field_of(usage, name))]
    found = {word(item, "modality"): as_count(field_of(item, "tokenCount")) for item in details}
    return {modality: count for modality, count in found.items() if modality is not None and count is not None}
