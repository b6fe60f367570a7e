"""Amazon Bedrock's wire: frames, answers of converse and invoke, and a script that answers as the service does."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from gateway import fake_anthropic
from gateway.fake_upstream import Asked, Wire

FRAMES = "application/vnd.amazon.eventstream"
TEXT = fake_anthropic.TEXT
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(60))
USAGE = {
    "inputTokens": 11, "outputTokens": 42, "totalTokens": 65, "cacheReadInputTokens": 7, "cacheWriteInputTokens": 5,
    "cacheDetails": [{"ttl": "5m", "inputTokens": 2}, {"ttl": "1h", "inputTokens": 3}],
}  # fmt: skip
METRICS = {"inputTokenCount": 11, "outputTokenCount": 42, "invocationLatency": 900, "firstByteLatency": 90}
CITATION = {
    "title": "INSEE", "source": "s", "sourceContent": [{"text": "2,102,650"}],
    "location": {"documentChar": {"documentIndex": 0, "start": 0, "end": 9}},
}  # fmt: skip


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Return one frame."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    front = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + payload
    return front + struct.pack(">I", zlib.crc32(front))


def event(name: str, value: dict[str, Any]) -> bytes:
    """Return an event with the padding that Bedrock adds."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps({**value, "p": "abcdefghijk"}, separators=(",", ":")).encode())


def exception(name: str = "throttlingException") -> bytes:
    """Return the frame of an exception."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, b'{"message":"Too many tokens"}')


def chunk(item: dict[str, Any]) -> bytes:
    """Return a chunk of invoke-with-response-stream."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(item).encode()).decode()})


def rich() -> list[dict[str, Any]]:
    """Return one block of each kind that a model makes."""
    return [
        {"reasoningContent": {"reasoningText": {"text": "Let me look \u2026", "signature": "c2lnbmVk"}}},
        {"reasoningContent": {"redactedContent": "b3BhcXVl"}},
        {"text": TEXT},
        {"citationsContent": {"content": [{"text": "2,102,650"}], "citations": [CITATION]}},
        {"image": {"format": "png", "source": {"bytes": base64.b64encode(PNG).decode()}}},
        {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Paris", "days": 2.50}}},
        {"toolUse": {"toolUseId": "t2", "name": "now", "input": {}}},
    ]


def converse(blocks: Sequence[dict[str, Any]] = (), *, stop: str = "end_turn") -> bytes:
    """Return a whole answer of converse."""
    message = {"role": "assistant", "content": list(blocks) or [{"text": TEXT}]}
    return json.dumps(
        {
            "output": {"message": message}, "stopReason": stop, "usage": USAGE, "metrics": {"latencyMs": 9},
            "serviceTier": {"type": "flex"},
        }
    ).encode()  # fmt: skip


def items(
    blocks: Sequence[dict[str, Any]] = (), *, size: int = 3, stop: str = "end_turn"
) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a streamed answer of converse."""
    found: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    for index, block in enumerate(list(blocks) or [{"text": TEXT}]):
        at = {"contentBlockIndex": index}
        start, deltas = _deltas(block, size)
        if start:
            found.append(("contentBlockStart", {"start": start, **at}))
        found += [("contentBlockDelta", {"delta": delta, **at}) for delta in deltas]
        found.append(("contentBlockStop", at))
    about = {"usage": USAGE, "metrics": {"latencyMs": 9}, "serviceTier": {"type": "flex"}}
    return [*found, ("messageStop", {"stopReason": stop}), ("metadata", about)]


def _deltas(block: dict[str, Any], size: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def cut(text: str) -> list[str]:
        return [text[at : at + size] for at in range(0, len(text), size)]

    if "text" in block:
        return {}, [{"text": piece} for piece in cut(block["text"])]
    if "reasoningContent" in block:
        said = block["reasoningContent"]
        if "redactedContent" in said:
            return {}, [{"reasoningContent": said}]
        pieces = [{"reasoningContent": {"text": piece}} for piece in cut(said["reasoningText"]["text"])]
        return {}, [*pieces, {"reasoningContent": {"signature": said["reasoningText"]["signature"]}}]
    if "citationsContent" in block:
        said = block["citationsContent"]
        pieces = [{"text": piece} for one in said["content"] for piece in cut(one["text"])]
        return {}, [*pieces, *({"citation": one} for one in said["citations"])]
    if "image" in block:
        data = base64.b64decode(block["image"]["source"]["bytes"])
        halves = [base64.b64encode(part).decode() for part in (data[:20], data[20:])]
        image = {"format": block["image"]["format"]}
        return {"image": image}, [{"image": {"source": {"bytes": half}}} for half in halves]
    use = block["toolUse"]
    spelled = json.dumps(use["input"]) if use["input"] else ""
    start = {name: use[name] for name in ("toolUseId", "name")}
    return {"toolUse": start}, [{"toolUse": {"input": piece}} for piece in cut(spelled)]


def stream(blocks: Sequence[dict[str, Any]] = (), *, size: int = 3, stop: str = "end_turn") -> list[bytes]:
    """Return the frames of a streamed answer of converse."""
    return [event(name, value) for name, value in items(blocks, size=size, stop=stop)]


def anthropic_chunks(blocks: Sequence[dict[str, Any]] = (), *, size: int = 3) -> list[bytes]:
    """Return the frames of an answer of Anthropic's; the last carries Bedrock's own count."""
    found = [item for item in fake_anthropic.items(blocks, size=size) if item["type"] != "ping"]
    last = {**found[-1], "amazon-bedrock-invocationMetrics": METRICS}
    return [chunk(item) for item in [*found[:-1], last]]


async def script(wire: Wire, asked: Asked) -> None:
    """Answer as asked; with an error where the request says `fail`."""
    path = unquote(asked.path.partition("?")[0])
    fails = b"fail" in asked.body
    if path.endswith("-stream"):
        await wire.head(
            Content_Type=FRAMES, Transfer_Encoding="chunked", X_Amzn_Bedrock_Content_Type="application/json"
        )
        frames = stream(rich()) if "/converse" in path else anthropic_chunks(fake_anthropic.rich())
        for one in [*frames[:6], exception()] if fails else frames:
            await wire.chunk(one)
        await wire.end()
        return
    body = converse(rich()) if "/converse" in path else fake_anthropic.message(fake_anthropic.rich())
    more = {"x_amzn_RequestId": "r1", "Content_Type": "application/json"}
    if fails:
        body = b'{"message":"Malformed input request"}'
        more["x_amzn_ErrorType"] = "ValidationException:http://internal.amazon.com/coral/"
    await wire.head(400 if fails else 200, Content_Length=str(len(body)), **more)
    await wire.raw(body)
