"""Which dialect a request speaks, and where it says which deployment it wants.

A route is found by method and path alone. Where the path names the deployment, everything between the fixed parts is
its name, slashes and percent signs included: `/v1beta/models/prod/bot:generateContent`. Where it does not, the body's
`model` does. What no route fits passes as `opaque`, if somebody says where to: the header `Genealog-Deployment`, or
`[gateway] default`. What an upstream could read as a path that is known here, and we do not, passes nowhere: it would
go past the name that a target is asked for, and past what is read of a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

OPAQUE = "opaque"  # the dialect of what no route fits
NamedBy = Literal["json", "multipart", "path", "header"]


@dataclass(frozen=True, slots=True)
class Route:
    """What a method and a path say of a request.

    `operation` is the path as it is recorded: without the query, which may hold a key. `streams` is None where the
    body's `stream` says it, `ends` the dialect's mark of a stream's end (`gateway.hold`).
    """

    dialect: str
    operation: str
    named_by: NamedBy
    name: str | None = None  # by the path
    streams: bool | None = None
    refused: str | None = None  # why nobody passes this path on


@dataclass(frozen=True, slots=True)
class _Rule:
    dialect: str
    pattern: re.Pattern[str]
    named_by: NamedBy = "path"
    streams: bool | None = False


def _rule(dialect: str, pattern: str, named_by: NamedBy = "path", *, streams: bool | None = False) -> _Rule:
    return _Rule(dialect, re.compile(pattern), named_by, streams)


_NAME = r"(?P<name>.+?)"
_AZURE = rf"/openai/deployments/{_NAME}"
_VERTEX = r"/v1(?:beta1)?/projects/[^/]+/locations/[^/]+"
_EXPRESS = rf"(?:{_VERTEX}|/v1(?:beta1)?)"  # Vertex with an API key leaves the project out
_GOOGLE = rf"(?:/v1(?:beta|alpha)?/(?:models|tunedModels)|{_EXPRESS}/(?:models|endpoints))/{_NAME}"
_PUBLISHED = rf"{_EXPRESS}/publishers/(?P<publisher>[^/]+)/models/{_NAME}"
_CLAUDE = rf"{_VERTEX}/publishers/anthropic/models/(?!count-tokens:){_NAME}"
_POST: tuple[_Rule, ...] = (
    _rule("openai-chat", r"(?:/openai)?/v1/chat/completions", "json", streams=None),
    _rule("openai-completions", r"(?:/openai)?/v1/completions", "json", streams=None),
    _rule("openai-responses", r"(?:(?:/openai)?/v1|/openai)/responses", "json", streams=None),
    _rule("openai-embeddings", r"(?:/openai)?/v1/embeddings", "json"),
    _rule("openai-images", r"(?:/openai)?/v1/images/generations", "json", streams=None),
    _rule("openai-images", r"(?:/openai)?/v1/images/(?:edits|variations)", "multipart", streams=None),
    _rule("openai-audio", r"(?:/openai)?/v1/audio/speech", "json", streams=None),
    _rule("openai-audio", r"(?:/openai)?/v1/audio/(?:transcriptions|translations)", "multipart", streams=None),
    _rule("openai-chat", rf"{_AZURE}/chat/completions", streams=None),
    _rule("openai-completions", rf"{_AZURE}/completions", streams=None),
    _rule("openai-embeddings", rf"{_AZURE}/embeddings"),
    _rule("openai-images", rf"{_AZURE}/images/(?:generations|edits|variations)", streams=None),
    _rule("openai-audio", rf"{_AZURE}/audio/(?:speech|transcriptions|translations)", streams=None),
    _rule("anthropic-messages", r"/v1/messages", "json", streams=None),
    _rule("google-generate", rf"{_GOOGLE}:generateContent"),
    _rule("google-generate", rf"{_GOOGLE}:streamGenerateContent", streams=True),
    _rule("google-embed", rf"{_GOOGLE}:(?:embedContent|batchEmbedContents)"),
    _rule("google-generate", rf"{_PUBLISHED}:generateContent"),
    _rule("google-generate", rf"{_PUBLISHED}:streamGenerateContent", streams=True),
    _rule("google-embed", rf"{_PUBLISHED}:(?:embedContent|predict)"),
    _rule("openai-chat", rf"(?:/v1beta/openai|{_VERTEX}/endpoints/[^/]+)/chat/completions", "json", streams=None),
    _rule("openai-embeddings", r"/v1beta/openai/embeddings", "json"),
    _rule("anthropic-messages", rf"{_CLAUDE}:rawPredict", streams=None),
    _rule("anthropic-messages", rf"{_CLAUDE}:streamRawPredict", streams=True),
    _rule("kserve-http", rf"/v2/models/{_NAME}(?:/versions/[^/]+)?/infer"),
    _rule("triton-generate", rf"/v2/models/{_NAME}(?:/versions/[^/]+)?/generate"),
    _rule("triton-generate", rf"/v2/models/{_NAME}(?:/versions/[^/]+)?/generate_stream", streams=True),
    _rule("ollama", r"/api/(?:chat|generate)", "json", streams=None),
    _rule("ollama", r"/api/(?:embed|embeddings)", "json"),
    _rule("bedrock", rf"/model/{_NAME}/(?:converse|invoke)"),
    _rule("bedrock", rf"/model/{_NAME}/(?:converse-stream|invoke-with-response-stream)", streams=True),
)
_LOOSE = tuple(re.compile(rule.pattern.pattern, re.IGNORECASE) for rule in _POST)
_SHORT = 512  # characters of a path
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEFAULT_STREAMS = frozenset(("/api/chat", "/api/generate"))  # where a body that says nothing asks for a stream


def route(method: str, path: str) -> Route:
    """Return what a request is by its method and its path (without query, as it came)."""
    return _short(method, path) if len(path) <= _SHORT else _route(method, path)


def _route(method: str, path: str) -> Route:
    if method == "POST":
        for rule in _POST:
            if (found := rule.pattern.fullmatch(path)) is not None:
                return Route(rule.dialect, path, rule.named_by, _name(found, rule), rule.streams, _unsound(path))
    return Route(OPAQUE, path, "header", refused=_unsound(path) or _disguised(path))


_short = lru_cache(maxsize=4096)(_route)  # short ones alone: whoever asks with long ones shall not fill the memory


def _unsound(path: str) -> str | None:
    """Say what of a path could lead an upstream elsewhere: out of the target's own path, or to another name."""
    plain = unquote(path, "latin-1").replace("\\", "/")
    if any(segment.partition(";")[0] in (".", "..") for segment in plain.split("/")):
        return "dot segments"
    return "control characters" if _CONTROL.search(plain) else None


def _disguised(path: str) -> str | None:
    """Say whether a lax upstream reads a path as one that we know: it would be asked past all that we do there."""
    segments = unquote(path, "latin-1").replace("\\", "/").split("/")
    plain = "/" + "/".join(filter(None, (segment.partition(";")[0] for segment in segments)))
    if f"{plain}/".lower().startswith("/genealog/"):
        return "a path between gateway and engine"
    known = (rule.pattern.fullmatch(path) for rule in _POST)  # with another method
    if not any(known) and any(pattern.fullmatch(plain) for pattern in _LOOSE):
        return "another spelling of a known path"
    return None


def _name(found: re.Match[str], rule: _Rule) -> str | None:
    """Return the name in a path. Google's client for Vertex writes `prod/bot` as `publishers/prod/models/bot`."""
    if rule.named_by != "path":
        return None
    publisher = found.groupdict().get("publisher")
    name = unquote(found["name"])
    return name if publisher in (None, "google") else f"{unquote(publisher)}/{name}"


def name_span(path: str) -> tuple[int, int] | None:
    """Return where a path, as it came, names the deployment; None where it does not."""
    for rule in _POST:
        if rule.named_by == "path" and (found := rule.pattern.fullmatch(path)) is not None:
            return found.span("name")
    return None


def streams_by_default(path: str) -> bool:
    """Say whether a request whose body does not speak of `stream` asks for one."""
    return path in _DEFAULT_STREAMS
