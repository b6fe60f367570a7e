"""What tests of dialects share: digests, values that no reader may fail on, and looks at content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import strategies as st

from genealog.core.call_groups import RequestFacts, ResponseFacts
from genealog.core.canonical import encode

texts = st.text(st.characters(exclude_categories=["Cs"]))


def sha(value: str | bytes) -> str:
    """Return the hex SHA-256 of a text or of bytes."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def values_with(fields: tuple[str, ...], words: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Return JSON values with these keys and words in odd places."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(
        scalars | st.sampled_from(words or fields),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(fields), inner, max_size=6),
        max_leaves=30,
    )


def bodies(fields: tuple[str, ...], words: tuple[str, ...] = ()) -> st.SearchStrategy[bytes]:
    """Return bodies of any kind, most of them JSON with these keys."""
    values = values_with(fields, words)
    objects = st.dictionaries(st.sampled_from(fields), values, max_size=6)
    return st.binary(max_size=200) | (objects | values).map(lambda value: json.dumps(value).encode())


def check_request(facts: RequestFacts) -> None:
    """Fail if a group could not hold these facts."""
    encode([facts.parameters, facts.parts, facts.sampler])
    assert facts.malformed is None or not facts.parts


def check_response(facts: ResponseFacts) -> None:
    """Fail if a group could not hold these facts."""
    encode([facts.usage, facts.parts, facts.finish_reason, facts.model, facts.tier, facts.error])
    assert facts.content is None or json.loads(facts.content)["t"] == "genealog/content/v1"
    assert facts.malformed is None or (facts.content is None and facts.texts == ())


def messages(facts: ResponseFacts) -> list[dict[str, Any]]:
    """Return the canonical messages of an answer."""
    assert facts.content is not None, facts.malformed
    found: list[dict[str, Any]] = json.loads(facts.content)["messages"]
    return found
