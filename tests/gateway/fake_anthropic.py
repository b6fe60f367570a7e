"""Anthropic's wire: bodies of messages whole and streamed, and a script that answers as the API does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.fake_upstream import Asked, Wire

MODEL = "claude-test-4-20260101"
TEXT = "Paris has 2,102,650 inhabitants \u2014 and \U0001f600."
START = {
    "input_tokens": 11, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1,
    "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}, "service_tier": "standard",
}  # fmt: skip
DELTA = {
    "output_tokens": 42, "output_tokens_details": {"thinking_tokens": 20},
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
}  # fmt: skip
CITATION = {
    "type": "char_location", "cited_text": "2,102,650", "document_index": 0, "document_title": "INSEE",
    "start_char_index": 0, "end_char_index": 9, "file_id": None,
}  # fmt: skip
FOUND = {
    "type": "web_search_result", "url": "https://example.org/a", "title": "A", "encrypted_content": "RW5j",
    "page_age": None,
}  # fmt: skip


def text(value: str = TEXT, **more: Any) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": value, "citations": None, **more}


def rich() -> list[dict[str, Any]]:
    """Return one block of each kind that the API documents."""
    return [
        {"type": "thinking", "thinking": "Let me look \u2026", "signature": "c2lnbmVk"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Paris"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [FOUND]},
        text(citations=[CITATION]),
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris", "days": 2.50}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]


def message(
    blocks: Sequence[dict[str, Any]] = (), *, stop: str = "end_turn", usage: dict[str, Any] | None = None
) -> bytes:
    """Return a whole answer."""
    return json.dumps(
        {
            "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL,
            "content": list(blocks) or [text()], "stop_reason": stop, "stop_sequence": None,
            "usage": {**START, **DELTA} if usage is None else usage,
        }
    ).encode()  # fmt: skip


def event(item: dict[str, Any]) -> bytes:
    """Return one event."""
    return f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode()


def items(blocks: Sequence[dict[str, Any]] = (), *, size: int = 3, stop: str = "end_turn") -> list[dict[str, Any]]:
    """Return what a streamed answer consists of, texts cut to `size` characters."""
    start = {
        "id": "msg_2", "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": START,
    }  # fmt: skip
    found: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(list(blocks) or [text()]):
        begun, deltas = _deltas(block, size)
        found.append({"type": "content_block_start", "index": index, "content_block": begun})
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    early = {"output_tokens": 9, "input_tokens": 11}  # cumulative: a sum would count it twice
    for usage in (early, DELTA):
        delta = {"stop_reason": stop, "stop_sequence": None}
        found.append({"type": "message_delta", "delta": delta, "usage": usage})
    return [*found, {"type": "message_stop"}]


def _deltas(block: dict[str, Any], size: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def cut(value: str) -> list[str]:
        return [value[at : at + size] for at in range(0, len(value), size)]

    if block["type"] == "text":
        cited = [{"type": "citations_delta", "citation": one} for one in block.get("citations") or ()]
        return {"type": "text", "text": ""}, [
            *({"type": "text_delta", "text": piece} for piece in cut(block["text"])),
            *cited,
        ]
    if block["type"] == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        pieces = [{"type": "thinking_delta", "thinking": piece} for piece in cut(block["thinking"])]
        return {"type": "thinking", "thinking": "", "signature": ""}, [*pieces, signed]
    if "input" in block:
        spelled = json.dumps(block["input"]) if block["input"] else ""
        pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *cut(spelled)]]
        return block | {"input": {}}, pieces
    return block, []


def stream(blocks: Sequence[dict[str, Any]] = (), *, size: int = 3, stop: str = "end_turn") -> list[bytes]:
    """Return the events of a streamed answer."""
    return [event(item) for item in items(blocks, size=size, stop=stop)]


def error(kind: str = "overloaded_error") -> bytes:
    """Return the body of an error."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": "Overloaded"}, "request_id": "r"}).encode()


async def script(wire: Wire, asked: Asked) -> None:
    """Answer as asked: streamed or not, with an error where the system prompt says `fail`."""
    request = json.loads(asked.body)
    streams = request.get("stream") or "stream" in asked.path
    if request.get("system") == "fail" and not streams:
        body = error()
        await wire.head(529, Content_Type="application/json", Content_Length=str(len(body)))
        await wire.raw(body)
    elif streams:
        await wire.head(Content_Type="text/event-stream; charset=utf-8", Transfer_Encoding="chunked")
        events = stream(rich())
        if request.get("system") == "fail":
            events = [*events[:9], b"event: error\ndata: " + error() + b"\n\n"]
        for one in events:
            await wire.chunk(one)
        await wire.end()
    else:
        body = message(rich())
        await wire.head(Content_Type="application/json", Content_Length=str(len(body)))
        await wire.raw(body)
