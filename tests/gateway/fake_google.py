"""Google's wire: generateContent whole, as events and as an array, embeddings, and a script that answers as the API."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from gateway.fake_upstream import Asked, Wire

MODEL = "gemini-test-3"
TEXT = "Paris has 2,102,650 inhabitants \u2014 and \U0001f600."
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
USAGE = {
    "promptTokenCount": 12, "candidatesTokenCount": 30, "thoughtsTokenCount": 20, "toolUsePromptTokenCount": 4,
    "totalTokenCount": 66, "cachedContentTokenCount": 8, "trafficType": "ON_DEMAND",
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}, {"modality": "AUDIO", "tokenCount": 5}],
    "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 20}],
}  # fmt: skip
EARLY = {"promptTokenCount": 12, "candidatesTokenCount": 3, "totalTokenCount": 15}
VALUES = [[0.25, -1.5, 0.0125], [1.0, 2.0, 3.0]]


def rich() -> list[dict[str, Any]]:
    """Return one part of each kind that a model makes."""
    return [
        {"text": "Let me look \u2026", "thought": True},
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}},
        {"text": TEXT, "thoughtSignature": "c2lnbmVk"},
        {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}},
        {"functionCall": {"name": "weather", "args": {"city": "Paris", "days": 2.50}}, "thoughtSignature": "Y2FsbA=="},
        {"functionCall": {"name": "now", "args": {}}},
    ]


def answer(parts: Sequence[dict[str, Any]] = (), *, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """Return a whole answer, or what one part of a stream is like."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": MODEL, "responseId": "r1", "usageMetadata": USAGE, **more}


def items(parts: Sequence[dict[str, Any]], *, size: int = 3, finish: str = "STOP") -> list[dict[str, Any]]:
    """Return what a streamed answer consists of, texts cut to `size` characters, signatures after their text."""
    found: list[dict[str, Any]] = []
    for part in parts:
        if "text" not in part:
            found.append(part)
            continue
        kind = {"thought": True} if part.get("thought") else {}
        text = part["text"]
        found += [{"text": text[at : at + size], **kind} for at in range(0, len(text), size)]
        if "thoughtSignature" in part:
            found.append({"text": "", "thoughtSignature": part["thoughtSignature"], **kind})
    usages = [EARLY, {"trafficType": "ON_DEMAND"}]
    begun = [answer([part], finish=None, usageMetadata=usages[at % 2]) for at, part in enumerate(found)]
    return [*begun, answer([{"text": ""}], finish=finish)]


def whole(body: Any) -> bytes:
    """Return JSON as Google prints it."""
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


def as_events(items: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return a stream as `alt=sse` gives it."""
    return [b"data: " + json.dumps(item).encode() + b"\r\n\r\n" for item in items]


def as_array(items: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return a stream as it comes without `alt=sse`."""
    return [(b"[" if at == 0 else b",\r\n") + whole(item) for at, item in enumerate(items)] + [b"]" if items else b"[]"]


def error(code: int = 429, status: str = "RESOURCE_EXHAUSTED") -> dict[str, Any]:
    """Return an error."""
    return {"error": {"code": code, "message": "You exceeded your quota", "status": status}}


def blocked() -> dict[str, Any]:
    """Return the answer to a prompt that is refused."""
    return {
        "promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": MODEL, "responseId": "r2",
        "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
    }  # fmt: skip


def embeddings() -> dict[str, Any]:
    """Return an answer of batchEmbedContents."""
    return {"embeddings": [{"values": values} for values in VALUES]}


def predictions() -> dict[str, Any]:
    """Return an answer of Vertex's predict."""
    return {
        "predictions": [
            {"embeddings": {"values": values, "statistics": {"token_count": 4, "truncated": False}}}
            for values in VALUES
        ],
        "metadata": {"billableCharacterCount": 11},
    }


async def script(wire: Wire, asked: Asked) -> None:
    """Answer as asked, with an error where the system instruction says `fail`."""
    request = json.loads(asked.body)
    fails = "fail" in json.dumps(request.get("systemInstruction", ""))
    path, _, query = asked.path.partition("?")
    if path.endswith((":streamGenerateContent", ":streamRawPredict")):
        events = "alt=sse" in query
        kind = "text/event-stream" if events else "application/json"
        await wire.head(Content_Type=kind, Transfer_Encoding="chunked")
        said = items(rich())
        if fails:
            said = [*said[:5], error(500, "INTERNAL")]
        for piece in as_events(said) if events else as_array(said):
            await wire.chunk(piece)
        await wire.end()
        return
    body = whole(answer(rich()))
    if path.endswith((":batchEmbedContents", ":embedContent")):
        body = whole(embeddings())
    elif path.endswith(":predict"):
        body = whole(predictions())
    if fails:
        body = whole(error())
    await wire.head(429 if fails else 200, Content_Type="application/json", Content_Length=str(len(body)))
    await wire.raw(body)
