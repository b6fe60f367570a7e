"""From tokens to text, piece by piece, such that the pieces joined are the text decoded at once.

`Detokenizer` holds bytes back until they make whole characters. `StopFinder` holds text back that may be the beginning
of a stop string. Both are plain values in one thread; neither knows a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"


class Detokenizer:
    """Decodes a growing list of tokens. `decode` is the tokenizer's own, over any run of tokens."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._before = 0  # where the window begins: one clean piece before the new text, for decoders that see context
        self._done = 0  # tokens whose text was handed out

    def push(self, token: int) -> str:
        """Return the text that `token` completes: empty while a character is unfinished."""
        self._tokens.append(token)
        text = self._new()
        if text.endswith(_INCOMPLETE):
            return ""
        self._before, self._done = self._done, len(self._tokens)
        return text

    def flush(self) -> str:
        """Return what was held back, as the decoder shows broken characters."""
        text = self._new()
        self._before = self._done = len(self._tokens)
        return text

    def _new(self) -> str:
        known = self._decode(self._tokens[self._before : self._done])
        return self._decode(self._tokens[self._before :])[len(known) :]


class StopFinder:
    """Cuts a text before the stop string that is complete first; of two that end together, before the longer.

    What comes out does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Return the text that can no longer belong to a stop string; nothing once one was found."""
        if self.found:
            return ""
        self._held += piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._held[: min(ends)[1]]
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(out) :]
        return out

    def flush(self) -> str:
        """Return what was held back when the text has ended."""
        out, self._held = ("" if self.found else self._held), ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
