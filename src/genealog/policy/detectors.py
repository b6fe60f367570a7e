"""Detectors: what looks at an answer before it goes out, and says whether there is something in it.

    personal-data   addresses of e-mail and IP, IBANs, payment cards and phone numbers (`redaction.patterns`)

A detector looks at what the answer's dialect reads in it: the texts, and every text in the canonical message, which has
what a tool is called with. It says nothing of what it cannot look at: another format, an image, a body that is cut.
Names of people have no shape, and nobody here finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from genealog.capture.dialects import read_answer
from genealog.core.call_groups import ResponseFacts
from genealog.redaction.engine import Engine
from genealog.redaction.patterns import Patterns

DETECTORS: Mapping[str, Callable[[], Engine]] = {"personal-data": Patterns}


class Detectors:
    """Detectors by their names, loaded once."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def load(self, names: Sequence[str]) -> None:
        """Load those of Genealog's among `names`. Raises: MissingError `extra-not-installed`."""
        for name in names:
            if name in DETECTORS and name not in self._engines:
                self._engines[name] = DETECTORS[name]()

    def look(
        self, names: Sequence[str], dialect: str, body: bytes, *, operation: str, status: int | None,
        content_type: str | None, content_encoding: str | None, headers: Mapping[str, str],
    ) -> dict[str, bool]:  # fmt: skip
        """Return for each detector that could look at an answer whether it found nothing. Raises: as `load`."""
        self.load(names)
        try:
            facts = read_answer(
                dialect, body, operation=operation, status=status, content_type=content_type,
                content_encoding=content_encoding, headers=headers,
            )  # fmt: skip
            texts = list(_texts(facts))
        except Exception:  # noqa: BLE001 - nobody could look at it, whatever it is
            return {}
        if not texts or facts.malformed is not None or facts.parts:
            return {}
        return {name: _clean(self._engines[name], texts) for name in names}


def _clean(engine: Engine, texts: Sequence[str]) -> bool:
    """Say whether nothing was found. An engine that fails has not come to an end: that is an alarm."""
    try:
        return not any(True for text in texts for _ in engine.find(text))
    except Exception:  # noqa: BLE001 - as said above
        return False


def _texts(facts: ResponseFacts) -> Iterator[str]:
    yield from facts.texts
    if facts.content is not None:
        yield from _strings(msgspec.json.decode(facts.content))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
