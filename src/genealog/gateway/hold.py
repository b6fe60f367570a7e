"""What must wait: the bytes from which a client could tell that an answer has ended.

The outcome of a call is on record before its client sees the end. How a client sees the end depends on how the body
is framed, so there are four ways to hold it back:

    sized      a Content-Length: the end is the last byte, so the chunk with it waits
    events     server-sent events: the end is `data: [DONE]`, so everything from there on waits
    lagging    no length, no events: any chunk may be the last one, so each waits for the next
    whole      events that we cannot read (they are compressed): everything waits

The end of the stream itself (the last chunk marker, or the close) is never sent before the outcome, in any of them.
Bytes are passed on as they came or not at all; nothing is parsed beyond looking for the mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

_DONE = re.compile(rb"[\r\n]data: ?\[DONE\]")  # how a line of its own starts; the data of an event has no line breaks
_TAIL = len(b"\ndata: [DONE]") - 1


class Way(StrEnum):
    """How the end of a body is held back."""

    SIZED = "sized"
    EVENTS = "events"
    LAGGING = "lagging"
    WHOLE = "whole"


class Hold:
    """Takes the chunks of a body and gives back what may go on now; `rest` is what may go once the outcome is safe."""

    __slots__ = ("_held", "_length", "_seen", "_tail", "way")

    def __init__(self, way: Way, length: int | None = None) -> None:
        self.way = way
        self._length = length
        self._seen = 0
        self._held = b""
        self._tail = b"\n"  # the start of a body is the start of a line

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Hold:
        """Choose by response headers; `headers` finds names in any case."""
        length = int(headers["Content-Length"]) if headers.get("Content-Length", "").isdecimal() else None
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/event-stream":
            encoded = headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
            return cls(Way.WHOLE if encoded else Way.EVENTS, length)
        return cls(Way.LAGGING if length is None else Way.SIZED, length)

    @property
    def empty(self) -> bool:
        """Whether the body is known to be empty: then the head is the end."""
        return self._length == 0

    @property
    def rest(self) -> bytes:
        """What is held back now."""
        return self._held

    def feed(self, data: bytes) -> bytes:
        """Take one chunk; return the bytes that may go to the client now, perhaps none."""
        self._seen += len(data)
        if self.way is Way.LAGGING:
            free, self._held = self._held, data
            return free
        if self._held:
            self._held += data
            return b""
        free = data[: self._free(data)]
        self._held = data[len(free) :]
        return free

    def _free(self, data: bytes) -> int:
        """Return how many bytes of `data` stand before the end."""
        if self._length is not None and self._seen >= self._length:
            return 0
        if self.way is Way.WHOLE:
            return 0
        if self.way is Way.EVENTS:
            before = self._tail
            self._tail = data[-_TAIL:] if len(data) >= _TAIL else (before + data)[-_TAIL:]
            if (b"[DONE]" in data or b"[DONE]" in before + data[:_TAIL]) and (mark := _DONE.search(before + data)):
                return max(0, mark.start() + 1 - len(before))
        return len(data)
