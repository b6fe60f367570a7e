"""Calls to record in tests: a chat request, its answer whole and streamed, and a recorder that does not surprise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from genealog.capture.dialects.openai_chat import DIALECT
from genealog.core.call import GROUPS, CallLeaf, Seals, call_id
from genealog.core.canonical import encode
from genealog.core.frames import Intent, Outcome
from genealog.core.merkle import leaf_hash
from genealog.gateway.record import Call, Context, Recorder

SPEC = "glr1:" + "5" * 64
MODELS = ("glf1:" + "a" * 64, "glf1:" + "b" * 64)
TEXT = "Paris has 2,102,650 inhabitants \u2014 and \U0001f600."
BOOT = "00000001-0badcafe"


def context(**changes: Any) -> Context:
    """Return what a gateway knows of a call to `prod/bot`."""
    known: dict[str, Any] = {
        "deployment": "prod/bot",
        "operation": "/v1/chat/completions",
        "dialect": DIALECT,
        "spec": SPEC,
        "models": MODELS,
        "bound": "A3",
        "who": {"principal": "svc-a", "tenant": "acme"},
        "headers": {"user-agent": "test"},
    }
    return Context(**(known | changes))


def request(text: str = "How many people live in Paris?", **fields: Any) -> bytes:
    """Return a chat request whose last message is `text`."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return json.dumps({"model": "prod/bot", "messages": messages, **fields}).encode()


def answer(text: str = TEXT, *, finish: str = "stop", **message: Any) -> bytes:
    """Return a whole chat response."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny-2026",
            "system_fingerprint": "fp_1",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    ).encode()


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    """Return one event of a stream."""
    item = {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "model": "tiny-2026",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **fields,
    }
    return b"data: " + json.dumps(item).encode() + b"\n\n"


def stream(text: str = TEXT, *, size: int = 3, finish: str = "stop") -> list[bytes]:
    """Return the events of a streamed answer, `size` characters each, with usage and [DONE]."""
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in pieces),
        chunk({}, finish),
        chunk({}, choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]


def ticking() -> Callable[[], datetime]:
    """Return a clock that goes on by a second each time somebody looks."""
    ticks = count()
    return lambda: datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC) + timedelta(seconds=next(ticks))


def counting() -> Callable[[int], bytes]:
    """Return an entropy source that never repeats and can be told in advance."""
    numbers = count(1)
    return lambda size: hashlib.shake_256(b"%d" % next(numbers)).digest(size)


def recorder(sink: Callable[[bytes], None]) -> Recorder:
    """Return a recorder without chance."""
    return Recorder("gateway-0", BOOT, sink, clock=ticking(), entropy=counting())


def record(
    line: Recorder, body: bytes | None = None, *, close: bool = True, finish: str = "complete", **changes: Any
) -> Call:
    """Record one whole call, or leave it open."""
    call = line.open(body or request(), context(**changes))
    if close:
        call.chunk(answer())
        call.close(finish=finish, status=200, content_type="application/json")  # type: ignore[arg-type]
    return call


def intent(**changes: Any) -> Intent:
    """Return an intent frame."""
    fields: dict[str, Any] = {
        "n": 1,
        "call": "01JGM3Z8ZZ" + "0" * 16,
        "seq": 1,
        "called_at": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
        "deployment": "prod/bot",
        "spec": SPEC,
        "models": MODELS,
        "bound": "A3",
        "durability": "D1",
        "capture": "encrypted",
        "dialect": DIALECT,
        "operation": "/v1/chat/completions",
        "who": {"principal": "svc-a", "department": "risk", "project": "claims"},
        "headers": {},
        "request": request(temperature=0.20, seed=18446744073709551615),
        "salts": bytes(range(192)),
    }
    return Intent(**(fields | changes))


def outcome(**changes: Any) -> Outcome:
    """Return the outcome frame of `intent`."""
    body = answer()
    fields: dict[str, Any] = {
        "n": 2,
        "call": "01JGM3Z8ZZ" + "0" * 16,
        "ended_at": datetime(2026, 1, 2, 3, 4, 6, 1_000, tzinfo=UTC),
        "finish": "complete",
        "status": 200,
        "content_type": "application/json",
        "content_encoding": None,
        "response": body,
        "delivered": len(body),
        "assurance": "A2",
        "error": None,
        "engine": None,
    }
    return Outcome(**(fields | changes))


def leaf(number: int = 1, *, prev: str | None = None, seq: int | None = None, **changes: Any) -> CallLeaf:
    """Return a leaf of `gateway-0`; its number is its call ID and, unless given, its `seq`."""
    fields: dict[str, Any] = {
        "call": call_id(number, bytes(10)),
        "emitter": "gateway-0",
        "boot": BOOT,
        "seq": seq or number,
        "assurance": "A2",
        "durability": "D1",
        "finish": "complete",
        "called_at": "2026-01-02T03:04:05.678Z",
        "ended_at": "2026-01-02T03:04:06.001Z",
        "seals": Seals(**dict.fromkeys(GROUPS, "0" * 64)),
        "prev": prev,
        "spec": SPEC,
        "models": MODELS,
    }
    return CallLeaf(**(fields | changes))


def chain(count: int, **changes: Any) -> list[CallLeaf]:
    """Return leaves that are numbered and chained."""
    leaves: list[CallLeaf] = []
    for number in range(1, count + 1):
        prev = leaf_hash(encode(leaves[-1])).hex() if leaves else None
        leaves.append(leaf(number, prev=prev, **changes))
    return leaves
