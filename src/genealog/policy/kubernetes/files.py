"""Manifests in files: several YAML documents, or JSON, each object with the line where it begins.

YAML is read as plain values: no tag of a language, dates as text, no key twice, and aliases only as many as a person
writes, because a few lines of them can stand for gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genealog.errors import MalformedError, not_installed

LIMIT = 16 * 1024 * 1024
_NODES = 500_000
_DEPTH = 100
_TEXTS = ("binary", "str", "timestamp", "value")
_KINDS = (*_TEXTS, "bool", "float", "int", "map", "null", "seq")


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a file. `line` counts from 1."""

    line: int
    value: Any


def read_manifest(text: str) -> list[Object]:
    """Return the objects of a file; those in a `List` on their own. Empty documents are left out.

    Raises: MalformedError `bad-manifest`; MissingError `extra-not-installed`.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise not_installed("reading manifests", "yaml", "kubernetes") from None
    if len(text) > LIMIT:
        raise _unread(0, f"more than {LIMIT} characters")
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise _unread(mark.line + 1 if mark else 0, getattr(error, "problem", None) or type(error).__name__) from None
    reader = _Reader(yaml)
    return [found for node in nodes if node is not None for found in reader.objects(node)]


class _Reader:
    def __init__(self, yaml: Any) -> None:
        self._yaml = yaml
        self._scalars = yaml.constructor.SafeConstructor()
        self._left = _NODES

    def objects(self, node: Any) -> Iterator[Object]:
        value = self._value(node, 0)
        items = value.get("items") if isinstance(value, dict) else None
        if not isinstance(items, list) or not str(value.get("kind", "")).endswith("List"):
            if value is not None:
                yield Object(node.start_mark.line + 1, value)
            return
        inner = next(each for key, each in node.value if key.value == "items")
        for item, where in zip(items, inner.value, strict=True):
            yield Object(where.start_mark.line + 1, item)

    def _value(self, node: Any, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            raise _unread(line, "too many values, or too deep")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in _KINDS:
            raise _unread(line, f"a tag that manifests do not have: {node.tag[:100]}")
        if isinstance(node, self._yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, self._yaml.ScalarNode):
                    raise _unread(line, "a key that is no text")
                if key.tag == "tag:yaml.org,2002:merge":
                    raise _unread(line, "a merge key (<<): write the fields out")
                if key.value in found:
                    raise _unread(key.start_mark.line + 1, f"a key twice: {key.value[:100]}")
                found[key.value] = self._value(value, depth + 1)
            return found
        if isinstance(node, self._yaml.SequenceNode):
            return [self._value(each, depth + 1) for each in node.value]
        if kind in _TEXTS:
            return node.value
        try:
            return self._scalars.construct_object(node)
        except (self._yaml.YAMLError, ValueError):
            raise _unread(line, "a value that cannot be read") from None


def _unread(line: int, got: str) -> MalformedError:
    return MalformedError(
        "bad-manifest", f"this is no Kubernetes manifest{f', line {line}' if line else ''}", got=got,
        hint="render templates first (helm template, kustomize build), then check what comes out",
    )  # fmt: skip
