"""The engine `presidio`: Microsoft's recognizers of patterns and checksums, without any language model.

Its analyzer runs over an engine that does no linguistics, so no model is downloaded, and names of people are not
found. The one thing in it that would call out, a list of top-level domains for e-mail addresses, is taken from the copy
that its library brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from genealog.errors import MalformedError, StoreError, not_installed
from genealog.redaction.engine import Span, known

LEAST = 0.35  # of the score: below it are shapes that any number has
LONGEST = 1_000_000  # characters: its recognizers give up silently where a text takes too long


class Presidio:
    """Finds what presidio-analyzer knows of one language. Raises: MissingError `extra-not-installed`; StoreError
    `redaction-unusable`.
    """

    name = "presidio"

    def __init__(self, entities: Iterable[str] = (), language: str = "en") -> None:
        try:
            self._analyzer = _analyzer(language)
        except ImportError:
            raise not_installed("this redaction", "presidio-analyzer", "pii") from None
        except (ValueError, KeyError) as error:
            raise StoreError(
                "redaction-unusable", "presidio cannot be used with these settings", got=type(error).__name__,
                expected="`language` as presidio names it, such as en",
            ) from None  # fmt: skip
        self.version = version("presidio-analyzer")
        self._language = language
        self._entities = sorted(known(entities, self._analyzer.get_supported_entities(language), self.name))

    def find(self, text: str) -> Iterator[Span]:
        """Return every hit that scores enough. Raises: MalformedError `text-too-long`."""
        if len(text) > LONGEST:
            raise MalformedError("text-too-long", "a text is too long for presidio", got=len(text), expected=LONGEST)
        hits = self._analyzer.analyze(text, self._language, entities=self._entities, score_threshold=LEAST)
        return (Span(hit.start, hit.end, hit.entity_type) for hit in hits)


def _analyzer(language: str) -> Any:
    import tldextract.tldextract as domains
    from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    domains.TLD_EXTRACTOR = domains.TLDExtract(suffix_list_urls=(), cache_dir=None)
    engine = NoOpNlpEngine([{"lang_code": language, "model_name": "none"}])
    engine.load()
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    without_model = (PatternRecognizer, PhoneRecognizer)
    registry.recognizers = [each for each in registry.recognizers if isinstance(each, without_model)]
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
