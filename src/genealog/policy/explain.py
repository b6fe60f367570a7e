"""Why a policy decided so: which facts its answer rests on, and what would have to be otherwise for it to allow.

Both are found by asking the engine, not by reading the rules. A policy rests on a fact if it answers otherwise without
it. What would have to be otherwise is searched for by trying other values, from the input, the settings and the words
that facts are made of; what is found was decided by the engine, with every change that is not needed taken back. That
nothing is found proves nothing. Both end when their time is over, and say so (`cut`).

It says what would have to be true, and not that it may be said: facts are made from the record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from genealog.core.policy import Outcome, Reason, read_verdict
from genealog.errors import PolicyDenied
from genealog.policy.paths import Path, paths, spelled, value_at, with_value, without
from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet

LIMIT = 1.5  # seconds for all of it
_WORDS = ("", "limited", "stated")  # that facts are made of
_QUESTION = ("v", "point", "now_ns", "actor", "env", "subject", "waived")
_WORD = re.compile(r"[a-z_]+")
_SOMEBODY = "somebody.else"
_NO = ("denied", "undefined")


@dataclass(frozen=True, slots=True)
class Change:
    """One fact, as it is and as it would have to be. `before` is None where it is missing."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.before)} → {_short(self.after)}"


@dataclass(frozen=True, slots=True)
class Explained:
    """One policy's answer. `otherwise` is empty where it lets it through, or where nothing was found.

    `cut`: the time was over before everything was tried. There may be more that it rests on, or a change after all.
    """

    policy: str
    outcome: Outcome
    reasons: tuple[Reason, ...]
    rests_on: tuple[str, ...]
    settings: tuple[str, ...]
    otherwise: tuple[Change, ...] = ()
    cut: bool = False


def explain(
    policies: PolicySet,
    engine: Engine,
    document: Mapping[str, Any],
    limit: float = LIMIT,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Explained]:
    """Explain a decision on an input, policy by policy in the order of their names.

    `engine` holds `policies`, and `document` is an input as plain values. Half of the time (`limit`, in seconds) at
    most goes into what policies rest on; those that said no share what is left. Raises: PolicyDenied where the engine
    cannot decide.
    """
    began = clock()
    asking = _Asking(policies, engine, document)
    outcomes, reasons = asking.ask(document)
    answered = {name: (outcome, reasons.get(name, ())) for name, outcome in outcomes.items()}
    rests: dict[str, list[Path]] = {name: [] for name in outcomes}
    cut = False
    for path in paths(document):
        if cut := clock() > began + limit / 2:
            break
        left = asking.tried(without(document, path))
        for name, answer in answered.items():
            if left is None or (left[0].get(name), left[1].get(name, ())) != answer:
                rests[name].append(path)
    found = []
    denied = sum(outcome in _NO for outcome, _ in answered.values())
    for name, (outcome, said) in sorted(answered.items()):
        changes: tuple[Change, ...] = ()
        late = False
        if outcome in _NO:
            until = clock() + (began + limit - clock()) / denied
            denied -= 1
            words = _words(policies, name)
            likely = [path for path in paths(document) if path in rests[name] or path[-1] in words]
            search = _Search(asking, document, name, likely, partial(_past, clock, until))
            changes, late = search.run(), search.late
        found.append(
            Explained(
                name, outcome, said, _leaves([spelled(path) for path in rests[name]]), _settings(policies, name),
                changes, cut or late,
            )
        )  # fmt: skip
    return found


Answers = tuple[Mapping[str, Outcome], Mapping[str, tuple[Reason, ...]]]


class _Asking:
    """One engine, asked about inputs that differ in their facts."""

    def __init__(self, policies: PolicySet, engine: Engine, document: Mapping[str, Any]) -> None:
        self.settings = policies.settings
        self._engine = engine
        self._asked = policies.asked(document["env"]["name"], document["point"])

    def ask(self, document: Any) -> Answers:
        """Return each policy's outcome and reasons; what a break-glass puts aside counts as denied."""
        verdict = read_verdict(self._engine.evaluate(msgspec.json.encode(document)), self._asked)
        reasons: dict[str, tuple[Reason, ...]] = {}
        for reason in (*verdict.reasons, *(noted for _, noted in verdict.noted)):
            reasons[reason.policy] = (*reasons.get(reason.policy, ()), reason)
        return verdict.outcomes, reasons

    def tried(self, document: Any) -> Answers | None:
        """Return what `ask` does; None where the engine cannot decide."""
        try:
            return self.ask(document)
        except PolicyDenied:
            return None

    def left(self, document: Any, name: str) -> tuple[Reason, ...] | None:
        """Return the reasons that are left, none where a policy lets it through; None where it says nothing."""
        answer = self.tried(document)
        if answer is None:
            return None
        if answer[0].get(name) in ("passed", "not-applicable"):
            return ()
        return answer[1].get(name) or None


class _Search:
    """Looks for the smallest change of an input that one policy lets through. `likely` facts are tried
    first; `over` says that the time is.
    """

    def __init__(
        self, asking: _Asking, document: Any, name: str, likely: Collection[Path], over: Callable[[], bool]
    ) -> None:
        self._asking = asking
        self._document = document
        self._name = name
        self._likely = frozenset(likely)
        self._over = over
        self.late = False

    def run(self) -> tuple[Change, ...]:
        """Change one fact after the other, while fewer reasons are left, or others, until it is let through."""
        document, now = self._document, self._document
        reasons = self._asking.left(document, self._name)
        seen = {reasons}
        made: list[tuple[Path, Any]] = []
        while reasons:
            step = self._step(now, reasons, seen)
            if step is None:
                return ()
            path, value, reasons = step
            seen.add(reasons)
            now = with_value(now, path, value)
            made.append((path, value))
        for at in reversed(range(len(made))):  # what a later change made needless
            fewer = made[:at] + made[at + 1 :]
            if self._asking.left(_changed(document, fewer), self._name) == ():
                made = fewer
        last = dict(made)
        return tuple(Change(spelled(path), _before(document, path), value) for path, value in last.items())

    def _step(
        self, now: Any, reasons: tuple[Reason, ...], seen: Collection[tuple[Reason, ...] | None]
    ) -> tuple[Path, Any, tuple[Reason, ...]] | None:
        """Return the first change that leaves fewer reasons, else the first that leaves others; likely ones before."""
        aside = None
        candidates = sorted(_candidates(now, self._asking.settings), key=lambda each: each[0] not in self._likely)
        for path, value in candidates:
            if aside is not None and path not in self._likely:
                return aside
            self.late = self.late or self._over()
            if self.late:
                return None
            left = self._asking.left(with_value(now, path, value), self._name)
            if left is None or left in seen or len(left) > len(reasons):
                continue
            if len(left) < len(reasons):
                return path, value, left
            aside = aside or (path, value, left)
        return aside


def _changed(document: Any, changes: list[tuple[Path, Any]]) -> Any:
    for path, value in changes:
        document = with_value(document, path, value)
    return document


def _candidates(document: Any, settings: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield (path, other value): first of facts that are one value, then of lists and of what holds others."""
    texts = dict.fromkeys((*settings.get("licences", ()), *settings.get("vendors", ()), *_WORDS, *_decimals(settings)))
    numbers = sorted({0, 1, *(value for path in paths(document) if _whole(value := value_at(document, path)))})
    whole = list(paths(document))
    for path in whole:
        if path[0] in _QUESTION or path[-1] in ("id", "name", "kind", "role"):
            continue  # what the question is, and not what is known
        value = value_at(document, path)
        if isinstance(value, bool):
            yield path, not value
        elif _whole(value):
            yield from ((path, number) for number in numbers if number != value)
        elif isinstance(value, str):
            yield from ((path, text) for text in (*texts, *_said(document, path)) if text != value)
        elif isinstance(value, list):
            yield from ((path, [*value, *added]) for added in _added(document, path, settings))
        elif path[-1] == "evaluations" and (suites := settings.get("evaluations")):
            yield path, {**value, **{suite: value.get(suite, _evaluation(wanted)) for suite, wanted in suites.items()}}
            yield path, {**value, **{suite: _evaluation(wanted) for suite, wanted in suites.items()}}


def _said(document: Any, path: Path) -> tuple[str, ...]:
    """Return words of the models that a call could name."""
    if path[0] != "call":
        return ()
    key = {"purpose": "purposes", "data_class": "data_classes"}.get(str(path[-1]), "")
    return tuple(word for model in document.get("models", ()) for word in model.get(key, ()))


def _added(document: Any, path: Path, settings: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield what a list could have besides."""
    call = document.get("call") or {}
    if path[-1] == "approvals":
        at = len(value_at(document, path))
        yield [{"by": f"{_SOMEBODY}.{at + 1}", "independent": True}]
    elif path[-1] in ("purposes", "data_classes"):
        yield [call.get("purpose" if path[-1] == "purposes" else "data_class", "")]
    elif path[-1] == "detectors":
        wanted = settings.get("detectors", {}).get(document["env"]["name"], ())
        yield [each for each in wanted if each not in value_at(document, path)]
    elif path[-1] != "models":
        yield [_SOMEBODY]


def _evaluation(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {"age_seconds": 0, "succeeded": True, "measurements": {**wanted["minimum"], **wanted["maximum"]}}


def _decimals(settings: Mapping[str, Any]) -> Iterator[str]:
    for wanted in settings.get("evaluations", {}).values():
        yield from (*wanted["minimum"].values(), *wanted["maximum"].values())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _words(policies: PolicySet, name: str) -> frozenset[str]:
    """Return the words of a policy's rules. What they name is tried first; nothing is concluded from them."""
    return frozenset(_WORD.findall(policies.policies[name].source.partition("\npackage ")[2]))


def _past(clock: Callable[[], float], end: float) -> bool:
    return clock() > end


def _before(document: Any, path: Path) -> Any:
    try:
        return value_at(document, path)
    except LookupError:
        return None


def _leaves(found: list[str]) -> tuple[str, ...]:
    """Return the paths that hold no other one of them."""
    return tuple(path for path in found if not any(other.startswith(f"{path}.") for other in found))


def _settings(policies: PolicySet, name: str) -> tuple[str, ...]:
    rules = policies.policies[name].source.partition("\npackage ")[2]
    return tuple(key for key in sorted(policies.settings) if f"data.genealog.settings.{key}" in rules)


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    text = value if isinstance(value, str) and value else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:79] + "…"
