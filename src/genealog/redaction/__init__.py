"""Personal data masked in bodies before they are kept: `[[redaction]]`.

What is kept of a body is then a *rendering*, said to be one (`rendering`); the vault never gives it out as the body.
Digests and seals in the log are over what really passed, so that whoever has the original can still prove it. Texts
are found by their masked form: a search for the original text masks it the same way first (`Redactor.forms`).

    the first rule that fits tenant and deployment decides
    a body that cannot be read as text is not kept       images, multipart, protobuf, a stream that broke off early
    an engine that fails on a body: it is not kept       counted, and said in its row
    an engine that cannot be loaded: the gateway does not start, and does not take such settings while it runs
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from genealog.redaction.engine import Engine, mask
from genealog.redaction.patterns import Patterns
from genealog.redaction.rendering import UnreadableError, rendered
from genealog.store.gateway_settings import Redaction
from genealog.store.vault.call import VaultCall
from genealog.store.vault.patterns import fits

FAILED, UNREADABLE, LEFT_OUT = "redaction-failed", "not-readable", "redacted"

log = logging.getLogger("genealog.redaction")


class Redactor:
    """Masks what the vault is given. `counts` says how many bodies became what: kinds of `VaultCall.marks`."""

    def __init__(self, rules: Sequence[Redaction]) -> None:
        self._rules = rules
        self._engines: dict[Redaction, Engine] = {}
        self.counts: Counter[str] = Counter()

    def __call__(self, kept: VaultCall, deployment: str, content: bytes | None, raw: bytes) -> VaultCall:
        """Return what is to be kept of a call. `content` is the canonical message of its answer, where one was read;
        `raw` is the answer as it came, which is not to be found any more: a stream cuts words.

        Raises: MissingError `extra-not-installed`, StoreError `redaction-unusable`: the engine cannot be loaded.
        """
        rule = next(
            (each for each in self._rules if fits(kept.tenant, each.tenant) and fits(deployment, each.deployment)), None
        )
        if rule is None or not (kept.bodies or kept.texts):
            return kept
        engine = self._engine(rule)
        bodies, marks = {}, {}
        for name, body in kept.bodies.items():
            if name == "report":  # an engine's report has the answer, token by token
                marks[name] = f"{name}!{LEFT_OUT}"
                continue
            try:
                bodies[name] = rendered(engine, body, content if name == "response" else None)
                marks[name] = f"{name}~{engine.name}/{engine.version}"
            except UnreadableError:
                marks[name] = f"{name}!{UNREADABLE}"
            except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote the body
                log.error("the %s of call %s is not kept: %s in %s", name, kept.call, type(error).__name__, engine.name)
                marks[name] = f"{name}!{FAILED}"
            self.counts[marks[name].partition("!")[2] or "redacted"] += 1
        texts = [(which, self._masked_bytes(engine, text)) for which, text in kept.texts if text != raw]
        return replace(
            kept, bodies=bodies, marks=marks, texts=tuple((which, text) for which, text in texts if text is not None)
        )

    def load(self) -> None:
        """Load every engine now, so that none fails when the first call comes. Raises: as a call does."""
        for rule in self._rules:
            self._engine(rule)

    def forms(self, text: str) -> tuple[str, ...]:
        """Return what a text may have become under the rules: what to search for besides it."""
        data = text.encode("utf-8", "surrogatepass")
        found = dict.fromkeys(self._masked_bytes(self._engine(rule), data) for rule in self._rules)
        forms = (each.decode("utf-8", "surrogatepass") for each in found if each is not None)
        return tuple(each for each in forms if each != text)

    def _masked_bytes(self, engine: Engine, text: bytes) -> bytes | None:
        try:
            masked = mask(engine, text.decode("utf-8", "surrogatepass"), Counter())
            return masked.encode("utf-8", "surrogatepass")
        except Exception as error:  # noqa: BLE001 - as above
            log.error("a text is not kept to be found: %s in %s", type(error).__name__, engine.name)
            return None

    def _engine(self, rule: Redaction) -> Engine:
        if rule not in self._engines:
            self._engines[rule] = _load(rule)
        return self._engines[rule]


def redactor(rules: Sequence[Redaction]) -> Redactor | None:
    """Return what masks by these rules; None where there are none."""
    return Redactor(rules) if rules else None


def _load(rule: Redaction) -> Engine:
    if rule.engine == "patterns":
        return Patterns(rule.entities)
    from genealog.redaction.presidio import Presidio

    return Presidio(rule.entities, rule.language)
