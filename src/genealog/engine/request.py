"""Chat requests in OpenAI's shape: read strictly, so that nothing that would change the answer is silently ignored.

What this engine cannot do is refused by name: 400, with the parameter. Left out on purpose: tools, several choices,
penalties, JSON modes, images. The `model` of a request is not an identity and is not looked at.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from genealog.core.canonical import decimal
from genealog.errors import MalformedError

IGNORED = frozenset(
    {"model", "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
     "prompt_cache_retention", "parallel_tool_calls"}
)  # fmt: skip
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "tools": ([],),
    "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ParameterError(MalformedError):
    """A request parameter that cannot be served. `parameter` names it as OpenAI's error shape wants."""

    def __init__(self, parameter: str, message: str, *, got: object = None, expected: object = None) -> None:
        self.parameter = parameter
        super().__init__("unsupported-parameter", message, got=got, expected=expected)


class Number(float):
    """A JSON number that remembers how it was written."""

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        self.text = text
        return self

    text: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to do. `temperature` and `top_p` keep the spelling received; absent means 1."""

    messages: tuple[Mapping[str, str], ...]
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: int | None  # how many alternatives to list for each token; None: no log-probabilities at all


def parse_chat(body: bytes) -> ChatRequest:
    """Read a request body. Raises: MalformedError `not-json`; ParameterError `unsupported-parameter`."""
    fields = {name: value for name, value in _object(body).items() if value is not None and name not in IGNORED}
    for name, neutral in NEUTRAL.items():
        if (value := fields.pop(name, None)) is not None and value not in neutral:
            raise ParameterError(name, f"this engine serves no {name} but the default", got=_short(value))
    request = ChatRequest(
        messages=_messages(fields.pop("messages", None)),
        temperature=_number("temperature", fields.pop("temperature", 1), 0, 2),
        top_p=_number("top_p", fields.pop("top_p", 1), 0, 1),
        seed=_integer("seed", fields.pop("seed", None), -(2**63), 2**64 - 1),
        max_tokens=_max_tokens(fields.pop("max_tokens", None), fields.pop("max_completion_tokens", None)),
        stop=_stop(fields.pop("stop", ())),
        stream=_boolean("stream", fields.pop("stream", False)),
        include_usage=_include_usage(fields.pop("stream_options", {})),
        logprobs=_logprobs(fields.pop("logprobs", False), fields.pop("top_logprobs", None)),
    )
    for name in fields:
        raise ParameterError(_short(name), "this engine does not know this parameter", got=_short(name))
    return request


def spelling(number: float) -> str:
    """Return a number as it was received, or the shortest decimal for a default."""
    if isinstance(number, Number):
        return number.text
    return str(number) if isinstance(number, int) else decimal(number)


def _object(body: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    try:
        value = json.loads(body.decode(), object_pairs_hook=unique, parse_float=Number, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedError("not-json", "the request body is not JSON", got=str(error)[:120]) from None
    if not isinstance(value, dict):
        raise MalformedError("not-json", "the request body is not a JSON object", got=type(value).__name__)
    return value


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ParameterError("messages", "messages is a list of at least one message", got=_short(value))
    return tuple(_message(item, f"messages[{number}]") for number, item in enumerate(value))


def _message(item: Any, where: str) -> Mapping[str, str]:
    if not isinstance(item, dict):
        raise ParameterError(where, "a message is an object", got=_short(item))
    fields = {name: value for name, value in item.items() if value not in (None, [])}
    role, content = fields.pop("role", None), fields.pop("content", "")
    fields.pop("name", None)
    if not isinstance(role, str) or role not in ROLES:
        raise ParameterError(f"{where}.role", "an unknown role", got=_short(role), expected=", ".join(ROLES))
    for name in fields:
        raise ParameterError(f"{where}.{_short(name)}", "this engine serves messages of text only", got=_short(name))
    return {"role": ROLES[role], "content": _text(content, f"{where}.content")}


def _text(content: Any, where: str) -> str:
    if isinstance(content, list):
        return "".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))
    return _unicode(content, where)


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise ParameterError(where, "this engine reads parts of text only", got=_short(part))
    return _unicode(part.get("text"), where)


def _unicode(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ParameterError(where, "not a text", got=_short(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ParameterError(where, "a text with half a character (a lone surrogate)") from None
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ParameterError(name, f"{name} is out of range", got=_short(value), expected=f"{low} to {high}")
    return value


def _integer(name: str, value: Any, low: int, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParameterError(name, f"{name} is out of range", got=_short(value), expected=f"{low} to {high}")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParameterError(name, f"{name} is true or false", got=_short(value))
    return value


def _max_tokens(old: Any, new: Any) -> int | None:
    first = _integer("max_tokens", old, 1, 2**31)
    second = _integer("max_completion_tokens", new, 1, 2**31)
    if first is not None and second is not None and first != second:
        raise ParameterError("max_tokens", "max_tokens and max_completion_tokens disagree", got=f"{first}, {second}")
    return first if second is None else second


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [None]
    if len(stops) > 4 or any(not isinstance(stop, str) or not stop for stop in stops):
        raise ParameterError("stop", "stop is a text or a list of at most 4 texts, none empty", got=_short(value))
    return tuple(_unicode(stop, "stop") for stop in stops)


def _include_usage(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"include_usage", "include_obfuscation"}:
        raise ParameterError("stream_options", "only include_usage is known here", got=_short(value))
    if value.get("include_obfuscation"):
        raise ParameterError("stream_options.include_obfuscation", "this engine pads no streams", got=True)
    return _boolean("stream_options.include_usage", value.get("include_usage", False))


def _logprobs(wanted: Any, top: Any) -> int | None:
    count = _integer("top_logprobs", top, 0, 20)
    if not _boolean("logprobs", wanted):
        if count:
            raise ParameterError("top_logprobs", "top_logprobs needs logprobs", got=count)
        return None
    return count or 0


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return ascii(text)[1:-1][:80]
