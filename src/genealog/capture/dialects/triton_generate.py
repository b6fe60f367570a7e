"""Triton's generate extension: the inputs of a model are the members of a JSON object, and so are its outputs.

`text_input` and `text_output` are what language models call theirs. A stream sends such an object with each event, and
what comes under one name is one text in pieces: `content` is the canonical message, so a stream and a whole response
with the same text have the same digest. Any other output is a part, committed to as the JSON list of its values.

Source: Triton Inference Server, protocol/extension_generate.md.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.dialects.blocks import Answer, Said, asked, collect, other_part, parameters, sampler, text_part
from genealog.capture.dialects.foreign import LONGEST, Number, as_dict, as_list, as_strings, joined, read_object
from genealog.capture.dialects.kserve_http import model_of
from genealog.capture.dialects.sse import events
from genealog.core.call_groups import RequestFacts, ResponseFacts

_TEXT = "text_input"
_SAMPLER = {name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed")} | {"random_seed": "seed"}
_NO_OUTPUT = frozenset(("model_name", "model_version", "id", "parameters", "error"))


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    return asked(lambda: _request(read_object(body)))


def _request(request: dict[str, Any]) -> RequestFacts:
    texts = [text for item in (as_list(request.get(_TEXT)) or [request.get(_TEXT)]) for text in as_strings(item)]
    return RequestFacts(
        parameters=parameters(request, words=(), without=(_TEXT,), opened=("parameters",)),
        sampler=sampler(as_dict(request.get("parameters")) | request, _SAMPLER),
        parts=tuple(text_part(0, _TEXT, "text", text) for text in texts),
        last_texts=tuple(texts),
    )


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    answer = _Answer(status)

    def feed(data: bytes) -> None:
        if (content_type or "").lower().startswith("text/event-stream") or data.startswith(b"data:"):
            for event in events(data):
                answer.take(read_object(event.encode()))
        else:
            answer.take(read_object(data))

    return collect(answer, body, content_encoding, feed)


class _Answer(Answer):
    """What one response says, collected from one object or from many."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.pieces: list[str] = []
        self.others: dict[str, list[object]] = {}

    def take(self, item: dict[str, Any]) -> None:
        self.model = model_of(item) or self.model
        if "error" in item:
            self.fail(item["error"])
        for name, value in item.items():
            if name == "text_output" and isinstance(value, str) and not isinstance(value, Number):
                self.pieces.append(value)
            elif name not in _NO_OUTPUT:
                self.others.setdefault(name, []).append(value)

    def said(self) -> list[Said]:
        """As `Answer`: one message, where there is an answer at all."""
        if not self.pieces and not self.others:
            return []
        said = Said()
        if self.pieces:
            said.text(self.pieces)
        for name, values in sorted(self.others.items()):
            part = other_part(0, joined([name])[:LONGEST], "json", values)
            said.attached.append(part)
            said.parts.append({"name": joined([name]), "sha256": part.sha256, "type": "json"})
        return [said]
