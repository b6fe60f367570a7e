"""Bodies in chunks (RFC 9112 §7.1), read strictly: how the bytes were cut on their way changes nothing."""

from __future__ import annotations

import re

from genealog.gateway.http1.head import Limits, RefusedError, check_trailers

_HEX = b"0123456789abcdefABCDEF"
_MAX_DIGITS = 15  # a size that no integer of anybody overflows at
_SIZE, _DATA, _AFTER, _TRAILERS = range(4)
# chunk-ext of RFC 9112 §7.1.1, without white space around: ;name, ;name=token, ;name="text"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_EXTENSIONS = re.compile(
    rb"(?:;"
    + _TOKEN
    + rb"(?:=(?:"
    + _TOKEN
    + rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"))?)*'
)


class Chunked:
    """The body of one message. Feed it until it is `done`, or `refused`."""

    __slots__ = ("_extensions", "_left", "_limits", "_partial", "_state", "done", "refused")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _SIZE
        self._left = 0  # bytes of this chunk that did not come yet
        self._partial = b""  # of a line that has no end yet, or of all trailers
        self._extensions = 0
        self.done = False
        self.refused: RefusedError | None = None

    def feed(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Read `data` from `at`, append what is body to `out`, and return the place up to which it was read.

        Less than all of it is read only if the body is `done` or `refused` there.
        """
        end = len(data)
        while at < end:
            if self._state == _DATA:
                left = self._left
                if end - at < left:
                    out.append(data[at:])
                    self._left = left - (end - at)
                    return end
                out.append(data[at : at + left])
                at += left
                if data[at : at + 2] == b"\r\n":
                    at += 2
                    self._state = _SIZE
                else:
                    self._state = _AFTER
            elif self._state == _SIZE:
                at = self._line(data, at)
            elif self._state == _AFTER:
                seen = self._partial + data[at : at + 2 - len(self._partial)]
                if seen != b"\r\n"[: len(seen)]:
                    return self._refuse("chunk without its end", at)
                at += len(seen) - len(self._partial)
                self._partial = seen
                if len(seen) == 2:
                    self._partial, self._state = b"", _SIZE
            else:
                return self._trailers(data, at)
            if self.refused is not None:
                return at
        return at

    def _line(self, data: bytes, at: int) -> int:
        """Read the line before a chunk, or what there is of it."""
        partial = self._partial
        start = at
        if partial[-1:] == b"\r" and data[at : at + 1] == b"\n":
            line, at = partial[:-1], at + 1
        elif (stop := data.find(b"\r\n", at)) >= 0:
            line, at = partial + data[at:stop], stop + 2
        else:
            partial += data[at:]
            if len(partial) > self._limits.chunk_line + 1:
                return self._refuse("chunk line size", start)
            if b"\n" in partial or b"\r" in partial[:-1]:
                return self._refuse("chunk line", start)
            self._partial = partial
            return len(data)
        self._partial = b""
        if len(line) > self._limits.chunk_line:
            return self._refuse("chunk line size", start)
        digits = line
        if line.translate(None, _HEX):
            digits, mark, _ = line.partition(b";")
            if not mark or digits.translate(None, _HEX) or not _EXTENSIONS.fullmatch(line, len(digits)):
                return self._refuse("chunk line", start)
            self._extensions += len(line) - len(digits)
            if self._extensions > self._limits.chunk_extensions:
                return self._refuse("chunk extensions", start)
        if not 0 < len(digits) <= _MAX_DIGITS:
            return self._refuse("chunk size", start)
        self._left = int(digits, 16)
        self._state = _DATA if self._left else _TRAILERS
        return at

    def _trailers(self, data: bytes, at: int) -> int:
        """Read up to the empty line that ends the body."""
        before = len(self._partial)
        section = self._partial + data[at:]
        if section[:2] == b"\r\n":
            self.done = True
            self._partial = b""
            return at + 2 - before
        limit = self._limits.trailers
        stop = section.find(b"\r\n\r\n", max(0, before - 3))
        if stop < 0:
            if len(section) > limit + 3:
                return self._refuse("trailers size", at)
            self._partial = section
            return len(data)
        if stop > limit:
            return self._refuse("trailers size", at)
        try:
            check_trailers(section[: stop + 2], self._limits)
        except RefusedError as error:
            self.refused = error
            return at
        self.done = True
        self._partial = b""
        return at + stop + 4 - before

    def _refuse(self, rule: str, at: int) -> int:
        self.refused = RefusedError(rule)
        return at
