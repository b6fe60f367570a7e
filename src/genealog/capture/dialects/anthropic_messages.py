"""Anthropic messages, from Anthropic, in Vertex's `rawPredict`, and as the body of Bedrock's `invoke`.

Usage on the wire is cumulative: each snapshot overwrites what it names, as Anthropic's own client does; nothing is
added up over a stream. `input_tokens` there are those that no cache had a part in, so that a prompt is the sum of
three counts. Of an encrypted block, the block is committed to.

Source: platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming, …/prompt-caching; package `anthropic`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.blocks import (
    Answer,
    Said,
    asked,
    collect,
    known,
    media_part,
    other_part,
    parameters,
    sampler,
    text_part,
    tool_input,
    total,
)
from genealog.capture.dialects.foreign import (
    Number,
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    as_word,
    read_object,
    spelled,
)
from genealog.capture.dialects.sse import events
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.ids import sha256_hex

_WORDS = frozenset(
    ("anthropic_version", "inference_geo", "model", "output_config.effort", "service_tier", "speed", "thinking.type",
     "tool_choice.type")
)  # fmt: skip
_OPENED = ("output_config", "thinking", "tool_choice")
_SAMPLER = {name: name for name in ("temperature", "top_p", "top_k", "seed")}
_NOT_SAID = frozenset(("id", "tool_use_id", "cache_control"))


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    return asked(lambda: request_facts(read_object(body)))


def request_facts(request: dict[str, Any]) -> RequestFacts:
    """Say what a request asks. Raises: Unreadable."""
    messages = as_list(request.get("messages"))
    if request.get("system"):
        messages = [{"role": "system", "content": request["system"]}, *messages]
    return RequestFacts(
        parameters=parameters(request, words=_WORDS, without=("messages", "system"), opened=_OPENED),
        sampler=sampler(request, _SAMPLER),
        parts=tuple(part for index, message in enumerate(messages) for part in _parts(index, message)),
        last_texts=tuple(_texts(as_dict(messages[-1]).get("content"))) if messages else (),
        subject=_subject(request),
    )


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    answer = Message(status)

    def feed(data: bytes) -> None:
        if (content_type or "").lower().startswith("text/event-stream") or data.startswith((b"event:", b"data:")):
            for event in events(data):
                answer.take(read_object(event.encode()))
        else:
            answer.take(read_object(data))

    return collect(answer, body, content_encoding, feed)


class Message(Answer):
    """An answer of this dialect, from one object or from many events."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__(status)
        self._seen = False
        self._role = "assistant"
        self._stop: str | None = None
        self._blocks: dict[int, _Block] = {}
        self._usage: dict[str, Any] = {}

    @staticmethod
    def knows(item: dict[str, Any]) -> bool:
        """Say whether an object looks like one of this dialect."""
        return "type" in item

    def take(self, item: dict[str, Any]) -> None:
        """Add one object: the whole response, or one event."""
        kind = item.get("type")
        at = as_count(item.get("index")) or 0
        if kind == "message_start":
            self._whole(as_dict(item.get("message")))
        elif kind == "content_block_start":
            self._blocks[at] = _Block(as_dict(item.get("content_block")))
        elif kind == "content_block_delta":
            self._blocks.setdefault(at, _Block({})).take(as_dict(item.get("delta")))
        elif kind == "message_delta":
            self._stop = as_word(as_dict(item.get("delta")).get("stop_reason")) or self._stop
            self._count(as_dict(item.get("usage")))
        elif kind == "error" or "error" in item:
            self.fail(item.get("error"))
        elif kind == "message" or "content" in item:
            self._whole(item)

    def _whole(self, message: dict[str, Any]) -> None:
        self._seen = True
        self.model = as_word(message.get("model")) or self.model
        self._role = as_word(message.get("role")) or self._role
        self._stop = as_word(message.get("stop_reason")) or self._stop
        self._count(as_dict(message.get("usage")))
        for at, block in enumerate(as_list(message.get("content"))):
            self._blocks[at] = _Block(as_dict(block))

    def _count(self, usage: dict[str, Any]) -> None:
        self._usage |= {name: value for name, value in usage.items() if value is not None}
        if not self._usage:
            return
        now = self._usage
        read, written = now.get("cache_read_input_tokens"), now.get("cache_creation_input_tokens")
        self.tier = as_word(now.get("service_tier")) or self.tier
        self.usage = known(
            {
                "prompt_tokens": total(now.get("input_tokens"), read, written),
                "completion_tokens": as_count(now.get("output_tokens")),
                "cached_tokens": as_count(read),
                "cache_write_tokens": as_count(written),
                "cache_write_1h_tokens": as_count(as_dict(now.get("cache_creation")).get("ephemeral_1h_input_tokens")),
                "reasoning_tokens": as_count(as_dict(now.get("output_tokens_details")).get("thinking_tokens")),
                "searches": as_count(as_dict(now.get("server_tool_use")).get("web_search_requests")),
            }
        )

    def said(self) -> list[Said]:
        """As `Answer`."""
        if not self._seen:
            return []
        said = Said(self._role, self._stop)
        for at in sorted(self._blocks):
            self._blocks[at].spell(said)
        return [said]


class _Block:
    """One block of an answer, as it began and with what came after."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._start = {name: value for name, value in start.items() if name not in _NOT_SAID and value is not None}
        self._kind = as_word(start.get("type")) or "unknown"
        self._pieces: list[str] = []
        self._json: list[str] = []
        self._citations = list(as_list(start.get("citations")))
        self._strange = False

    def take(self, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        if kind in ("text_delta", "thinking_delta"):
            self._pieces += as_strings(delta.get(kind.removesuffix("_delta")))
        elif kind == "input_json_delta":
            self._json += as_strings(delta.get("partial_json"))
        elif kind == "citations_delta":
            self._citations.append(delta.get("citation"))
        elif kind == "signature_delta":
            self._start["signature"] = delta.get("signature")
        elif kind == "compaction_delta":
            self._start |= {name: value for name, value in delta.items() if name != "type" and value is not None}
        else:
            self._strange = True

    def spell(self, said: Said) -> None:
        """Add it to a message. Raises: Unreadable `part-not-understood`."""
        if self._strange:
            raise Unreadable("part-not-understood")
        if self._kind == "text":
            cited = {"citations": sha256_hex(spelled(self._citations))} if self._citations else {}
            said.text(as_strings(self._start.get("text")) + self._pieces, **cited)
        elif self._kind == "thinking":
            signature = as_strings(self._start.get("signature"))
            signed = {"signature": sha256_hex(signature[0].encode("utf-8", "surrogatepass"))} if signature else {}
            said.text(as_strings(self._start.get("thinking")) + self._pieces, "reasoning", **signed)
        elif self._kind == "tool_use":
            said.call(as_word(self._start.get("name")) or "", self._input())
        else:
            took = {"input": self._input()} if "input" in self._start or self._json else {}
            said.other(self._kind, self._start | took)

    def _input(self) -> object:
        text = "".join(self._json)
        return tool_input(text) if text else self._start.get("input", {})


def _subject(request: dict[str, Any]) -> str | None:
    """Return whom the client says that it asks for."""
    user = as_dict(request.get("metadata")).get("user_id")
    return str(user) if isinstance(user, str) and not isinstance(user, Number) and user else None


def _parts(index: int, message: object) -> Iterator[Part]:
    fields = as_dict(message)
    role = as_word(fields.get("role")) or ""
    yield from _blocks(index, role, fields.get("content"), "text")


def _blocks(index: int, role: str, content: object, text_as: str) -> Iterator[Part]:
    """Yield the parts of a content: a text, or blocks. What a tool gave is `tool_result`, but for its media."""
    for whole in as_strings(content):
        yield text_part(index, role, text_as, whole)
    for item in as_list(content):
        block = as_dict(item)
        kind = as_word(block.get("type")) or "unknown"
        text = as_strings(block.get("text"))
        if kind == "text" and text:
            yield text_part(index, role, text_as, text[0])
        elif kind in ("image", "document"):
            yield from _source(index, role, kind, block)
        elif kind == "tool_result" and block.get("content"):
            yield from _blocks(index, role, block["content"], kind)
        else:
            yield other_part(index, role, kind, item)


def _source(index: int, role: str, kind: str, block: dict[str, Any]) -> Iterator[Part]:
    source = as_dict(block.get("source"))
    media_type = as_word(source.get("media_type"))
    data = as_strings(source.get("data"))
    if source.get("type") == "base64" and data:
        yield media_part(index, role, kind, data, media_type)
    elif source.get("type") == "text" and data:
        yield text_part(index, role, kind, data[0])
    elif source.get("type") == "content" and source.get("content"):
        yield from _blocks(index, role, source["content"], kind)
    else:
        named = as_strings(source.get("url")) or as_strings(source.get("file_id"))
        yield other_part(index, role, kind, named[0] if named else block, media_type)


def _texts(content: object) -> Iterator[str]:
    yield from as_strings(content)
    for item in as_list(content):
        block = as_dict(item)
        if block.get("type") == "text":
            yield from as_strings(block.get("text"))
        elif block.get("type") == "tool_result":
            yield from _texts(block.get("content"))
