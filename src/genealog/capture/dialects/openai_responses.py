"""OpenAI's responses: an input of items, an output of items, whole or as some sixty kinds of events.

A stream that ends as it should ends with the whole response, and that is what counts; of one that was cut, the items
are put together from the events that came. Both spell an item the same way: the same answer has the same digest. IDs
and the status of single items are not part of it: the status of the response is.

An event that is not known and carries a piece of something makes what it belongs to `part-not-understood`, unless the
whole comes later.

Source: platform.openai.com/docs/api-reference/responses, responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genealog.capture.dialects import media
from genealog.capture.dialects.foreign import (
    Number,
    Unreadable,
    as_count,
    as_dict,
    as_list,
    as_strings,
    as_word,
    joined,
    read_object,
    spelled,
)
from genealog.capture.dialects.openai_common import (
    CONTENT,
    answered,
    digest_of,
    error_code,
    items,
    not_understood,
    parameters,
    parts_of,
    sampler,
    subject,
    usage_counts,
)
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex

_ENDS = frozenset(("response.completed", "response.failed", "response.incomplete"))
_STATES = frozenset(("response.created", "response.queued", "response.in_progress"))
_TEXTS = {  # event → (list of the item, field of its part, type of the part)
    "response.output_text": ("content", "text", "output_text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning_text": ("content", "text", "reasoning_text"),
    "response.reasoning_summary_text": ("summary", "text", "summary_text"),
}
_FIELDS = {  # event → field of the item itself
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
}
_NO_CONTENT = frozenset(("id", "status", "call_id"))  # of an item
_MESSAGE = frozenset(("id", "status", "type", "role", "content", "phase"))
_REASONING = frozenset(("id", "status", "type", "summary", "content", "encrypted_content"))


def read_request(body: bytes, *, operation: str = "", content_type: str | None = None) -> RequestFacts:  # noqa: ARG001
    """As `dialects.Reader`."""
    try:
        request = read_object(body)
        asked = request.get("input")
        whole = [{"role": "user", "content": asked}] if as_strings(asked) else as_list(asked)
        return RequestFacts(
            parameters=parameters(request, "input"),
            sampler=sampler(request),
            parts=tuple([part for index, item in enumerate(whole) for part in _parts(index, item)]),
            last_texts=_last_texts(as_dict(whole[-1])) if whole else (),
            subject=subject(request),
        )
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def _last_texts(item: dict[str, Any]) -> tuple[str, ...]:
    return tuple([text for _, text, _ in items(item.get("content", item.get("output"))) if text])


def _parts(index: int, item: object) -> Iterator[Part]:
    """Yield the parts of one item of an input; of an item that holds no message, one over all of it."""
    fields = as_dict(item)
    kind = as_word(fields.get("type")) or "message"
    output = fields.get("output")
    if kind == "message" and "content" in fields:
        yield from parts_of(index, as_word(fields.get("role")) or "", fields["content"])
    elif kind.endswith("_call_output") and isinstance(output, str) and not isinstance(output, Number):
        yield Part(index=index, role="tool", sha256=sha256_hex(joined([output]).encode()), type=kind)
    elif kind.endswith("_call_output") and output:
        yield from parts_of(index, "tool", output if isinstance(output, list) else [output])
    else:
        role = "assistant" if kind.endswith("_call") or kind == "reasoning" else as_word(fields.get("role")) or ""
        yield Part(index=index, role=role, sha256=sha256_hex(spelled(item)), type=kind)


def read_response(
    body: bytes,
    *,
    operation: str = "",  # noqa: ARG001
    status: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
) -> ResponseFacts:
    """As `dialects.Reader`: JSON, or a stream of events that may end anywhere."""
    return answered(_Answer(), body, status=status, content_type=content_type, content_encoding=content_encoding)


class _Answer:
    """One response: its items by their place, and pieces of the texts of those that have not ended."""

    def __init__(self) -> None:
        self.items: dict[int, dict[str, Any]] = {}
        self.pieces: dict[int, dict[tuple[str, int, str, str], list[str]]] = {}
        self.partial: list[Part] = []
        self.known: dict[str, Any] = {}
        self.strange: set[int] = set()  # places of items with pieces that are not understood
        self.said = False  # an output, even an empty one

    def take(self, item: dict[str, Any]) -> None:
        """Take the whole response, or one event of a stream."""
        if isinstance(item.get("type"), str):
            self._event(item)
        else:
            self._whole(item)

    def _whole(self, response: dict[str, Any]) -> None:
        self._take_state(response)
        output = as_list(response.get("output"))
        self.said = self.said or "output" in response
        if len(output) >= len(self.items):
            self.items, self.pieces, self.strange = dict(enumerate(map(as_dict, output))), {}, set()
        status = as_word(response.get("status"))
        why = as_word(as_dict(response.get("incomplete_details")).get("reason"))
        self.known["finish_reason"] = why if status == "incomplete" and why else status

    def _take_state(self, response: dict[str, Any]) -> None:
        for key, name in (("model", "model"), ("service_tier", "tier")):
            if word := as_word(response.get(key)):
                self.known[name] = word
        if usage := as_dict(response.get("usage")):
            self.known["usage"] = usage_counts(usage) | _searches(response)
        if (error := response.get("error")) is not None:
            self.known["error"] = error_code(error)

    def _event(self, event: dict[str, Any]) -> None:
        kind = as_word(event.get("type")) or ""
        place = as_count(event.get("output_index"))
        stem, _, step = kind.rpartition(".")
        if kind in _ENDS:
            self._whole(as_dict(event.get("response")))
        elif kind in _STATES:
            self._take_state(as_dict(event.get("response")))
        elif kind == "error":
            error = event.get("error")
            self.known["error"] = error_code(event if error is None else error)
        elif kind in ("response.output_item.added", "response.output_item.done") and place is not None:
            self.said = True
            self.items[place] = as_dict(event.get("item"))
            self.pieces.pop(place, None)
            self.strange.discard(place)
        elif stem in _TEXTS and place is not None:
            self._text(stem, step, place, event)
        elif stem in _FIELDS and place is not None:
            field = _FIELDS[stem]
            self._piece(place, ("", 0, field, ""), event.get("delta" if step == "delta" else field), step)
        elif kind == "response.output_text.annotation.added" and place is not None:
            at = as_count(event.get("content_index")) or 0
            part = _at(self.items.setdefault(place, {}), "content", at, "output_text")
            part["annotations"] = noted = as_list(part.get("annotations"))
            noted.append(event.get("annotation"))
        elif kind == "response.image_generation_call.partial_image":
            self._partial(event, place or 0)
        elif "delta" in event:
            self.strange.add(-1 if place is None else place)

    def _text(self, stem: str, step: str, place: int, event: dict[str, Any]) -> None:
        where, field, part = _TEXTS[stem]
        at = as_count(event.get("summary_index" if where == "summary" else "content_index")) or 0
        self._piece(place, (where, at, field, part), event.get("delta" if step == "delta" else field), step)

    def _piece(self, place: int, key: tuple[str, int, str, str], value: object, step: str) -> None:
        if step == "delta":
            self.pieces.setdefault(place, {}).setdefault(key, []).extend(as_strings(value))
        elif step == "done" and isinstance(value, str):
            self.pieces.setdefault(place, {})[key] = as_strings(value)

    def _partial(self, event: dict[str, Any], place: int) -> None:
        for data in as_strings(event.get("partial_image_b64")):
            if (found := media.of_base64(data, media.image_type(event.get("output_format")))) is None:
                self.strange.add(place)
            else:
                self.partial.append(found.part(place, "assistant", "partial_image"))

    def output(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the items in their order, with the pieces that came for them."""
        for place, several in self.pieces.items():
            for (where, at, field, kind), pieces in several.items():
                known = "message" if where == "content" and kind != "reasoning_text" else "reasoning"
                item = self.items.setdefault(place, {"type": known} if where else {})
                (_at(item, where, at, kind) if where else item)[field] = joined(pieces)
        self.pieces = {}
        return sorted(self.items.items())

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected; a response that is malformed has no `content`, no texts and no parts."""
        if malformed is not None:
            return ResponseFacts(**self.known, malformed=malformed)
        try:
            if self.strange:
                raise not_understood()
            texts: list[str] = []
            parts: list[Part] = []
            output = [_spelled(place, item, texts, parts) for place, item in self.output()]
        except Unreadable as error:
            return ResponseFacts(**self.known, malformed=str(error))
        finish = self.known.get("finish_reason")
        status = {} if finish is None else {"status": finish}
        content = encode({"output": output, "t": CONTENT, **status}) if self.said or output else None
        if made := sum(part.type == "image" for part in parts):
            self.known["usage"] = {**self.known.get("usage", {}), "images": made}
        return ResponseFacts(content=content, texts=tuple(texts), parts=tuple(parts + self.partial), **self.known)


def _at(item: dict[str, Any], where: str, at: int, kind: str) -> dict[str, Any]:
    """Return part `at` of a list of an item, made if it is not there yet."""
    parts = item[where] = as_list(item.get(where))
    if at > len(parts):
        raise not_understood()  # a part before it never came
    if at == len(parts):
        parts.append({"type": kind})
    if not isinstance(parts[at], dict):
        raise not_understood()
    found: dict[str, Any] = parts[at]
    return found


def _searches(response: dict[str, Any]) -> dict[str, int]:
    searches = as_count(as_dict(as_dict(response.get("tool_usage")).get("web_search")).get("num_requests"))
    return {} if searches is None else {"searches": searches}


def _spelled(place: int, item: dict[str, Any], texts: list[str], parts: list[Part]) -> dict[str, Any]:
    """Return the canonical form of an item, and add what it says and shows. Raises: Unreadable."""
    kind = as_word(item.get("type")) or ""
    if kind == "message":
        return _message(item, texts)
    if kind == "reasoning":
        return _reasoning(item)
    rest = {name: value for name, value in item.items() if name not in _NO_CONTENT and value is not None}
    if kind == "image_generation_call" and (result := as_strings(rest.pop("result", None))):
        image = media.of_base64(result[0], media.image_type(item.get("output_format")))
        if image is None:
            raise not_understood()
        parts.append(image.part(place, "assistant", "image"))
        rest["result"] = image.sha256
    return {"sha256": digest_of(rest), "type": kind}


def _message(item: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    if any(item[name] is not None for name in item.keys() - _MESSAGE):
        raise not_understood()
    said: list[dict[str, Any]] = []
    for part in map(as_dict, as_list(item.get("content"))):
        kind = part.get("type")
        if kind == "output_text":
            text = joined(as_strings(part.get("text")))
            noted = as_list(part.get("annotations"))
            said.append({"text": text, "type": "text", **({"annotations": digest_of(noted)} if noted else {})})
            texts += [text] if text else []
        elif kind == "refusal":
            said.append({"text": joined(as_strings(part.get("refusal"))), "type": "refusal"})
        else:
            raise not_understood()
    phase = as_word(item.get("phase"))
    role = as_word(item.get("role")) or "assistant"
    return {"parts": said, "role": role, "type": "message", **({"phase": phase} if phase else {})}


def _reasoning(item: dict[str, Any]) -> dict[str, Any]:
    if any(item[name] is not None for name in item.keys() - _REASONING):
        raise not_understood()
    said = [
        {"text": joined(as_strings(part.get("text"))), "type": as_word(part.get("type")) or ""}
        for name in ("summary", "content")
        for part in map(as_dict, as_list(item.get(name)))
    ]
    sealed = as_strings(item.get("encrypted_content"))
    return {"parts": said, "type": "reasoning", **({"encrypted": digest_of(sealed[0])} if sealed else {})}
