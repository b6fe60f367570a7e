"""Amazon's event stream (`application/vnd.amazon.eventstream`): the frames of a body that may have been cut anywhere.

    total length u32 ‖ headers length u32 ‖ CRC-32 of those eight ‖ headers ‖ payload ‖ CRC-32 of all before

Numbers are big-endian. Both checksums are checked. What a cut leaves of a frame is thrown away, as a client does.
Source: docs.aws.amazon.com/transcribe/latest/dg/event-stream.html, smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from genealog.capture.dialects.foreign import Unreadable

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_PRELUDE = 12
_CRC = 4
_LONGEST_HEADERS = 128 * 1024
_LONGEST = 24 * 1024 * 1024
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # header value type → bytes
_SIZED = (6, 7)  # bytes and text, with a length of their own
_TEXT = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Of its headers those that are text."""

    headers: dict[str, str]
    payload: bytes


def frames(body: bytes) -> Iterator[Frame]:
    """Yield each complete frame. Raises: Unreadable `event-stream-broken`."""
    at = 0
    while len(body) - at >= _PRELUDE:
        size, head, crc = struct.unpack_from(">III", body, at)
        if crc != zlib.crc32(body[at : at + 8]) or head > _LONGEST_HEADERS or size > _LONGEST:
            raise Unreadable("event-stream-broken")
        if size < _PRELUDE + head + _CRC:
            raise Unreadable("event-stream-broken")
        if len(body) - at < size:
            return
        end = at + size - _CRC
        if int.from_bytes(body[end : end + _CRC]) != zlib.crc32(body[at:end]):
            raise Unreadable("event-stream-broken")
        start = at + _PRELUDE
        yield Frame(_headers(body[start : start + head]), body[start + head : end])
        at += size


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            size = data[at]
            name = data[at + 1 : at + 1 + size]
            kind = data[at + 1 + size]
            at += size + 2
            if kind in _SIZED:
                (length,) = struct.unpack_from(">H", data, at)
                at += 2
            else:
                length = _FIXED[kind]
            value = data[at : at + length]
            at += length
            if len(name) != size or at > len(data) or not name or name.decode() in found:
                raise Unreadable("event-stream-broken")
            if kind == _TEXT:
                found[name.decode()] = value.decode()
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        raise Unreadable("event-stream-broken") from None
    return found
