"""Holding back the end of an answer, whatever way it is cut into chunks."""

from __future__ import annotations

import base64
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.gateway.hold import Hold, Way

END = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")


def cut(body: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[a:b] for a, b in pairwise(marks)]


lines = st.sampled_from(
    [
        b": comment",
        b'data: {"a":"data: [DONE]"}',
        b"data: [DONE",
        b"data:[DONE]",
        b"data: [DONE]",
        b"",
        b"event: x",
        b"[DONE]",
    ]
)
bodies = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=8).map(
    lambda items: b"".join(line + end for line, end in items)
)


@given(bodies, st.lists(st.integers(0, 500), max_size=12))
def test_no_client_sees_done_before_the_outcome(body: bytes, places: list[int]) -> None:
    hold = Hold(Way.MARKED)
    free = b"".join(hold.feed(piece) for piece in cut(body, places))
    assert free + hold.rest == body
    assert not END.search(free)
    mark = END.search(body)
    if mark is None:
        assert hold.rest == b""


@given(bodies)
def test_what_stands_before_done_does_not_wait(body: bytes) -> None:
    hold = Hold(Way.MARKED)
    mark = END.search(body)
    free = hold.feed(body) if body else b""
    assert len(free) == (len(body) if mark is None else body.index(b"data:", mark.start()))


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 500), max_size=12))
def test_the_last_byte_of_a_known_length_waits(body: bytes, places: list[int]) -> None:
    hold = Hold(Way.SIZED, len(body))
    pieces = cut(body, places)
    free = b"".join(hold.feed(piece) for piece in pieces)
    assert free == b"".join(pieces[:-1])
    assert hold.rest == pieces[-1]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8))
def test_of_an_unknown_length_one_chunk_waits(pieces: list[bytes]) -> None:
    hold = Hold(Way.LAGGING)
    assert [hold.feed(piece) for piece in pieces] == [b"", *pieces[:-1]]
    assert hold.rest == pieces[-1]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_events_that_cannot_be_read_wait_whole(pieces: list[bytes]) -> None:
    hold = Hold(Way.WHOLE)
    assert b"".join(hold.feed(piece) for piece in pieces) == b""
    assert hold.rest == b"".join(pieces)


@pytest.mark.parametrize(
    ("content_type", "encoding", "length", "way", "empty"),
    [
        ("text/event-stream; charset=utf-8", None, None, Way.MARKED, False),
        ("Text/Event-Stream", "identity", None, Way.MARKED, False),
        ("text/event-stream", "gzip", None, Way.WHOLE, False),
        ("application/json", None, 7, Way.SIZED, False),
        ("text/event-stream", None, 0, Way.MARKED, True),
        (None, None, 0, Way.SIZED, True),
        ("application/json", None, None, Way.LAGGING, False),
        (None, None, None, Way.LAGGING, False),
    ],
)
def test_the_way_follows_the_head(
    content_type: str | None, encoding: str | None, length: int | None, way: Way, empty: bool
) -> None:
    hold = Hold.of(content_type, encoding, length)
    assert (hold.way, hold.empty) == (way, empty)


SSE = "text/event-stream"
FRAME = b"\x00\x00\x00\x10\x0b:event-type\x07\x00\x0bmessageStop\x0d:content-type"
ENDS = [  # dialect, content type, what goes at once, the mark, what comes behind it
    ("openai-chat", SSE, b'data: {"a":"[DONE]"}\n\n', b"data: [DONE]", b"\n\n"),
    ("anthropic-messages", SSE, b'event: ping\ndata: {"type":"ping"}\n\n', b"event: message_stop", b'\ndata: {}\n\n'),
    ("anthropic-messages", SSE, b'data: {"text":"\\"type\\":\\"message_stop\\""}\n\ndata: {',
     b'"type":"message_stop"', b"}\n\n"),
    ("openai-responses", SSE, b"event: response.output_text.done\ndata: {}\n\n", b"event: response.completed", b"\n\n"),
    ("openai-responses", SSE, b"event: response.created\ndata: {}\n\n", b"event: response.incomplete", b"\n\n"),
    ("openai-images", SSE, b"event: image_generation.partial_image\n\n", b"event: image_generation.completed", b"\n"),
    ("openai-audio", SSE, b'data: {"type":"transcript.text.delta"}\n\ndata: {', b'"type":"transcript.text.done"', b"}"),
    ("google-generate", SSE, b'data: {"finishReason": "FINISH_REASON_UNSPECIFIED"}\r\n\r\ndata: {"x": {',
     b'"finishReason": "STOP"', b"}}\r\n\r\n"),
    ("google-generate", "application/json", b'[{"candidates": 1\n}\n,\r\n{"c": {', b'"finishReason": "STOP"', b"}}\n]"),
    ("google-generate", "application/json", b'[{"candidates": [1]\n}\n', b"]", b""),
    ("ollama", "application/x-ndjson", b'{"done":false}\n{"response":"\\"done\\":true",', b'"done":true', b"}\n"),
    ("bedrock", "application/vnd.amazon.eventstream", b"\x00\x0b:event-type\x07\x00\x11contentBlockDelta",
     FRAME[5:], b"\x00"),
    ("opaque", SSE, b"data: 1\n\n", b"data: [DONE]", b"\n\n"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "kind", "before", "mark", "after"), ENDS)
def test_every_dialect_has_its_own_end(dialect: str, kind: str, before: bytes, mark: bytes, after: bytes) -> None:
    body = before + mark + after
    hold = Hold.of(kind, None, None, dialect, streams=True)
    assert hold.way is Way.MARKED
    assert hold.feed(body) == before
    assert hold.rest == mark + after
    for size in (1, 2, 3, 7, 50):
        hold = Hold.of(kind, None, None, dialect, streams=True)
        free = b"".join(hold.feed(body[at : at + size]) for at in range(0, len(body), size))
        assert free + hold.rest == body
        assert free.startswith(before)
        assert len(free) < len(before + mark)


@pytest.mark.parametrize("shift", range(3))
def test_the_last_chunk_of_a_model_that_bedrock_invokes_is_seen_through_base64(shift: int) -> None:
    text = b'{"x":"' + b"y" * shift + b'","amazon-bedrock-invocationMetrics":{"inputTokenCount":1}}'
    frame = b'\x00{"bytes":"' + base64.b64encode(text) + b'"}'
    quoted = b'{"x":"' + b"y" * shift + b'\\"amazon-bedrock-invocationMetrics\\":1"}'
    other = b'\x00{"bytes":"' + base64.b64encode(quoted) + b'"}'
    hold = Hold.of("application/vnd.amazon.eventstream", None, None, "bedrock", streams=True)
    assert hold.feed(other) == other
    hold.feed(frame)
    assert hold.rest.endswith(frame[-20:])
