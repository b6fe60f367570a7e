"""What must wait: the bytes from which a client could tell that an answer has ended.

The outcome of a call is on record before its client sees the end. How a client sees the end depends on how the body
is framed, and in a stream on the dialect. So there are four ways to hold it back:

    sized      a Content-Length: the end is the last byte, so the chunk with it waits
    marked     a stream whose last event is known by a mark: everything from the mark on waits
    lagging    no length, no mark: any chunk may be the last one, so each waits for the next
    whole      a stream that we cannot read (it is compressed): everything waits

The end of the body itself (the last chunk marker, or the close) is never sent before the outcome, in any of them.
Bytes are passed on as they came or not at all; nothing is parsed beyond looking for the mark. A mark is part of an
event's beginning or middle: whoever has no byte from there on cannot read that event. In JSON it has quotes, which
inside of a text are escaped, so no text looks like one.
"""

from __future__ import annotations

import base64
import re
from enum import StrEnum
from typing import NamedTuple

_TAIL = 96  # bytes kept of what was seen, so that a mark may be cut anywhere; no mark is longer


class Mark(NamedTuple):
    """How the last event of a stream looks: bytes that it cannot be without, and the whole of it."""

    needles: tuple[bytes, ...]
    pattern: re.Pattern[bytes]


def base64_forms(text: bytes) -> tuple[bytes, ...]:
    """Return what base64 makes of `text` inside of something longer: it depends on where in three bytes it begins."""
    forms = []
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + text)
        forms.append(encoded[-(-shift * 8 // 6) : (shift + len(text)) * 8 // 6])
    return tuple(forms)


def _mark(pattern: bytes, *needles: bytes) -> Mark:
    return Mark(needles, re.compile(pattern))


_DONE = rb"[\r\n]data: ?\[DONE\]"  # how a line of its own starts; the data of an event has no line breaks
_ENDS = rb"(?:completed|failed|incomplete)"
_RESPONSES = rb"[\r\n]event: ?response\." + _ENDS + rb'\b|"type": ?"response\.' + _ENDS + rb'"'
_MEDIA = rb"(?:image_generation\.completed|image_edit\.completed|speech\.audio\.done|transcript\.text\.done)"
_MESSAGE = rb'[\r\n]event: ?message_stop|"type": ?"message_stop"'
_DEFAULT = _mark(rb"|".join((_DONE, _MESSAGE, _RESPONSES)), b"[DONE]", b"message_stop", b"response.")
_FINISHED = rb'"finishReason"\s{0,8}:\s{0,8}"[A-EG-Z]'  # any but FINISH_REASON_UNSPECIFIED
_EVENTS: dict[str, Mark] = {
    "openai-chat": _mark(_DONE, b"[DONE]"),
    "openai-completions": _mark(_DONE, b"[DONE]"),
    "openai-responses": _mark(rb"|".join((_RESPONSES, _DONE)), b"response.", b"[DONE]"),
    "openai-images": _mark(rb"|".join((rb"[\r\n]event: ?" + _MEDIA, rb'"type": ?"' + _MEDIA, _DONE)),
                           b".completed", b"[DONE]"),
    "openai-audio": _mark(rb"|".join((rb"[\r\n]event: ?" + _MEDIA, rb'"type": ?"' + _MEDIA, _DONE)),
                          b".done", b"[DONE]"),
    "anthropic-messages": _mark(_MESSAGE, b"message_stop"),
    "google-generate": _mark(_FINISHED, b"finishReason"),
}  # fmt: skip
_ARRAY = _mark(_FINISHED + rb"|[\r\n]\]", b"finishReason", b"]")
_LINES = _mark(rb'"done"\s{0,8}:\s{0,8}true', b'"done"')
_METRICS = base64_forms(b'"amazon-bedrock-invocationMetrics":')  # in the last chunk of InvokeModelWithResponseStream
_FRAMES = _mark(rb"|".join((rb":event-type\x07\x00\x0bmessageStop", *_METRICS)), b"messageStop", *_METRICS)


class Way(StrEnum):
    """How the end of a body is held back."""

    SIZED = "sized"
    MARKED = "marked"
    LAGGING = "lagging"
    WHOLE = "whole"


class Hold:
    """Takes the chunks of a body and gives back what may go on now; `rest` is what may go once the outcome is safe."""

    __slots__ = ("_held", "_length", "_mark", "_seen", "_tail", "way")

    def __init__(self, way: Way, length: int | None = None, mark: Mark = _DEFAULT) -> None:
        self.way = way
        self._length = length
        self._mark = mark
        self._seen = 0
        self._held: list[bytes] = []
        self._tail = b"\n"  # the start of a body is the start of a line

    @classmethod
    def of(
        cls,
        content_type: str | None,
        content_encoding: str | None,
        length: int | None,
        dialect: str = "openai-chat",
        *,
        streams: bool = False,
    ) -> Hold:
        """Choose by what the response's head says, by the dialect, and by whether a stream was asked for."""
        kind = (content_type or "").partition(";")[0].strip().lower()
        mark = _mark_of(kind, dialect, streams=streams and length is None)
        if mark is None:
            return cls(Way.LAGGING if length is None else Way.SIZED, length)
        if (content_encoding or "identity").strip().lower() not in ("", "identity"):
            return cls(Way.WHOLE, length)
        return cls(Way.MARKED, length, mark)

    @property
    def empty(self) -> bool:
        """Whether the body is known to be empty: then the head is the end."""
        return self._length == 0

    @property
    def rest(self) -> bytes:
        """What is held back now."""
        return b"".join(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take one chunk; return the bytes that may go to the client now, perhaps none."""
        self._seen += len(data)
        if self.way is Way.LAGGING:
            free, self._held = self.rest, [data]
            return free
        if self._held:
            self._held.append(data)
            return b""
        stop = self._free(data)
        if stop == len(data):
            return data
        self._held.append(data[stop:])
        return data[:stop]

    def _free(self, data: bytes) -> int:
        """Return how many bytes of `data` stand before the end."""
        if self._length is not None and self._seen >= self._length:
            return 0
        if self.way is Way.WHOLE:
            return 0
        if self.way is Way.MARKED:
            before = self._tail
            window = before + data
            self._tail = window[-_TAIL:]
            for needle in self._mark.needles:
                if needle in window:
                    found = self._mark.pattern.search(window)
                    if found is not None:
                        # A line break in front of a mark ends the event before, which does not wait.
                        start = found.start() + (window[found.start()] in b"\r\n")
                        return max(0, start - len(before))
                    break
        return len(data)


def _mark_of(content_type: str, dialect: str, *, streams: bool) -> Mark | None:
    if content_type == "text/event-stream":
        return _EVENTS.get(dialect, _DEFAULT)
    if dialect == "ollama" and content_type == "application/x-ndjson":
        return _LINES
    if dialect == "google-generate" and content_type == "application/json" and streams:
        return _ARRAY
    if content_type == "application/vnd.amazon.eventstream":
        return _FRAMES
    return None
