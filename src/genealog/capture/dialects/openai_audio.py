"""OpenAI's audio: text to speech, as bytes or as events; speech to text, as JSON, plain text, subtitles or events.

Speech is recorded by the digest of its own bytes, whichever way it came; a transcript by its text, with the segments
and words that came with it. Seconds that a vendor bills become `audio_ms`.

Source: platform.openai.com/docs/api-reference/audio.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.dialects import media
from genealog.capture.dialects.foreign import Unreadable, as_dict, as_list, as_strings, as_word, joined, read_object
from genealog.capture.dialects.multipart import media_type, read_form
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    body_of,
    digest_of,
    error_code,
    form_parameters,
    is_stream,
    milliseconds,
    not_understood,
    parameters,
    prompt_parts,
    usage_counts,
)
from genealog.capture.dialects.openai_images import uploads
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode

_SEGMENT = ("start", "end", "speaker", "text")


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:
    """As `dialects.Reader`: JSON for speech, a form for transcriptions and translations."""
    try:
        if operation.endswith("/speech"):
            request = read_object(body)
            parts, texts = prompt_parts(request.get("input"))
            return RequestFacts(
                parameters=parameters(request, "input"),
                sampler={},
                parts=parts,
                last_texts=texts,
                characters=sum(map(len, texts)),
            )
        fields = read_form(body, content_type)
        prompt = [field for field in fields if field.name == "prompt" and not field.file]
        parts = tuple(Part(index=0, role="user", sha256=field.sha256, type="text") for field in prompt)
        return RequestFacts(
            parameters=form_parameters(fields, "prompt"),
            sampler={},
            parts=(*parts, *uploads(fields, "audio")),
            last_texts=tuple(field.text for field in prompt if field.text),
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def read_response(
    body: bytes,
    *,
    operation: str = "",
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: events, JSON, text, or the audio itself; cut anywhere."""
    answer = _Answer()
    try:
        data = body_of(body, content_encoding)
        kind = media_type(content_type) or ""
        failed = status is not None and status >= 400
        if is_stream(data, content_type) or failed or kind == "application/json":
            return answered(answer, data, status=status, content_type=content_type, content_encoding=None)
        if operation.endswith("/speech"):
            return _spoken(media.of_bytes(data, kind or None), None) if data else ResponseFacts()
        answer.text = [_text(data)] if data else None
        return answer.facts()
    except Unreadable as error:
        return answer.facts(malformed=str(error))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unreadable("text-not-unicode") from None


def _spoken(audio: media.Media, usage: dict[str, int] | None) -> ResponseFacts:
    content = {"audio": {"sha256": audio.sha256, "size": audio.size or 0}, "t": CONTENT}
    return ResponseFacts(content=encode(content), usage=usage, parts=(audio.part(0, "assistant", "audio"),))


class _Answer:
    def __init__(self) -> None:
        self.text: list[str] | None = None
        self.audio: list[str] = []
        self.segments: list[dict[str, Any]] = []
        self.words: list[Any] = []
        self.language: str | None = None
        self.usage: dict[str, int] | None = None
        self.error: str | None = None

    def take(self, item: dict[str, Any]) -> None:
        """Add the whole response, or one event."""
        kind = as_word(item.get("type")) or ""
        if usage := as_dict(item.get("usage")):
            self.usage = _usage(usage)
        elif (heard := milliseconds(item.get("duration"))) is not None:
            self.usage = {"audio_ms": heard}
        if (error := item.get("error")) is not None or kind == "error":
            self.error = error_code(item if error is None else error)
        elif kind == "speech.audio.delta":
            self.audio += as_strings(item.get("audio"))
        elif kind == "transcript.text.delta":
            self.text = self.text or []
            self.text += as_strings(item.get("delta"))
        elif kind == "transcript.text.segment":
            self.segments.append(_segment(item))
        elif isinstance(item.get("text"), str):
            self.text = as_strings(item["text"])
            self.segments = [_segment(as_dict(segment)) for segment in as_list(item.get("segments"))] or self.segments
            self.words += as_list(item.get("words"))
            self.language = as_word(item.get("language")) or self.language
        elif kind not in ("speech.audio.done", "transcript.text.done"):
            raise not_understood()

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected."""
        if malformed is None and self.audio:
            if (audio := media.of_streamed(self.audio)) is not None:
                return _spoken(audio, self.usage)
            malformed = "part-not-understood"
        if malformed is not None or self.text is None:
            return ResponseFacts(usage=self.usage, error=self.error, malformed=malformed)
        try:
            text = joined(self.text)
            content: dict[str, Any] = {"text": text, "t": CONTENT}
            if self.segments:
                content["segments"] = digest_of(self.segments)
            if self.words:
                content["words"] = digest_of(self.words)
            if self.language:
                content["language"] = self.language
            return ResponseFacts(
                content=encode(content), texts=(text,) if text else (), usage=self.usage, error=self.error
            )
        except Unreadable as error:
            return ResponseFacts(usage=self.usage, error=self.error, malformed=str(error))


def _segment(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in _SEGMENT if name in item}


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    """Return tokens, or what a duration in seconds is."""
    heard = milliseconds(usage.get("seconds"))
    return usage_counts(usage) | ({} if heard is None else {"audio_ms": heard})
