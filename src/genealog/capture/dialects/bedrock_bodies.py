"""The bodies that Bedrock speaks: those of `converse`, which Nova's `invoke` shares, and the plain ones of `invoke`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.blocks import (
    Answer,
    Said,
    counts,
    known,
    media_part,
    other_part,
    strings,
    text_part,
    tool_input,
    total,
)
from genealog.capture.dialects.foreign import Unreadable, as_count, as_dict, as_list, as_strings, as_word, spelled
from genealog.core.call_groups import Part
from genealog.core.ids import sha256_hex

PROMPTS = ("prompt", "inputText", "texts", "message", "text")
_MEDIA = ("image", "document", "video", "audio")
_DOCUMENTS = {
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "html": "text/html",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def parts_of(index: int, message: object) -> Iterator[Part]:
    """Yield the parts of a message of `converse`, each committed to."""
    fields = as_dict(message)
    yield from _blocks(index, as_word(fields.get("role")) or "", as_list(fields.get("content")), "text")


def texts_of(message: object) -> tuple[str, ...]:
    """Return the texts of a message of `converse`, and those that its tools gave."""
    return tuple(_texts(as_list(as_dict(message).get("content"))))


def _texts(blocks: list[Any]) -> Iterator[str]:
    for item in blocks:
        yield from as_strings(as_dict(item).get("text"))
        yield from _texts(as_list(as_dict(as_dict(item).get("toolResult")).get("content")))


def _blocks(index: int, role: str, blocks: list[Any], text_as: str) -> Iterator[Part]:
    for item in blocks:
        block = as_dict(item)
        kind = next(iter(block), "unknown")
        value = as_dict(block.get(kind))
        text = as_strings(block.get("text"))
        if text:
            yield text_part(index, role, text_as, text[0])
        elif kind in _MEDIA:
            yield _media(index, role, kind, value)
        elif kind == "toolResult" and as_list(value.get("content")):
            yield from _blocks(index, role, as_list(value["content"]), kind)
        else:
            yield other_part(index, role, as_word(kind) or "unknown", item)


def _media(index: int, role: str, kind: str, value: dict[str, Any]) -> Part:
    source = as_dict(value.get("source"))
    media_type = _media_type(kind, value)
    data = as_strings(source.get("bytes"))
    uri = as_strings(as_dict(source.get("s3Location")).get("uri"))
    text = as_strings(source.get("text"))
    if data:
        return media_part(index, role, kind, data, media_type)
    if text:
        return text_part(index, role, kind, text[0])
    return other_part(index, role, kind, uri[0] if uri else value, media_type)


def _media_type(kind: str, value: dict[str, Any]) -> str | None:
    name = as_word(value.get("format"))
    if name is None:
        return None
    return _DOCUMENTS.get(name) if kind == "document" else f"{kind}/{name}"


class Converse(Answer):
    """An answer of `converse`, from one object or from events. An event is an object with its name as the only key."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__(status)
        self._seen = False
        self._role = "assistant"
        self._finish: str | None = None
        self._blocks: dict[int, _Block] = {}

    @staticmethod
    def knows(item: dict[str, Any]) -> bool:
        """Say whether an object looks like one of these."""
        return not item.keys().isdisjoint(
            ("output", "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop",
             "metadata")
        )  # fmt: skip

    def take(self, item: dict[str, Any]) -> None:
        """As `Answer`."""
        message = as_dict(as_dict(item.get("output")).get("message"))
        start, stop, delta = (as_dict(item.get(name)) for name in ("messageStart", "messageStop", "contentBlockDelta"))
        begun, about = as_dict(item.get("contentBlockStart")), as_dict(item.get("metadata"))
        self._seen = self._seen or bool(message) or "messageStart" in item
        self._role = as_word(message.get("role")) or as_word(start.get("role")) or self._role
        self._finish = as_word(item.get("stopReason")) or as_word(stop.get("stopReason")) or self._finish
        for at, block in enumerate(as_list(message.get("content"))):
            self._blocks.setdefault(at, _Block()).whole(as_dict(block))
        if begun:
            self._block(begun).whole(as_dict(begun.get("start")))
        if delta:
            self._block(delta).take(as_dict(delta.get("delta")))
        self._about(item)
        self._about(about)

    def _block(self, event: dict[str, Any]) -> _Block:
        return self._blocks.setdefault(as_count(event.get("contentBlockIndex")) or 0, _Block())

    def _about(self, item: dict[str, Any]) -> None:
        usage = as_dict(item.get("usage"))
        read = usage.get("cacheReadInputTokens", usage.get("cacheReadInputTokenCount"))
        written = usage.get("cacheWriteInputTokens", usage.get("cacheWriteInputTokenCount"))
        hour = [as_dict(one).get("inputTokens") for one in as_list(usage.get("cacheDetails"))
                if as_dict(one).get("ttl") == "1h"]  # fmt: skip
        if usage:
            self.usage = known(
                {
                    "prompt_tokens": total(usage.get("inputTokens"), read, written),
                    "completion_tokens": as_count(usage.get("outputTokens")),
                    "cached_tokens": as_count(read),
                    "cache_write_tokens": as_count(written),
                    "cache_write_1h_tokens": total(*hour),
                }
            )
        self.tier = as_word(as_dict(item.get("serviceTier")).get("type")) or self.tier
        routed = as_dict(as_dict(item.get("trace")).get("promptRouter"))
        self.model = as_word(routed.get("invokedModelId")) or self.model

    def said(self) -> list[Said]:
        """As `Answer`."""
        if not self._seen:
            return []
        said = Said(self._role, self._finish)
        for at in sorted(self._blocks):
            self._blocks[at].spell(said)
        return [said]


class _Block:
    """One block, as it came whole or begun, and with its deltas."""

    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}
        self._text: list[str] = []
        self._input: list[str] = []
        self._reasoning: list[str] = []
        self._signature: list[str] = []
        self._redacted: list[str] = []
        self._citations: list[object] = []
        self._image: list[str] = []
        self._strange = False

    def whole(self, block: dict[str, Any]) -> None:
        """Take a whole block, or what is known of it at its start."""
        self._whole |= block
        cited = as_dict(block.get("citationsContent"))
        self._text += [*as_strings(block.get("text")), *strings(_member(cited, "content", "text"))]
        self._citations += as_list(cited.get("citations"))
        reasoning = as_dict(block.get("reasoningContent"))
        self._reason(as_dict(reasoning.get("reasoningText")) | reasoning)
        self._image += as_strings(as_dict(as_dict(block.get("image")).get("source")).get("bytes"))

    def take(self, delta: dict[str, Any]) -> None:
        """Add a delta."""
        self._text += as_strings(delta.get("text"))
        self._input += as_strings(as_dict(delta.get("toolUse")).get("input"))
        self._reason(as_dict(delta.get("reasoningContent")))
        self._image += as_strings(as_dict(as_dict(delta.get("image")).get("source")).get("bytes"))
        if "citation" in delta:
            self._citations.append(delta["citation"])
        self._strange = self._strange or not delta.keys() <= {
            "text", "toolUse", "reasoningContent", "image", "citation",
        }  # fmt: skip

    def _reason(self, reasoning: dict[str, Any]) -> None:
        self._reasoning += as_strings(reasoning.get("text"))
        self._signature += as_strings(reasoning.get("signature"))
        self._redacted += as_strings(reasoning.get("redactedContent"))

    def spell(self, said: Said) -> None:
        """Add it to a message. Raises: Unreadable `part-not-understood`."""
        if self._strange:
            raise Unreadable("part-not-understood")
        tool = as_dict(self._whole.get("toolUse"))
        if tool or self._input:
            said.call(as_word(tool.get("name")) or "", self._arguments(tool))
        elif self._image:
            said.attach("image", self._image, _media_type("image", as_dict(self._whole.get("image"))))
        elif self._redacted:
            said.other("redacted_thinking", "".join(self._redacted))
        elif self._reasoning or self._signature:
            signature = "".join(self._signature).encode("utf-8", "surrogatepass")
            said.text(self._reasoning, "reasoning", **({"signature": sha256_hex(signature)} if signature else {}))
        elif self._text or self._citations:
            said.text(self._text, **({"citations": sha256_hex(spelled(self._citations))} if self._citations else {}))
        elif kind := next((name for name in self._whole if name not in ("text", "reasoningContent")), None):
            said.other(as_word(kind) or "unknown", self._whole)

    def _arguments(self, tool: dict[str, Any]) -> object:
        text = "".join(self._input)
        return tool_input(text) if text else tool.get("input", {})


def _member(value: dict[str, Any], name: str, inner: str) -> Iterator[object]:
    return (as_dict(item).get(inner) for item in as_list(value.get(name)))


class Plain(Answer):
    """An answer of `invoke` that is a text, vectors or images: Titan, Llama, Mistral, DeepSeek, Cohere, Stability."""

    _INNER = ("results", "outputs", "generations", "choices")
    _TEXT = ("outputText", "generation", "text", "completion")
    _FINISH = ("completionReason", "stop_reason", "finish_reason")
    _VECTORS = ("embedding", "embeddings", "embeddingsByType")

    def __init__(self, status: int | None = None) -> None:
        super().__init__(status)
        self._texts: dict[int, list[str]] = {}
        self._ends: dict[int, str] = {}
        self._images: list[str] = []

    @classmethod
    def knows(cls, item: dict[str, Any]) -> bool:
        """Say whether an object looks like one of these."""
        outer = not item.keys().isdisjoint((*cls._TEXT, *cls._VECTORS, "images"))
        return (outer and "type" not in item) or any(
            not as_dict(inner).keys().isdisjoint(cls._TEXT) for name in cls._INNER for inner in as_list(item.get(name))
        )

    def take(self, item: dict[str, Any]) -> None:
        """As `Answer`."""
        inner = next((as_list(item[name]) for name in self._INNER if as_list(item.get(name))), [item])
        for at, value in enumerate(inner):
            self._entry(at, as_dict(value))
        self._images += strings(as_list(item.get("images")))
        if as_list(item.get("embedding")):
            self.vectors.append(item["embedding"])
        self.vectors += as_list(item.get("embeddings"))
        results = as_list(item.get("results"))
        counted = {
            "prompt_tokens": item.get("inputTextTokenCount", item.get("prompt_token_count")),
            "completion_tokens": item.get("totalOutputTextTokenCount", item.get("generation_token_count")),
        }
        if (made := total(*(as_dict(one).get("tokenCount") for one in results))) is not None:
            self.usage = (self.usage or {}) | counts(counted) | {"completion_tokens": made}
        elif found := counts(counted):
            self.usage = (self.usage or {}) | found

    def _entry(self, at: int, value: dict[str, Any]) -> None:
        texts = [text for name in self._TEXT for text in as_strings(value.get(name))]
        if texts or not value.keys().isdisjoint(self._TEXT):
            self._texts.setdefault(at, []).extend(texts)
        for name in self._FINISH:
            if end := as_word(value.get(name)):
                self._ends[at] = end

    def said(self) -> list[Said]:
        """As `Answer`."""
        found = []
        for at in sorted(self._texts):
            said = Said("assistant", self._ends.get(at), at)
            said.text(self._texts[at])
            found.append(said)
        if self._images:
            said = Said("assistant", index=len(found))
            for image in self._images:
                said.attach("image", [image], None)
            found.append(said)
        return found
