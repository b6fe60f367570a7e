"""Several JSON objects in one body that may be cut anywhere: an array that grows, and one object a line.

What a cut leaves of the last object is thrown away, as a client does. Raises, both: `foreign.Unreadable`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects.foreign import Unreadable, read_object

_BETWEEN = re.compile(r"[ \t\r\n,]*")
_TOKEN = 12  # no token is longer that a cut could leave the start of: `\ud83d\ude00`
_scan = json.JSONDecoder()


def array_items(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield each complete object of an array that may have no end."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(body).lstrip()
    except UnicodeDecodeError:
        raise Unreadable("not-json") from None
    at = _after(text, 1)
    while at < len(text) and text[at] != "]":
        try:
            _, end = _scan.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated") or len(text) - error.pos <= _TOKEN:
                return
            raise Unreadable("not-json") from None
        except ValueError:
            raise Unreadable("not-json") from None
        yield read_object(text[at:end].encode())
        at = _after(text, end)


def lines(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the object of each line."""
    *whole, last = body.split(b"\n")
    for line in whole:
        if line.strip():
            yield read_object(line)
    if last.strip():
        try:
            rest = read_object(last)
        except Unreadable:
            return
        yield rest


def _after(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at
