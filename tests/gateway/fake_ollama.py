"""Ollama's wire: chat, generate and embed, whole and as lines, and a script that answers as the server does."""

from __future__ import annotations

import base64
import json
from typing import Any

from gateway.fake_upstream import Asked, Wire

MODEL = "tiny:latest"
TEXT = "Paris has 2,102,650 inhabitants \u2014 and \U0001f600."
THINKING = "Let me look \u2026"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(60))
VECTORS = [[0.25, -1.5], [1, 2]]
CALLS = [{"function": {"index": 0, "name": "weather", "arguments": {"city": "Paris", "days": 2.5}}}]
TIMES = {"total_duration": 900, "load_duration": 100, "prompt_eval_duration": 200, "eval_duration": 500}
DONE = {"done": True, "done_reason": "stop", **TIMES, "prompt_eval_count": 12, "eval_count": 34}
_HEAD = {"model": MODEL, "created_at": "2026-01-02T03:04:05.678901234Z"}


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def chat(text: str = TEXT) -> bytes:
    """Return a whole answer of chat."""
    said = {"role": "assistant", "content": text, "thinking": THINKING, "tool_calls": CALLS}
    return json.dumps({**_HEAD, "message": said, **DONE}).encode()


def chat_items(text: str = TEXT, *, size: int = 3) -> list[dict[str, Any]]:
    """Return the lines of a streamed answer of chat."""
    said = [{"content": "", "thinking": piece} for piece in _cut(THINKING, size)]
    said += [{"content": piece} for piece in _cut(text, size)]
    found = [*said, {"content": "", "tool_calls": CALLS}]
    items = [{**_HEAD, "message": {"role": "assistant", **one}, "done": False} for one in found]
    return [*items, {**_HEAD, "message": {"role": "assistant", "content": ""}, **DONE}]


def generate(text: str = TEXT, **more: Any) -> bytes:
    """Return a whole answer of generate."""
    return json.dumps({**_HEAD, "response": text, "thinking": THINKING, **DONE, "context": [1, 2], **more}).encode()


def generate_items(text: str = TEXT, *, size: int = 3, **more: Any) -> list[dict[str, Any]]:
    """Return the lines of a streamed answer of generate."""
    items = [{**_HEAD, "response": "", "thinking": piece, "done": False} for piece in _cut(THINKING, size)]
    items += [{**_HEAD, "response": piece, "done": False} for piece in _cut(text, size)]
    return [*items, {**_HEAD, "response": "", **DONE, "context": [1, 2], **more}]


def lines(items: list[dict[str, Any]]) -> list[bytes]:
    """Return a stream."""
    return [json.dumps(item).encode() + b"\n" for item in items]


def embed() -> bytes:
    """Return an answer of embed."""
    return json.dumps({"model": MODEL, "embeddings": VECTORS, "total_duration": 9, "prompt_eval_count": 8}).encode()


def image() -> str:
    """Return an image that a model made."""
    return base64.b64encode(PNG).decode()


def error() -> bytes:
    """Return an error: nothing but a text."""
    return json.dumps({"error": 'model "tiny" not found, try pulling it first'}).encode()


async def script(wire: Wire, asked: Asked) -> None:
    """Answer as asked; streams by default, with an error where the prompt says `fail`."""
    request = json.loads(asked.body)
    fails = b"fail" in asked.body
    if asked.path in ("/api/embed", "/api/embeddings") or request.get("stream") is False or fails:
        body = embed() if "embed" in asked.path else chat() if "chat" in asked.path else generate()
        if fails:
            body = error()
        kind = "application/json; charset=utf-8"
        await wire.head(404 if fails else 200, Content_Type=kind, Content_Length=str(len(body)))
        await wire.raw(body)
        return
    await wire.head(Content_Type="application/x-ndjson", Transfer_Encoding="chunked")
    for line in lines(chat_items() if "chat" in asked.path else generate_items()):
        await wire.chunk(line)
    await wire.end()
