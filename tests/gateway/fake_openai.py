"""OpenAI's wire, faked: answers every operation as the API does, streamed or not, from `openai_samples`."""

from __future__ import annotations

import json
from typing import Any

import openai_samples as samples
from gateway.fake_upstream import Asked, Wire

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
FAIL = "please fail"  # in a request: it is answered with an error, or its stream breaks off with one
ERROR = {"error": {"message": "You asked for it", "type": "insufficient_quota", "param": None, "code": "quota"}}
SUBTITLES = b"1\n00:00:00,000 --> 00:00:03,320\nThe beach was empty.\n"
ANSWER = {"content": samples.TEXT, "reasoning_content": "Because."}
DELTAS = ({"reasoning_content": "Because."}, *({"content": piece} for piece in samples.pieces(samples.TEXT)))


async def script(wire: Wire, asked: Asked) -> None:
    """Answer as asked."""
    streams = b'"stream":true' in asked.body or b'name="stream"\r\n\r\ntrue' in asked.body
    streams = streams or b'"stream_format":"sse"' in asked.body
    fails = FAIL.encode() in asked.body
    path = asked.path.partition("?")[0]
    if fails and not streams:
        return await _whole(wire, json.dumps(ERROR).encode(), status=429)
    if not streams:
        return await _whole(wire, *_answer(path, asked.body))
    events = _events(path)
    if fails:
        events = [*events[:3], {"type": "error", **ERROR}]
    return await _stream(wire, events, done="/responses" not in path and "/images/" not in path)


async def _whole(wire: Wire, body: bytes, kind: str = JSON, *, status: int = 200) -> None:
    await wire.head(status, Content_Type=kind, Content_Length=str(len(body)), X_Request_Id="req_1")
    await wire.raw(body)


async def _stream(wire: Wire, events: list[dict[str, Any]], *, done: bool) -> None:
    await wire.head(Content_Type=SSE, Transfer_Encoding="chunked", X_Request_Id="req_1")
    for event in events:
        await wire.chunk(samples.sse([event], named=not done, done=False))
    if done:
        await wire.chunk(b"data: [DONE]\n\n")
    await wire.end()


def _answer(path: str, body: bytes) -> tuple[bytes, str]:
    if path.endswith("/speech"):
        return samples.WAV, "audio/wav"
    if path.endswith("/translations"):
        return SUBTITLES, "text/plain; charset=utf-8"
    if path.endswith("/transcriptions"):
        verbose = b"verbose_json" in body
        heard = samples.VERBOSE if verbose else {"text": samples.TEXT, "usage": samples.HEARD_USAGE}
        return json.dumps(heard).encode(), JSON
    if path.endswith("/embeddings"):
        return json.dumps(samples.embeddings(as_base64=b'"base64"' in body)).encode(), JSON
    if path.endswith("/responses"):
        return json.dumps(samples.response()).encode(), JSON
    if "/images/" in path:
        return json.dumps(samples.images()).encode(), JSON
    if path.endswith("/chat/completions"):
        return json.dumps(samples.chat(ANSWER)).encode(), JSON
    return json.dumps(samples.completion(samples.TEXT, "b")).encode(), JSON


def _events(path: str) -> list[dict[str, Any]]:
    if path.endswith("/speech"):
        return samples.speech_events()
    if "/audio/" in path:
        return samples.transcript_events()
    if path.endswith("/responses"):
        return samples.response_events()
    if "/images/" in path:
        return samples.image_events("image_edit" if path.endswith("/edits") else "image_generation")
    if path.endswith("/chat/completions"):
        return samples.chat_chunks(*DELTAS)
    return samples.completion_chunks(samples.TEXT, "b")
