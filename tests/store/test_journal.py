from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.errors import MalformedError
from genealog.store.journal import (
    MAGIC,
    MAX_COUNT,
    NO_DIGEST,
    Frame,
    Mark,
    decode_frame,
    decode_header,
    encode_frame,
    is_torn,
    later_frame,
    segment_of,
    split_body,
)

names = st.text(min_size=1, max_size=20).filter(lambda text: 1 <= len(text.encode()) <= 255)
marks = st.dictionaries(
    names, st.builds(Mark, boot=names, high_water=st.integers(0, 2**64 - 1), leaf=st.binary(min_size=32, max_size=32))
)
u64 = st.integers(0, 2**64 - 1)
digests = st.binary(min_size=32, max_size=32)
MARK = Mark("00000001-aabbccdd", 7, b"l" * 32)


def make(entries: list[bytes], marks: dict[str, Mark] | None = None) -> bytes:
    return encode_frame(entries, marks or {}, epoch=3, first=5, prev=b"p" * 32)


def test_the_bytes_of_a_frame_are_these() -> None:
    mark = b"\x09gateway-0" + b"\x11" + MARK.boot.encode() + struct.pack(">Q", 7) + MARK.leaf
    body = b"\x00\x03one\x00\x00"
    head = b"GLJRNL1\n" + struct.pack(">QQIII", 3, 5, 2, len(mark), len(body)) + b"p" * 32
    expected = head + mark + body
    assert make([b"one", b""], {"gateway-0": MARK}) == expected + sha256(expected).digest()


@given(st.lists(st.binary(max_size=40), max_size=20), marks, u64, u64, digests)
def test_a_frame_reads_back(entries: list[bytes], marks: dict[str, Mark], epoch: int, first: int, prev: bytes) -> None:
    data = encode_frame(entries, marks, epoch=epoch, first=first, prev=prev)
    assert decode_frame(data) == Frame(epoch, first, prev, marks, tuple(entries), data[-32:], len(data))
    assert decode_header(data).length == len(data)


@given(st.lists(st.binary(max_size=10), max_size=5), marks, st.data())
def test_no_other_bytes_are_a_frame(entries: list[bytes], marks: dict[str, Mark], data: st.DataObject) -> None:
    good = make(entries, marks)
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[place] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(flipped), good[:place], good + b"\0"):
        with pytest.raises(MalformedError):
            decode_frame(bad)


def reseal(data: bytes) -> bytes:
    return data[:-32] + sha256(data[:-32]).digest()


def test_a_frame_with_a_right_digest_and_wrong_content_is_refused() -> None:
    good = make([b"one", b"two"], {"a": MARK, "b": MARK})
    count = bytearray(good)
    count[27] = 3
    long_entry = good.replace(b"\x00\x03one", b"\x00\x05one")
    swapped = good.replace(b"\x01a", b"\x01c")  # marks not in order
    short_marks = good.replace(b"\x01b", b"\xfab")
    not_text = good.replace(b"\x01b", b"\x01\xff")
    for bad in (bytes(count), long_entry, swapped, short_marks, not_text):
        assert bad != good
        with pytest.raises(MalformedError) as caught:
            decode_frame(reseal(bad))
        assert caught.value.code == "frame-body"


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for bad in (data, MAGIC + data):
        with pytest.raises(MalformedError):
            decode_frame(bad)


@pytest.mark.parametrize(
    ("entries", "marks", "code"),
    [
        ([b"x" * 65_536], {}, "entry-too-big"),
        ([b""] * (MAX_COUNT + 1), {}, "batch-too-big"),
        ([bytes(65_535)] * 1025, {}, "batch-too-big"),
        ([], {"": MARK}, "bad-mark"),
        ([], {"e" * 256: MARK}, "bad-mark"),
        ([], {"\ud800": MARK}, "bad-mark"),
        ([], {"a": Mark("", 0, bytes(32))}, "bad-mark"),
        ([], {"a": Mark("b", -1, bytes(32))}, "bad-mark"),
        ([], {"a": Mark("b", 2**64, bytes(32))}, "bad-mark"),
        ([], {"a": Mark("b", 0, bytes(31))}, "bad-mark"),
    ],
)
def test_what_does_not_fit_a_frame_is_refused(entries: list[bytes], marks: dict[str, Mark], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        encode_frame(entries, marks, epoch=0, first=0, prev=NO_DIGEST)
    assert caught.value.code == code


def test_the_largest_entry_fits() -> None:
    assert decode_frame(make([b"x" * 65_535])).entries == (b"x" * 65_535,)


@given(st.integers(1, 400))
def test_every_prefix_is_torn(length: int) -> None:
    data = make([bytes([255]) * 300], {"a": MARK})
    assert is_torn(data[: length % len(data)], 1000)


@given(st.integers(0, 3000), st.integers(0, 6))
def test_a_lost_sector_is_torn(offset: int, sector: int) -> None:
    frame = make([b"\xff" * 3000])
    start, stop = max(0, 512 * sector - offset % 512), min(len(frame), 512 * (sector + 1) - offset % 512)
    assert is_torn(frame[:start] + bytes(stop - start) + frame[stop:], offset)


@given(st.integers(0, 3000), st.integers(68, 3000))
def test_a_changed_byte_is_not_torn(offset: int, place: int) -> None:
    frame = bytearray(make([b"\xff" * 3000]))
    frame[place] ^= 0x01  # the lengths stay whole: changed, they look like a cut
    assert not is_torn(bytes(frame), offset)


def test_a_whole_frame_behind_a_bad_one_is_found() -> None:
    good = make([b"one"])
    assert later_frame(b"rubbish" + MAGIC + good + b"more") == 15
    assert later_frame(good[:-1]) is None
    assert later_frame(good) is None  # itself does not count
    assert later_frame(b"x" + good[:-1]) is None


def test_bodies_are_cut_exactly() -> None:
    assert split_body(b"\0\1a\0\0\0\2bc", 3) == (b"a", b"", b"bc")
    for body, count in ((b"\0\1a", 2), (b"\0\1", 1), (b"\0", 0), (b"\0\1ab", 1)):
        with pytest.raises(MalformedError):
            split_body(body, count)


def test_segments_begin_at_multiples() -> None:
    assert [segment_of(i) for i in (0, 65_535, 65_536, 200_000)] == [0, 0, 65_536, 196_608]
