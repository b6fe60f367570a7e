"""What dialects with typed blocks share: the canonical message, media, parameters, and how a reader does not fail.

A canonical message has its parts in order; a tool call stands in `tool_calls` and leaves its place in `parts`. IDs,
padding and timestamps are left out, so that a stream and a whole response that say the same have the same digest.
What is no text stands there as its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from genealog.capture.dialects import media, openai_embeddings
from genealog.capture.dialects.foreign import (
    LONGEST,
    Number,
    Unreadable,
    as_count,
    as_strings,
    as_word,
    ascii_key,
    decoded,
    joined,
    read_object,
    spelled,
)
from genealog.core.call_groups import Digest, Part, RequestFacts, ResponseFacts
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex

CONTENT = "genealog/content/v1"
_URL_SAFE = str.maketrans("-_", "+/")
_CODE = 64  # characters of an error's code


@dataclass
class Said:
    """One message of an answer while it is put together."""

    role: str = "assistant"
    finish_reason: str | None = None
    index: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    attached: list[Part] = field(default_factory=list)

    def text(self, pieces: list[str], kind: str = "text", **more: str) -> None:
        """Add a text. An empty one that nothing else is said of is no part."""
        text = joined(pieces)
        if text or more:
            self.parts.append({"text": text, "type": kind, **more})

    def call(self, name: str, arguments: object, kind: str = "function") -> None:
        """Add a tool call. `arguments` as JSON, or as a text that ended before it was JSON."""
        text = arguments if isinstance(arguments, str) else spelled(arguments).decode("utf-8", "surrogatepass")
        self.calls.append({"arguments": joined([text]), "name": name, "type": kind})
        self.parts.append({"type": "tool_call"})

    def other(self, kind: str, value: object) -> None:
        """Add a part that is committed to as JSON."""
        self.parts.append({"sha256": sha256_hex(spelled(value)), "type": kind})

    def attach(self, kind: str, pieces: list[str], media_type: str | None) -> None:
        """Add an image, audio or file that came as base64."""
        part = media_part(self.index, self.role, kind, pieces, media_type)
        self.attached.append(part)
        known = {"media_type": media_type} if media_type else {}
        self.parts.append({"sha256": part.sha256, "type": kind, **known})

    def message(self) -> dict[str, Any]:
        """Return the canonical message."""
        finish = {"finish_reason": self.finish_reason} if self.finish_reason is not None else {}
        return {"parts": self.parts, "role": self.role, "tool_calls": self.calls, **finish}


class Answer:
    """What one response says. A dialect fills it and says in `said` which messages that is."""

    def __init__(self, status: int | None = None) -> None:
        self.usage: dict[str, int] | None = None
        self.tier: str | None = None
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.error: str | None = None if status is None or status < 400 else "upstream-error"
        self.vectors: list[object] = []

    def take(self, item: dict[str, Any]) -> None:
        """Add one object of the response. Raises: Unreadable."""

    def said(self) -> list[Said]:
        """Return the messages of the answer. Raises: Unreadable."""
        return []

    def fail(self, error: object) -> None:
        """Take the code of an error that the response tells of."""
        self.error = error_code(error)

    def facts(self, malformed: str | None = None) -> ResponseFacts:
        """Return what was collected; a response that is malformed has no `content` and no texts."""
        said: list[Said] = []
        content = None
        if malformed is None:
            try:
                said = self.said()
                content = self._content(said)
            except Unreadable as error:
                malformed, said = str(error), []
            except RecursionError:
                malformed, said = "json-too-deep", []
        return ResponseFacts(
            content=content,
            texts=tuple(part["text"] for one in said for part in one.parts if part["type"] == "text"),
            finish_reason=said[0].finish_reason if said else None,
            usage=self.usage,
            tier=self.tier,
            parts=tuple(part for one in said for part in one.attached),
            model=self.model,
            fingerprint=self.fingerprint,
            error=self.error,
            malformed=malformed,
        )

    def _content(self, said: list[Said]) -> bytes | None:
        if self.vectors:
            spelled_out = spelled({"data": [{"embedding": vector} for vector in self.vectors]})
            read = openai_embeddings.read_response(spelled_out)  # so that a vector has one digest, whoever made it
            if read.malformed is not None:
                raise Unreadable(read.malformed)
            return read.content
        return encode({"messages": [one.message() for one in said], "t": CONTENT}) if said else None


def collect(answer: Answer, body: bytes, encoding: str | None, feed: Callable[[bytes], None]) -> ResponseFacts:
    """Undo the encoding of a body, feed it to an answer and return its facts, whatever the body is."""
    try:
        data = decoded(body, (encoding or "identity").strip().lower())
        if data:
            feed(data)
        return answer.facts()
    except Unreadable as error:
        return answer.facts(str(error))
    except RecursionError:
        return answer.facts("json-too-deep")


def asked(read: Callable[[], RequestFacts]) -> RequestFacts:
    """Return what `read` says of a request, or why it cannot."""
    try:
        return read()
    except Unreadable as error:
        return RequestFacts({}, {}, malformed=str(error))
    except RecursionError:
        return RequestFacts({}, {}, malformed="json-too-deep")


def tool_input(text: str) -> object:
    """Return the arguments of a tool that came in pieces; those that were cut before they were JSON, as a text."""
    try:
        return read_object(text.encode("utf-8", "surrogatepass"))
    except Unreadable:
        return text


def text_part(index: int, role: str, kind: str, text: str) -> Part:
    """Commit to a text."""
    return Part(index=index, role=role, sha256=sha256_hex(joined([text]).encode()), type=kind)


def other_part(index: int, role: str, kind: str, value: object, media_type: str | None = None) -> Part:
    """Commit to anything as JSON; to a string, such as a URL, as it is."""
    committed = joined([value]).encode() if isinstance(value, str) else spelled(value)
    return Part(index=index, role=role, sha256=sha256_hex(committed), type=kind, media_type=media_type)


def media_part(index: int, role: str, kind: str, pieces: list[str], media_type: str | None) -> Part:
    """Commit to the bytes behind base64 of either alphabet, whole or in pieces; to what came, where it is none."""
    plain = [piece.translate(_URL_SAFE) for piece in pieces]
    found = media.of_streamed(plain, media_type) or media.reference("".join(pieces))._replace(media_type=media_type)
    return found.part(index, role, kind)


def parameters(
    request: dict[str, Any], *, words: Container[str], without: Container[str], opened: Iterable[str] = ()
) -> dict[str, str | bool | Digest | None]:
    """Return the parameters of a request. `words` never hold a text; those in `without` are its parts.

    The members of an object in `opened` stand under `object.member`, unless another key could be taken for one.
    """
    found: dict[str, str | bool | Digest | None] = {}
    for key, value in request.items():
        if key in without:
            continue
        shadowed = any(other.startswith(f"{key}.") for other in request)
        inner = value if key in opened and isinstance(value, dict) and value and not shadowed else None
        for name, item in [(key, value)] if inner is None else [(f"{key}.{at}", inner[at]) for at in inner]:
            found[ascii_key(name)] = _parameter(name, item, words)
    return found


def _parameter(key: str, value: object, words: Container[str]) -> str | bool | Digest | None:
    if value is None or isinstance(value, bool):
        return value
    plain = isinstance(value, Number) or (isinstance(value, str) and key in words)
    if isinstance(value, str) and plain and len(value) <= LONGEST:
        return joined([value])
    return Digest(sha256=sha256_hex(spelled(value)))


def sampler(values: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    """Return the sampler: `names` says how we call what the vendor calls it."""
    found = {
        ours: str(value)
        for theirs, ours in names.items()
        if isinstance(value := values.get(theirs), Number) and len(value) <= LONGEST
    }
    return found | {"seed_source": "client" if "seed" in found else "none"}


def counts(found: dict[str, object]) -> dict[str, int]:
    """Return those that are counts."""
    return {name: count for name, value in found.items() if (count := as_count(value)) is not None}


def total(*values: object) -> int | None:
    """Return the sum of those that are counts; None where none is."""
    found = [count for value in values if (count := as_count(value)) is not None]
    return sum(found) if found else None


def known(found: dict[str, int | None]) -> dict[str, int]:
    """Leave out what is not known."""
    return {name: value for name, value in found.items() if value is not None}


def error_code(error: object) -> str:
    """Return the short code of an upstream's error; its message may quote the prompt and stays in the body."""
    fields = error if isinstance(error, dict) else {}
    for name in ("status", "type", "__type", "code"):
        value = fields.get(name)
        if isinstance(value, str) and 0 < len(value) <= _CODE and value.isascii():
            return str(value)
    return "upstream-error"


def field_of(values: dict[str, Any], name: str) -> Any:
    """Return a member by its camelCase name, or by the snake_case one that protobuf's JSON takes as well."""
    if name in values:
        return values[name]
    return values.get(_snake(name))


@cache
def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def strings(values: Iterable[object]) -> Iterator[str]:
    """Yield the strings that say something."""
    for value in values:
        yield from as_strings(value)


def word(values: dict[str, Any], name: str) -> str | None:
    """Return a member that is a string, cut to 256 characters."""
    return as_word(field_of(values, name))
