"""What a request says that the gateway decides by: the deployment that is asked for, and whether as a stream.

Nothing else of a body is read here, and nothing of one that streams through.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec

from genealog.capture.dialects.multipart import Form
from genealog.errors import MalformedError
from genealog.gateway.routes import Route, streams_by_default

_TRUE = frozenset(("true", "1"))
_MODEL = "model"
_SPELLINGS = tuple(
    word for letters in product(*zip(_MODEL, _MODEL.upper(), strict=True)) if (word := "".join(letters)) != _MODEL
)


class _Asked(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


class _Named:
    """A value of `model`, to be counted."""


_named: list[object] = []  # the values of `model` in the object that is being read


def _count(_: type, value: object) -> _Named:
    _named.append(value)
    return _NAMED


_NAMED = _Named()
_Every: Any = msgspec.defstruct(
    "_Every", [(_MODEL, _Named | None, None), *((word, str | None, None) for word in _SPELLINGS)]
)
_SOUND = (_Every(), _Every(_NAMED))
_asked = msgspec.json.Decoder(_Asked)
_every: Any = msgspec.json.Decoder(_Every, dec_hook=_count)


@dataclass(frozen=True, slots=True)
class Said:
    """The name that was asked for, and whether a stream may come."""

    name: str
    streams: bool


def read_said(
    route: Route, body: bytes, *, given: str | None, form: Form | None, default: str | None, whole: bool
) -> Said:
    """Read a request. `given` is what a header says, `default` what counts where nothing says a name; `whole` says
    whether all of the body is here. Raises: MalformedError `malformed-json`, `malformed-form`.
    """
    streams = route.streams
    model: str | None = None
    if form is not None:
        if form.malformed:
            raise malformed_form(form)
        model = form.model
        streams = bool(streams) or form.value("stream") in _TRUE
    elif route.named_by == "json" or streams is None:
        if whole:
            model, streams = _read_json(route, body, required=route.named_by == "json" and given is None)
        else:
            streams = streams is not False  # only its beginning is here: asked so that its end can be seen in any case
        if route.named_by != "json":
            model = None
    name = given or route.name or model or default
    if name is not None:
        return Said(name, bool(streams))
    if form is not None:
        raise malformed_form(form)
    raise _malformed("no model")


def malformed_form(form: Form) -> MalformedError:
    """Return why a form is refused: no model in it, or two readers could disagree about what it says."""
    return MalformedError(
        "malformed-form", "the form does not name a model, or not so that every reader agrees", got=form.malformed,
        expected="one field `model`, the name of a deployment",
    )  # fmt: skip


def _read_json(route: Route, body: bytes, *, required: bool) -> tuple[str | None, bool]:
    try:
        asked = _asked.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if required:
            raise _malformed(str(error)) from None
        return None, bool(route.streams)
    if route.named_by == "json" and _named_twice(body):
        raise _malformed("more than one `model`")
    if route.streams is not None:
        return asked.model, route.streams
    return asked.model, streams_by_default(route.operation) if asked.stream is None else asked.stream


def _named_twice(body: bytes) -> bool:
    """Say whether two readers may find two names in an object: a key repeated, or one that Go's takes for `model`.

    Each `model` of it has been read as a text, so that counting them makes nothing big.
    """
    _named.clear()
    try:
        return _every.decode(body) not in _SOUND or len(_named) > 1
    except msgspec.MsgspecError:
        return True  # a `Model` that is no text


def _malformed(got: str) -> MalformedError:
    return MalformedError(
        "malformed-json",
        "the request body is not a JSON object that names a model",
        got=got[:120],
        expected='{"model": "DEPLOYMENT", "messages": […]}, uncompressed',
    )
