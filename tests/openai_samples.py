"""Requests and answers of OpenAI's wire, by hand from its documented formats; tests parse them with its types."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

TEXT = "Paris has 2,102,650 inhabitants \u2014 and \U0001f600."
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(range(100)) * 3
VECTORS = ((0.25, -0.1, 3.4028234663852886e38), (1e-07, 0.0, -0.009327292))
BASE64 = base64.b64encode
CHAT_USAGE = {
    "prompt_tokens": 31, "completion_tokens": 17, "total_tokens": 48,
    "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4, "audio_tokens": 3, "image_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 5, "accepted_prediction_tokens": 0,
                                  "rejected_prediction_tokens": 0},
}  # fmt: skip
COUNTS = {
    "prompt_tokens": 31, "completion_tokens": 17, "cached_tokens": 8, "cache_write_tokens": 4, "audio_prompt_tokens": 3,
    "image_prompt_tokens": 2, "reasoning_tokens": 9, "audio_completion_tokens": 5,
}  # fmt: skip


def b64(data: bytes) -> str:
    """Return base64 as the vendor spells it."""
    return BASE64(data).decode()


def sse(events: list[dict[str, Any]], *, named: bool = False, done: bool = True) -> bytes:
    """Return a stream; with names of events as the newer APIs send them."""
    parts = [(f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in events]
    return ("".join(parts) + ("data: [DONE]\n\n" if done else "")).encode()


def pieces(text: str, size: int = 5) -> list[str]:
    """Cut a text."""
    return [text[at : at + size] for at in range(0, len(text), size)]


# Chat


def chat(*messages: dict[str, Any], usage: dict[str, Any] | None = CHAT_USAGE, finish: str = "stop") -> dict[str, Any]:
    """Return a whole chat completion with a choice for each message."""
    choices = [
        {"index": at, "message": {"role": "assistant", "content": None, "refusal": None, **message}, "logprobs": None,
         "finish_reason": finish}
        for at, message in enumerate(messages)
    ]  # fmt: skip
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": "gpt-5-2026-08-07",
        "service_tier": "flex", "system_fingerprint": "fp_1", "choices": choices, "usage": usage,
    }  # fmt: skip


def chat_chunks(
    *deltas: dict[str, Any], usage: dict[str, Any] | None = CHAT_USAGE, finish: str = "stop", index: int = 0
) -> list[dict[str, Any]]:
    """Return the chunks of a streamed one; with usage as `include_usage` asks for it."""
    head = {
        "id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1790000001, "model": "gpt-5-2026-08-07",
        "service_tier": "flex", "system_fingerprint": "fp_1", "obfuscation": "x7Qz",
    }  # fmt: skip
    said = [{"role": "assistant", "content": ""}, *deltas, {}]
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": index, "delta": delta, "logprobs": None,
                              "finish_reason": finish if at == len(said) - 1 else None}]}
        for at, delta in enumerate(said)
    ]  # fmt: skip
    return [*chunks, {**head, "choices": [], "usage": usage}] if usage else chunks


# Completions


def completion(*texts: str) -> dict[str, Any]:
    """Return a whole legacy completion."""
    return {
        "id": "cmpl-1", "object": "text_completion", "created": 1790000000, "model": "gpt-3.5-turbo-instruct",
        "choices": [{"text": text, "index": at, "logprobs": None, "finish_reason": "stop"}
                    for at, text in enumerate(texts)],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }  # fmt: skip


def completion_chunks(*texts: str) -> list[dict[str, Any]]:
    """Return its chunks, choices side by side."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1790000000, "model": "gpt-3.5-turbo-instruct"}
    chunks: list[dict[str, Any]] = []
    for at, text in enumerate(texts):
        chunks += [{**head, "choices": [{"text": piece, "index": at, "logprobs": None, "finish_reason": None}]}
                   for piece in pieces(text)]  # fmt: skip
        chunks.append({**head, "choices": [{"text": "", "index": at, "logprobs": None, "finish_reason": "stop"}]})
    return [*chunks, {**head, "choices": [], "usage": completion()["usage"]}]


# Responses

ITEMS: list[dict[str, Any]] = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Thinking of France."}],
     "encrypted_content": "gAAAA"},
    {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "Paris"}},
    {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "weather",
     "arguments": '{"city":"Paris"}'},
    {"id": "ct_1", "type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "sql",
     "input": "SELECT 1"},
    {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": b64(PNG), "output_format": "png"},
    {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [
        {"type": "output_text", "text": TEXT, "logprobs": [], "annotations": [
            {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "P", "url": "https://example.com/"}]},
        {"type": "refusal", "refusal": "No more."}]},
]  # fmt: skip
RESPONSE_USAGE = {
    "input_tokens": 36, "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 5}, "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 40}, "total_tokens": 123,
}  # fmt: skip
RESPONSE_COUNTS = {
    "prompt_tokens": 36, "cached_tokens": 6, "cache_write_tokens": 5, "completion_tokens": 87, "reasoning_tokens": 40,
    "searches": 1, "images": 1,
}  # fmt: skip


def response(items: list[dict[str, Any]] = ITEMS, status: str = "completed", **fields: Any) -> dict[str, Any]:
    """Return a whole response."""
    return {
        "id": "resp_1", "object": "response", "created_at": 1790000000, "status": status, "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": "gpt-5-2026-08-07", "output": items,
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "service_tier": "default", "truncation": "disabled", "user": None, "usage": RESPONSE_USAGE,
        "tool_usage": {"image_gen": {"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                                     "output_tokens": 0, "total_tokens": 0}, "web_search": {"num_requests": 1}},
        **fields,
    }  # fmt: skip


def response_events(
    items: list[dict[str, Any]] = ITEMS, *, end: str = "completed", **fields: Any
) -> list[dict[str, Any]]:
    """Return the events of a streamed one, in the order in which they come."""
    begun = response([], "in_progress", usage=None, tool_usage=None)
    events = [{"type": f"response.{state}", "response": begun} for state in ("created", "in_progress")]
    for at, item in enumerate(items):
        events += [{**event, "output_index": at, "item_id": item["id"]} for event in _item_events(item)]
    events.append({"type": f"response.{end}", "response": response(items, end, **fields)})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _item_events(item: dict[str, Any]) -> list[dict[str, Any]]:
    empty = {"content": [], "summary": [], "arguments": "", "input": "", "result": None, "encrypted_content": None}
    begun = {name: empty.get(name, value) for name, value in item.items()}
    if "status" in item:
        begun["status"] = "in_progress"
    inner: list[dict[str, Any]] = []
    for name, stem in (("arguments", "function_call_arguments"), ("input", "custom_tool_call_input")):
        if name in item:
            inner += [
                {"type": f"response.{stem}.delta", "delta": piece, "obfuscation": "q"} for piece in pieces(item[name])
            ]
            inner.append({"type": f"response.{stem}.done", name: item[name]})
    if item["type"] == "web_search_call":
        inner += [{"type": f"response.web_search_call.{state}"} for state in ("in_progress", "searching", "completed")]
    if item["type"] == "image_generation_call":
        inner += [
            {"type": "response.image_generation_call.in_progress"},
            {"type": "response.image_generation_call.partial_image", "partial_image_index": 0,
             "partial_image_b64": b64(PNG[:30])},
            {"type": "response.image_generation_call.completed"},
        ]  # fmt: skip
    for at, part in enumerate(item.get("summary", ())):
        place = {"summary_index": at}
        inner.append({"type": "response.reasoning_summary_part.added", "part": {**part, "text": ""}, **place})
        inner += [
            {"type": "response.reasoning_summary_text.delta", "delta": piece, **place} for piece in pieces(part["text"])
        ]
        inner.append({"type": "response.reasoning_summary_text.done", "text": part["text"], **place})
        inner.append({"type": "response.reasoning_summary_part.done", "part": part, **place})
    for at, part in enumerate(item.get("content", ())):
        inner += [{**event, "content_index": at} for event in _part_events(part)]
    added = {"type": "response.output_item.added", "item": begun}
    return [added, *inner, {"type": "response.output_item.done", "item": item}]


def _part_events(part: dict[str, Any]) -> list[dict[str, Any]]:
    field, stem = ("refusal", "refusal") if part["type"] == "refusal" else ("text", "output_text")
    begun = {**part, field: "", **({"annotations": []} if field == "text" else {})}
    more: dict[str, Any] = {"logprobs": []} if field == "text" else {}
    return [
        {"type": "response.content_part.added", "part": begun},
        *[{"type": f"response.{stem}.delta", "delta": piece, **more} for piece in pieces(part[field])],
        *[{"type": "response.output_text.annotation.added", "annotation": noted, "annotation_index": at}
          for at, noted in enumerate(part.get("annotations", ()))],
        {"type": f"response.{stem}.done", field: part[field], **more},
        {"type": "response.content_part.done", "part": part},
    ]  # fmt: skip


# Embeddings


def embeddings(*, as_base64: bool = False) -> dict[str, Any]:
    """Return vectors as numbers or as base64."""
    data = [
        {"object": "embedding", "index": at,
         "embedding": b64(struct.pack(f"<{len(vector)}f", *vector)) if as_base64 else list(vector)}
        for at, vector in enumerate(VECTORS)
    ]  # fmt: skip
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    return {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}


# Images

IMAGE_USAGE = {
    "input_tokens": 50, "output_tokens": 1056, "total_tokens": 1106,
    "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
}  # fmt: skip
IMAGE_COUNTS = {"prompt_tokens": 50, "completion_tokens": 1056, "image_prompt_tokens": 40, "images": 1}


def images() -> dict[str, Any]:
    """Return one image, in base64."""
    return {
        "created": 1790000000, "background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024",
        "data": [{"b64_json": b64(PNG)}], "usage": IMAGE_USAGE,
    }  # fmt: skip


def image_events(kind: str = "image_generation") -> list[dict[str, Any]]:
    """Return the events of one, with a partial image."""
    head = {"background": "opaque", "created_at": 1790000000, "output_format": "png", "quality": "low",
            "size": "1024x1024"}  # fmt: skip
    return [
        {"type": f"{kind}.partial_image", "b64_json": b64(PNG[:40]), "partial_image_index": 0, **head},
        {"type": f"{kind}.completed", "b64_json": b64(PNG), "usage": IMAGE_USAGE, **head},
    ]


# Audio

HEARD_USAGE = {
    "type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
}  # fmt: skip
HEARD_COUNTS = {"prompt_tokens": 14, "completion_tokens": 45, "audio_prompt_tokens": 10}


def speech_events() -> list[dict[str, Any]]:
    """Return the events of speech."""
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    parts = [{"type": "speech.audio.delta", "audio": b64(WAV[at : at + 70])} for at in range(0, len(WAV), 70)]
    return [*parts, {"type": "speech.audio.done", "usage": usage}]


def transcript_events() -> list[dict[str, Any]]:
    """Return the events of a transcript."""
    parts = [{"type": "transcript.text.delta", "delta": piece} for piece in pieces(TEXT)]
    return [*parts, {"type": "transcript.text.done", "text": TEXT, "usage": HEARD_USAGE}]


VERBOSE = {
    "task": "transcribe", "language": "english", "duration": 8.4705, "text": "The beach was empty.",
    "segments": [{"id": 0, "seek": 0, "start": 0.0, "end": 3.32, "text": " The beach was empty.", "tokens": [50364],
                  "temperature": 0.0, "avg_logprob": -0.28, "compression_ratio": 1.23, "no_speech_prob": 0.009}],
    "words": [{"word": "The", "start": 0.0, "end": 0.2}],
    "usage": {"type": "duration", "seconds": 9},
}  # fmt: skip
