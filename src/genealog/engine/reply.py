"""Answers in OpenAI's shape, as bytes: whole, streamed, and errors.

`model` is what really serves (the artifact ID), and `system_fingerprint` names the load statement. One `Reply` makes
every body of one call, so that a stream and a whole answer of the same text differ in their packing only.

Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from genealog.engine.events import Drawn, Ended, Piece
from genealog.engine.request import ParameterError
from genealog.errors import GenealogError

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is the same in every body of one call. `created` is Unix time in seconds."""

    call: str
    created: int
    model: str
    fingerprint: str | None
    logprobs: bool
    include_usage: bool

    def whole(self, pieces: Sequence[Piece], ended: Ended, prompt_tokens: int) -> bytes:
        """Return the body of an answer that is not streamed."""
        text = "".join(piece.text for piece in pieces)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs([drawn for piece in pieces for drawn in piece.drawn]),
            "finish_reason": ended.finish_reason,
        }
        body = self._head("chat.completion") | {"choices": [choice], "usage": usage(prompt_tokens, len(ended.tokens))}
        return msgspec.json.encode(body)

    def opening(self) -> bytes:
        """Return the first chunk of a stream: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """Return the chunk of a piece."""
        return self._chunk({"content": piece.text}, logprobs=self._logprobs(piece.drawn))

    def ending(self, ended: Ended, prompt_tokens: int) -> bytes:
        """Return all that follows the last piece: finish reason, usage where it was asked for, `[DONE]`."""
        chunks = self._chunk({}, finish_reason=ended.finish_reason)
        if self.include_usage:
            figures = usage(prompt_tokens, len(ended.tokens))
            chunks += event(self._head("chat.completion.chunk") | {"choices": [], "usage": figures})
        return chunks + DONE

    def _chunk(self, delta: Mapping[str, Any], *, logprobs: Any = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        body = self._head("chat.completion.chunk") | {"choices": [choice]}
        return event(body | {"usage": None} if self.include_usage else body)

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": f"chatcmpl-{self.call}", "object": kind, "created": self.created, "model": self.model}
        return head | {"system_fingerprint": self.fingerprint}

    def _logprobs(self, drawn: Sequence[Drawn]) -> Any:
        if not self.logprobs:
            return None
        entries = [
            _logprob(d.text, d.logprob) | {"top_logprobs": [_logprob(text, value) for text, value in d.top]}
            for d in drawn
        ]
        return {"content": entries, "refusal": None}


def event(body: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Return token counts. `completion` counts every token drawn, the end token too."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def failure(error: GenealogError) -> dict[str, Any]:
    """Return an error in OpenAI's shape, with our code and hint."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    body: dict[str, Any] = {"message": str(error), "type": kind, "param": None, "code": error.code}
    if isinstance(error, ParameterError):
        body["param"] = error.parameter
    if error.hint is not None:
        body["hint"] = error.hint
    return {"error": body}


def _logprob(text: str, value: float) -> dict[str, Any]:
    whole = "\ufffd" not in text  # a token may hold part of a character; its bytes are not known from its text then
    return {"token": text, "logprob": value, "bytes": list(text.encode()) if whole else None}
