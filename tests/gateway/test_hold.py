"""Holding back the end of an answer, whatever way it is cut into chunks."""

from __future__ import annotations

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
    hold = Hold(Way.EVENTS)
    free = b"".join(hold.feed(piece) for piece in cut(body, places))
    assert free + hold.rest == body
    assert not END.search(free)
    mark = END.search(body)
    if mark is None:
        assert hold.rest == b""


@given(bodies)
def test_what_stands_before_done_does_not_wait(body: bytes) -> None:
    hold = Hold(Way.EVENTS)
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
    ("headers", "way", "empty"),
    [
        ({"Content-Type": "text/event-stream; charset=utf-8"}, Way.EVENTS, False),
        ({"Content-Type": "Text/Event-Stream", "Content-Encoding": "identity"}, Way.EVENTS, False),
        ({"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}, Way.WHOLE, False),
        ({"Content-Type": "application/json", "Content-Length": "7"}, Way.SIZED, False),
        ({"Content-Type": "text/event-stream", "Content-Length": "0"}, Way.EVENTS, True),
        ({"Content-Length": "0"}, Way.SIZED, True),
        ({"Content-Type": "application/json"}, Way.LAGGING, False),
        ({}, Way.LAGGING, False),
    ],
)
def test_the_way_follows_the_head(headers: dict[str, str], way: Way, empty: bool) -> None:
    hold = Hold.of(headers)
    assert (hold.way, hold.empty) == (way, empty)
