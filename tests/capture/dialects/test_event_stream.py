from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake_bedrock import event, frame, rich, stream
from genealog.capture.dialects.event_stream import frames
from genealog.capture.dialects.foreign import Unreadable

names = st.text(st.characters(codec="ascii"), min_size=1, max_size=20)


def by_botocore(body: bytes) -> list[tuple[dict[str, Any], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    return [(message.headers, message.payload) for message in buffer]


def with_headers(packed: bytes) -> bytes:
    """Return a frame with these bytes for headers, its checksums right."""
    prelude = struct.pack(">II", 16 + len(packed), len(packed))
    front = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed
    return front + struct.pack(">I", zlib.crc32(front))


@given(st.lists(st.tuples(st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
                          st.binary(max_size=50)), max_size=4), st.data())  # fmt: skip
def test_frames_are_what_botocore_reads(sent: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    packed = [frame({name: value for name, value in headers.items() if len(value.encode()) == len(value)}, payload)
              for headers, payload in sent]  # fmt: skip
    body = b"".join(packed)
    cut = body[: data.draw(st.integers(0, len(body)))]
    assert [(one.headers, one.payload) for one in frames(body)] == by_botocore(body)
    assert [(one.headers, one.payload) for one in frames(cut)] == by_botocore(cut)


def test_headers_of_every_type() -> None:
    values = [b"\x00", b"\x01", b"\x02\x05", b"\x03\x00\x05", b"\x04" + bytes(4), b"\x05" + bytes(8),
              b"\x06\x00\x02ab", b"\x07\x00\x02hi", b"\x08" + bytes(8), b"\x09" + bytes(16)]  # fmt: skip
    body = with_headers(b"".join(b"\x01" + bytes([97 + at]) + value for at, value in enumerate(values)))
    (one,) = frames(body)
    ((headers, _),) = by_botocore(body)
    assert one.headers == {name: value for name, value in headers.items() if isinstance(value, str)} == {"h": "hi"}


def test_a_changed_bit_is_seen_wherever_it_is() -> None:
    body = event("messageStart", {"role": "assistant"})
    for at in range(len(body) * 8):
        changed = bytearray(body)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(Unreadable, match="event-stream-broken"):
            list(frames(bytes(changed)))


@pytest.mark.parametrize(
    "packed",
    [b"\x01", b"\x01a", b"\x01a\x0a", b"\x01a\x07", b"\x01a\x07\x00\x05hi", b"\x01a\x07\x00\x01\xff", b"\x00\x00",
     b"\x01a\x00\x01a\x00" + b"\x01b\x07\x00\x01x\x01b\x07\x00\x01y", b"\x09a\x00"],
)  # fmt: skip
def test_headers_that_make_no_sense(packed: bytes) -> None:
    with pytest.raises(Unreadable, match="event-stream-broken"):
        list(frames(with_headers(packed)))


@pytest.mark.parametrize(("size", "head"), [(15, 0), (20, 5), (2**32 - 1, 0), (300_000, 200_000)])
def test_lengths_that_make_no_sense(size: int, head: int) -> None:
    prelude = struct.pack(">II", size, head)
    with pytest.raises(Unreadable, match="event-stream-broken"):
        list(frames(prelude + struct.pack(">I", zlib.crc32(prelude)) + bytes(64)))


@given(st.binary(max_size=100))
def test_nothing_else_is_raised(body: bytes) -> None:
    for data in (body, with_headers(body)):
        with suppress(Unreadable):
            list(frames(data))


def test_what_came_before_a_broken_frame_is_given() -> None:
    body = b"".join(stream(rich())[:3]) + b"\x00" * 20
    found = frames(body)
    assert [next(found).headers[":message-type"] for _ in range(3)] == ["event"] * 3
    with pytest.raises(Unreadable):
        next(found)
