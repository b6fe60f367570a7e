"""What the dialects of OpenAI's family share: bodies as objects, parameters, parts of a prompt, usage, errors.

Sources: platform.openai.com/docs/api-reference; docs.vllm.ai (multimodal inputs); the types of the package `openai`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, Protocol

from msgspec.structs import replace

from genealog.capture.dialects import media
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
from genealog.capture.dialects.multipart import FormPart
from genealog.capture.dialects.sse import events
from genealog.core.call_groups import Digest, Part, ResponseFacts
from genealog.core.ids import sha256_hex

CONTENT = "genealog/content/v1"
Value = str | bool | Digest | None

_WORDS = frozenset((
    "model", "tool_choice", "reasoning_effort", "verbosity", "service_tier", "truncation", "previous_response_id",
    "conversation", "prompt_cache_retention", "encoding_format", "size", "quality", "background", "moderation", "style",
    "output_format", "input_fidelity", "response_format", "stream_format", "voice", "language", "chunking_strategy",
))  # fmt: skip
"""Parameters that never hold a text."""
_PLAIN = re.compile(r"-?[0-9][0-9.eE+-]{0,39}|true|false")  # a number or a switch, which comes as text in a form
_TOTALS = (("prompt_tokens", "prompt_tokens"), ("completion_tokens", "completion_tokens"),
           ("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"),
           ("prompt_cache_hit_tokens", "cached_tokens"))  # fmt: skip
_ASKED = (("cached_tokens", "cached_tokens"), ("cache_write_tokens", "cache_write_tokens"),
          ("audio_tokens", "audio_prompt_tokens"), ("image_tokens", "image_prompt_tokens"))  # fmt: skip
_SAID = (("reasoning_tokens", "reasoning_tokens"), ("audio_tokens", "audio_completion_tokens"),
         ("image_tokens", "image_completion_tokens"))  # fmt: skip
_SAMPLER = ("temperature", "top_p", "top_k", "min_p", "seed")


def body_of(body: bytes, content_encoding: str | None) -> bytes:
    """Undo the content encoding. Raises: Unreadable, as `foreign.decoded`."""
    return decoded(body, content_encoding.strip().lower()) if content_encoding else body


def is_stream(data: bytes, content_type: str | None) -> bool:
    """Say whether a body is server-sent events: its first bytes say it where its type does not, or says it wrongly."""
    if data.startswith((b"data:", b"event:")):
        return True
    return (content_type or "").lower().startswith("text/event-stream") and not data.startswith(b"{")


def objects(data: bytes, content_type: str | None) -> Iterator[dict[str, Any]]:
    """Yield the object that a body is, or those of its events until `[DONE]`. Raises: Unreadable."""
    if is_stream(data, content_type):
        for event in events(data):
            if event == "[DONE]":
                return
            yield read_object(event.encode())
    elif data:
        yield read_object(data)


class Answer(Protocol):
    """What one response says, collected from one object or from many events."""

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or one event. Raises: Unreadable."""

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected."""


def answered(
    answer: Answer, body: bytes, *, status: int | None, content_type: str | None, content_encoding: str | None
) -> ResponseFacts:
    """Return what a body says, JSON or a stream of events that may end anywhere."""
    item: dict[str, Any] = {}
    try:
        for item in objects(body_of(body, content_encoding), content_type):
            answer.take(item)
        facts = answer.facts()
    except Unreadable as error:
        facts = answer.facts(malformed=str(error))
    except RecursionError:
        facts = answer.facts(malformed="json-too-deep")
    if status is not None and status >= 400 and facts.error is None:  # some say `type` without an `error` around it
        return replace(facts, error=error_code(item))
    return facts


def parameters(request: dict[str, Any], *prompt: str) -> dict[str, Value]:
    """Return what a request sets, but for the keys that hold its prompt."""
    return {ascii_key(key): _parameter(key, value) for key, value in request.items() if key not in prompt}


def _parameter(key: str, value: object) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= LONGEST and (key in _WORDS or isinstance(value, Number)):
        return joined([value])
    return Digest(sha256=sha256_hex(spelled(value)))


def form_parameters(fields: tuple[FormPart, ...], *prompt: str) -> dict[str, Value]:
    """Return what the fields of a form set. A field that came more than once is one digest over all of them."""
    found: dict[str, list[FormPart]] = {}
    for field in fields:
        if not field.file and field.name not in prompt:
            found.setdefault(field.name, []).append(field)
    return {ascii_key(name): _field(name, several) for name, several in found.items()}


def _field(name: str, several: list[FormPart]) -> Value:
    if len(several) == 1 and (text := several[0].text) is not None:
        return text if _PLAIN.fullmatch(text) else _parameter(name, text)
    return Digest(sha256=sha256_hex(spelled([part.sha256 for part in several])))


def sampler(request: dict[str, Any]) -> dict[str, str]:
    """Return the sampler that was asked for."""
    found = {
        name: str(value)
        for name in _SAMPLER
        if isinstance(value := request.get(name), Number) and len(value) <= LONGEST
    }
    return found | {"seed_source": "client" if "seed" in found else "none"}


def subject(request: dict[str, Any]) -> str | None:
    """Return whom the client says that it asks for: `safety_identifier`, else `user`, which it replaces."""
    named = (request.get(name) for name in ("safety_identifier", "user"))
    return next((str(name) for name in named if isinstance(name, str) and not isinstance(name, Number) and name), None)


def error_code(error: object) -> str:
    """Return the short code of an upstream's error; its message may quote the prompt and stays in the body."""
    fields = as_dict(error)
    words = [value for name in ("code", "type") if isinstance(value := fields.get(name), str)]
    for word in sorted(words, key=lambda word: isinstance(word, Number)):  # a number says less than a name
        if 0 < len(word) <= 64 and word.isascii():
            return str(word)
    return "upstream-error"


def usage_counts(usage: dict[str, Any]) -> dict[str, int]:
    """Return a usage object as counts of `UsageGroup`: of chat (`prompt_`, `completion_`) or of the newer APIs
    (`input_`, `output_`).

    OpenAI counts reasoning as a part of the completion. A vendor that does not (xAI) says so by its total.
    """
    asked = as_dict(
        usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or usage.get("input_token_details")
    )
    said = as_dict(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    counts: dict[str, int] = {}
    for source, names in ((usage, _TOTALS), (asked, _ASKED), (said, _SAID)):
        for key, name in names:
            if key in source and (count := as_count(source[key])) is not None:
                counts[name] = count
    if reasoning := counts.get("reasoning_tokens"):
        both = counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)
        if as_count(usage.get("total_tokens")) == both + reasoning:
            counts["completion_tokens"] = counts.get("completion_tokens", 0) + reasoning
    return counts


def items(content: object) -> Iterator[tuple[str, str | None, object]]:
    """Yield (type, text if it is one, as received) for each part of a message's content."""
    if as_strings(content):
        yield "text", joined(as_strings(content)), content
    for item in as_list(content):
        if isinstance(item, str) and not isinstance(item, Number):
            yield "text", joined([item]), item
            continue
        text = as_strings(as_dict(item).get("text"))
        yield as_word(as_dict(item).get("type")) or "unknown", joined(text) if text else None, item


def parts_of(index: int, role: str, content: object) -> Iterator[Part]:
    """Yield a part for each part of a message's content."""
    for kind, text, item in items(content):
        if text is not None:
            yield Part(index=index, role=role, sha256=sha256_hex(text.encode()), type=kind)
        elif (found := media_of(kind, as_dict(item))) is not None:
            yield found.part(index, role, kind)
        else:
            yield Part(index=index, role=role, sha256=sha256_hex(spelled(item)), type=kind)


def media_of(kind: str, item: dict[str, Any]) -> media.Media | None:
    """Return the image, audio, video or file that a part of a prompt holds or refers to; None if it is no such part."""
    held = item.get(kind)
    fields = as_dict(held)
    if kind == "input_audio":
        data = as_strings(fields.get("data"))
        return media.of_base64(data[0], media.audio_type(fields.get("format"))) if data else None
    if kind in ("image_url", "video_url", "audio_url"):
        return next((media.of_url(url) for url in as_strings(fields.get("url", held))), None)
    if kind == "file":
        return _file(fields)
    if kind in ("input_image", "input_file", "computer_screenshot"):
        return _file(item)
    return None


def _file(fields: dict[str, Any]) -> media.Media | None:
    for data in as_strings(fields.get("file_data")):
        return media.of_base64(data) or media.of_url(data)
    image = fields.get("image_url")
    for url in as_strings(as_dict(image).get("url", image)) + as_strings(fields.get("file_url")):
        return media.of_url(url)
    for name in as_strings(fields.get("file_id")):
        return media.reference(name)
    return None


def prompt_parts(prompt: object) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """Return parts and texts of a prompt or input: a text, several, token IDs, or several lists of them.

    Token IDs are committed to as 4 little-endian bytes each, as everywhere in a call.
    """
    several = [prompt] if not isinstance(prompt, list) or _tokens(prompt) is not None else prompt
    parts, texts = [], []
    for index, one in enumerate(several):
        kind, data = "unknown", spelled(one)
        if isinstance(one, str) and not isinstance(one, Number):
            texts.append(joined([one]))
            kind, data = "text", texts[-1].encode()
        elif (tokens := _tokens(one)) is not None:
            kind, data = "tokens", tokens
        elif one is None:
            continue
        parts.append(Part(index=index, role="user", sha256=sha256_hex(data), type=kind))
    return tuple(parts), tuple(text for text in texts if text)


def _tokens(value: object) -> bytes | None:
    tokens = [as_count(token) for token in as_list(value)]
    if not tokens or any(token is None or token >= 1 << 32 for token in tokens):
        return None
    return struct.pack(f"<{len(tokens)}I", *tokens)


def milliseconds(seconds: object) -> int | None:
    """Return a duration in whole milliseconds; None for what is no sensible number of seconds."""
    if not isinstance(seconds, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,30})?", seconds):
        return None
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1000 + (int((fraction + "0000")[:4]) + 5) // 10


def digest_of(value: object) -> str:
    """Return the digest of a foreign value in its one spelling."""
    return sha256_hex(spelled(value))


def not_understood() -> Unreadable:
    """Return the error of an answer with a part that we cannot spell: a digest that leaves something out would call
    two different answers equal.
    """
    return Unreadable("part-not-understood")
