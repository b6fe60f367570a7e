"""A bounded cursor over the bytes of a file: what the readers of binary headers share.

It holds one small window, whatever the file says of its own sizes, and refuses to step over the end that it was
given. No file is opened here: bytes come from a callable.
"""

from __future__ import annotations

from collections.abc import Callable

from genealog.errors import MalformedError

ReadAt = Callable[[int, int], bytes]  # (offset, count) → that many bytes, fewer only at the end of the file
WINDOW = 64 << 10
MAX_TAKE = 16 << 20  # one value of a header: a chat template, a node of a graph


class Cursor:
    """Reads `start` to `stop` of a file in order; errors are called `<format>-truncated` and `<format>-header`."""

    def __init__(self, read_at: ReadAt, start: int, stop: int, *, format_: str) -> None:
        self.at = start
        self.stop = stop
        self._read_at = read_at
        self._format = format_
        self._window = memoryview(b"")
        self._window_at = start

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self.stop - self.at

    def bad(self, code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
        """Return an error of this format."""
        return MalformedError(
            f"{self._format}-{code}", message, got=got, expected=expected, hint="download or save the file again"
        )

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises: MalformedError `…-truncated`, `…-header` (over 16 MiB at once)."""
        self.check(count)
        if count > MAX_TAKE:
            raise self.bad("header", "one value of the header is too big", got=count, expected=f"≤ {MAX_TAKE} bytes")
        begin = self.at - self._window_at
        if not 0 <= begin <= begin + count <= len(self._window):
            size = min(max(count, WINDOW), self.left)
            self._window, self._window_at, begin = memoryview(self._read_at(self.at, size)), self.at, 0
            if len(self._window) < count:
                raise self.bad("truncated", "the file ends inside its header", got=self.at + len(self._window))
        self.at += count
        return bytes(self._window[begin : begin + count])

    def skip(self, count: int) -> None:
        """Step over `count` bytes without reading them. Raises: MalformedError `…-truncated`."""
        self.check(count)
        self.at += count

    def check(self, count: int) -> None:
        """Refuse a length that does not fit. Raises: MalformedError `…-truncated`."""
        if count > self.left:
            raise self.bad("truncated", "something is longer than what is left of the file",
                           got=f"{self.left} bytes left", expected=f"{count} bytes")  # fmt: skip

    def unsigned(self, width: int) -> int:
        """Return a little-endian unsigned integer of `width` bytes. Raises: MalformedError `…-truncated`."""
        return int.from_bytes(self.take(width), "little")

    def varint(self) -> int:
        """Return a base-128 integer of at most 64 bits. Raises: MalformedError `…-truncated`, `…-header`."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise self.bad("header", "a variable-length integer is over 64 bits", got=f"byte {self.at}")
