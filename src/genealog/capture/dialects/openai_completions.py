"""OpenAI's legacy completions: a prompt, or several, as text or tokens; texts back, whole or streamed.

With `echo` the text that comes back begins with the prompt; it is recorded as it came.

Source: platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.dialects.foreign import (
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    as_word,
    joined,
    read_object,
)
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    error_code,
    not_understood,
    parameters,
    prompt_parts,
    sampler,
    subject,
    usage_counts,
)
from genealog.core.call_groups import RequestFacts, ResponseFacts
from genealog.core.canonical import encode


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    try:
        request = read_object(body)
        parts, texts = prompt_parts(request.get("prompt"))
        return RequestFacts(
            parameters=parameters(request, "prompt"),
            sampler=sampler(request),
            parts=parts,
            last_texts=texts,
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
    def __init__(self) -> None:
        self.texts: dict[int, list[str]] = {}
        self.reasons: dict[int, str] = {}
        self.known: dict[str, Any] = {}
        self.strange = False

    def take(self, item: dict[str, Any]) -> None:
        """Add the whole response, or one delta."""
        for key, name in (("model", "model"), ("system_fingerprint", "fingerprint"), ("service_tier", "tier")):
            if word := as_word(item.get(key)):
                self.known[name] = word
        if usage := as_dict(item.get("usage")):
            self.known["usage"] = usage_counts(usage)
        if (error := item.get("error")) is not None:
            self.known["error"] = error_code(error)
        for position, choice in enumerate(as_list(item.get("choices"))):
            fields = as_dict(choice)
            given = as_count(fields.get("index"))
            at = position if given is None else given
            self.texts.setdefault(at, []).extend(as_strings(fields.get("text")))
            self.strange = self.strange or not isinstance(fields.get("text", ""), str | None)
            if reason := as_word(fields.get("finish_reason")):
                self.reasons[at] = reason

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected."""
        if not self.texts or malformed is not None:
            return ResponseFacts(**self.known, malformed=malformed)
        try:
            if self.strange:
                raise not_understood()
            texts = {at: joined(self.texts[at]) for at in sorted(self.texts)}
        except Unreadable as error:
            return ResponseFacts(**self.known, malformed=str(error))
        choices = [
            {"text": text, **({"finish_reason": self.reasons[at]} if at in self.reasons else {})}
            for at, text in texts.items()
        ]
        return ResponseFacts(
            content=encode({"choices": choices, "t": CONTENT}),
            texts=tuple(text for text in texts.values() if text),
            finish_reason=self.reasons.get(min(texts)),
            **self.known,
            malformed=malformed,
        )
