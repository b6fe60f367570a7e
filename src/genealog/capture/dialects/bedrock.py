"""Amazon Bedrock: `converse`, `converse-stream`, `invoke`, `invoke-with-response-stream`.

A stream is a body of frames (`event_stream`). Those of `invoke` carry, in base64, what the model's vendor would send;
which vendor that is, is seen in the shape, because an ARN may not tell. Anthropic's bodies and those with `choices` are
read by the dialects that they are. Like Anthropic, Bedrock leaves out of `inputTokens` what a cache had a part in. Some
models of `invoke` say what they used in headers alone, others in the metrics that Bedrock adds to the last chunk.

Source: botocore's service model `bedrock-runtime`; docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html,
…/prompt-caching.html.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from genealog.capture.dialects import anthropic_messages, openai_chat
from genealog.capture.dialects.anthropic_messages import Message
from genealog.capture.dialects.bedrock_bodies import PROMPTS, Converse, Plain, parts_of, texts_of
from genealog.capture.dialects.blocks import (
    Answer,
    asked,
    collect,
    counts,
    error_code,
    known,
    parameters,
    sampler,
    total,
)
from genealog.capture.dialects.event_stream import MEDIA_TYPE, Frame, frames
from genealog.capture.dialects.foreign import (
    Number,
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    read_object,
)
from genealog.core.call_groups import RequestFacts, ResponseFacts

_WORDS = frozenset(
    ("anthropic_version", "outputConfig.effort", "performanceConfig.latency", "schemaVersion", "serviceTier.type",
     "taskType", "input_type", "truncate")
)  # fmt: skip
_OPENED = (
    "imageGenerationConfig", "inferenceConfig", "outputConfig", "performanceConfig", "serviceTier",
    "textGenerationConfig",
)  # fmt: skip
_SAMPLER = {
    "temperature": "temperature", "topP": "top_p", "top_p": "top_p", "p": "top_p", "topK": "top_k", "top_k": "top_k",
    "k": "top_k", "seed": "seed",
}  # fmt: skip
_METRICS = "amazon-bedrock-invocationMetrics"
_HEADERS = {
    "prompt_tokens": "x-amzn-bedrock-input-token-count",
    "completion_tokens": "x-amzn-bedrock-output-token-count",
    "cached_tokens": "x-amzn-bedrock-cache-read-input-token-count",
    "cache_write_tokens": "x-amzn-bedrock-cache-write-input-token-count",
}
_ERROR = "x-amzn-errortype"


def read_request(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    content_type: str | None = None,  # noqa: ARG001
    headers: Mapping[str, str] | None = None,  # noqa: ARG001
) -> RequestFacts:
    """As `dialects.Reader`."""
    return asked(lambda: _request(body, read_object(body)))


def _request(body: bytes, request: dict[str, Any]) -> RequestFacts:
    if "anthropic_version" in request:
        return anthropic_messages.request_facts(request)
    messages = as_list(request.get("messages"))
    if messages and all(isinstance(as_dict(message).get("content"), str) for message in messages):
        return openai_chat.read_request(body)
    system = as_list(request.get("system"))
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    plain = [{"role": "user", "content": [{"text": text}]} for name in PROMPTS for text in _texts(request, name)]
    messages += plain
    config = as_dict(request.get("inferenceConfig")) or as_dict(request.get("textGenerationConfig")) or request
    without = ("messages", "system", *PROMPTS)
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=without, opened=_OPENED),
        sampler=sampler(config, _SAMPLER),
        parts=tuple(part for index, message in enumerate(messages) for part in parts_of(index, message)),
        last_texts=texts_of(messages[-1]) if messages else (),
    )


def _texts(request: dict[str, Any], name: str) -> Iterator[str]:
    value = request.get(name)
    yield from as_strings(value)
    for item in as_list(value):
        yield from as_strings(item)


def read_response(
    body: bytes,
    *,
    operation: str = "",
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`. `headers` names an error, and some models of `invoke` say there what they used."""
    answer = _Answer(status, Converse if "/converse" in operation[operation.rfind("/") :] else None)

    def feed(data: bytes) -> None:
        if (content_type or "").lower().startswith(MEDIA_TYPE):
            for frame in frames(data):
                answer.frame(frame)
        else:
            answer.whole(data)

    facts = collect(answer, body, content_encoding, feed)
    named = (headers or {}).get(_ERROR, "").partition(":")[0]
    if answer.failed and named:
        facts = replace(facts, error=error_code({"type": named}))
    return facts if facts.usage else replace(facts, usage=_in_headers(headers or {}) or None)


def _in_headers(headers: Mapping[str, str]) -> dict[str, int]:
    return counts({name: Number(headers.get(header, "")) for name, header in _HEADERS.items()})


class _Answer(Answer):
    """An answer, put together by whoever understands its shape; who that is, its first object says."""

    def __init__(self, status: int | None, kind: type[Converse] | None) -> None:
        super().__init__(status)
        self.failed = self.error is not None
        self._reader: Answer | None = kind() if kind is not None else None
        self._chat: list[bytes] = []
        self._in_frames = False

    def frame(self, frame: Frame) -> None:
        """Add a frame: an event, or the exception that ends the stream."""
        kind = frame.headers.get(":message-type")
        event = frame.headers.get(":event-type")
        self._in_frames = True
        if kind in ("error", "exception"):
            self.fail({"code": frame.headers.get(":error-code" if kind == "error" else ":exception-type")})
        elif event == "chunk":
            data = _chunk(read_object(frame.payload).get("bytes"))
            self._invoked(read_object(data), data)
        elif event is not None and isinstance(self._reader, Converse):
            self._reader.take({event: read_object(frame.payload)})

    def whole(self, data: bytes) -> None:
        """Add the object of a response without frames."""
        item = read_object(data)
        if self.failed:
            self.fail(item)
        elif isinstance(self._reader, Converse):
            self._reader.take(item)
        else:
            self._invoked(item, data)

    def _invoked(self, item: dict[str, Any], data: bytes) -> None:
        if metrics := as_dict(item.pop(_METRICS, None)):
            self.usage = _metered(metrics)
        if not item:
            return
        if self._chat or ("choices" in item and not Plain.knows(item)):
            self._chat.append(data)
            return
        kinds = (kind for kind in (Plain, Converse, Message) if kind.knows(item))
        kind = next(kinds, None) if self._reader is None else type(self._reader)
        if kind is None:
            raise Unreadable("part-not-understood")
        if self._reader is None:
            self._reader = kind()
        self._reader.take(item)

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """As `Answer`, from whoever understood the shape."""
        if self._chat and malformed is None:
            facts = self._chat_facts()
        else:
            facts = self._reader.facts(malformed) if self._reader is not None else super().facts(malformed)
        return replace(facts, usage=facts.usage or self.usage, error=self.error or facts.error)

    def _chat_facts(self) -> ResponseFacts:
        if not self._in_frames:
            return openai_chat.read_response(self._chat[0])
        body = b"".join(b"data: " + b" ".join(data.splitlines()) + b"\n\n" for data in self._chat)
        return openai_chat.read_response(body, content_type="text/event-stream")


def _chunk(encoded: object) -> bytes:
    try:
        return base64.b64decode("".join(as_strings(encoded)), validate=True)
    except ValueError:
        raise Unreadable("event-stream-broken") from None


def _metered(metrics: dict[str, Any]) -> dict[str, int]:
    """Return the counts that Bedrock itself adds to the last chunk of a stream."""
    read, written = metrics.get("cacheReadInputTokenCount"), metrics.get("cacheWriteInputTokenCount")
    return known(
        {
            "prompt_tokens": total(metrics.get("inputTokenCount"), read, written),
            "completion_tokens": as_count(metrics.get("outputTokenCount")),
            "cached_tokens": as_count(read),
            "cache_write_tokens": as_count(written),
        }
    )
