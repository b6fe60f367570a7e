"""Answers at the gate: which may go out, and what waits until that is known.

    known    the decision, if one of a call like this is still good: no call waits for a policy that was asked already
    ask      the same where it has to be asked: what comes of the answer meanwhile waits here

Only an answer of success (2xx) is decided about, before its first byte goes to the client. Decisions are kept until the
registry or the policies change, but no longer than `[policy] decision_ttl`, nor than a break-glass that they rest on.
What one answer says is looked at in environments with detectors alone: it waits until it is whole, and nothing is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from genealog.core.call import without_evidence
from genealog.core.frames import Assurance
from genealog.core.policy import no
from genealog.deploy import Live
from genealog.errors import GenealogError, PolicyDenied
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.directory import Directory
from genealog.gateway.hold import Hold, Way
from genealog.gateway.policing import Court, Policing
from genealog.policy.facts import used_of
from genealog.policy.release import ALLOWED, Released, Standing, output_of, released, standing

_MOST = 4_096  # decisions that are kept
_SUCCESS = range(200, 300)

log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided: the answer of one target of a deployment, which is bound at some level."""

    live: Live
    aim: Aim
    bound: Assurance
    who: Who
    answer: Answer | None = None  # where detectors look at it


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, and what its dialect needs to read it. `headers` are those that go on record."""

    body: bytes
    dialect: str
    operation: str
    status: int
    kind: str | None
    encoding: str | None
    headers: Mapping[str, str]


class Epochs(Protocol):
    """What decisions hold for: while it is equal, nothing has changed."""

    @property
    def epoch(self) -> object:
        """Of the registry, and of the policies."""


class _Kept(NamedTuple):
    released: Released
    until: float


class Releasing:
    """What policy makes of the answers of one worker. `decide` is asked where nothing is known, and says for how many
    seconds that is good; `look` says what is in force for a deployment. Used by one event loop.
    """

    def __init__(
        self,
        epochs: Epochs,
        decide: Callable[[Question], Awaitable[tuple[Released, float]]],
        look: Callable[[str], Standing],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs = epochs
        self._epoch: object = None
        self._decide = decide
        self._look = look
        self._clock = clock
        self._kept: dict[object, _Kept] = {}
        self._standing: dict[str, Standing] = {}

    def known(self, question: Question) -> Released | None:
        """Return a decision that is good now."""
        self._look_up()
        kept = self._kept.get(_key(question))
        if kept is not None and kept.until > self._clock():
            return kept.released
        return None if self.standing(question.live.name).asked else ALLOWED

    def standing(self, deployment: str) -> Standing:
        """Return what is in force for a deployment."""
        self._look_up()
        found = self._standing.get(deployment)
        if found is None:
            if len(self._standing) >= _MOST:
                self._standing.clear()
            found = self._standing[deployment] = self._look(deployment)
        return found

    def looks(self, deployment: str) -> bool:
        """Say whether detectors look at the answers of a deployment, which have to be whole for that."""
        return bool(self.standing(deployment).detectors)

    async def ask(self, question: Question) -> Released:
        """Decide. Never raises for what an engine or the registry did: that is a no."""
        self._look_up()
        epoch = self._epoch
        try:
            found, good = await self._decide(question)
        except GenealogError as error:
            log.error("an answer of %s could not be decided about: %s", question.live.name, error.code)
            code = error.code if isinstance(error, PolicyDenied) else "policy-error"
            return released(no(code, "the policy engine gave no answer"), self.standing(question.live.name).asked)
        if question.answer is None and epoch == self._epochs.epoch:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[_key(question)] = _Kept(found, self._clock() + good)
        return found

    def _look_up(self) -> None:
        """Forget what held for another epoch."""
        if (epoch := self._epochs.epoch) != self._epoch:
            self._kept.clear()
            self._standing.clear()
            self._epoch = epoch


class _Epochs:
    """Of the registry as calls are let in by it, and of the policies in force."""

    def __init__(self, directory: Directory, policing: Policing) -> None:
        self._directory = directory
        self._policing = policing

    @property
    def epoch(self) -> object:
        return self._directory.epoch, self._policing.turn


def releasing(directory: Directory, policing: Policing) -> Releasing:
    """Return what asks the policies that also say which calls may be made."""

    async def decide(question: Question) -> tuple[Released, float]:
        age = directory.age
        return await policing.ask(lambda court: decided(court, question, age))

    return Releasing(_Epochs(directory, policing), decide, lambda deployment: standing(policing.set, deployment))


def decided(court: Court, question: Question, age: float) -> tuple[Released, float]:
    """Decide, on the thread of the court, and say for how many seconds that is good. `age` is in seconds, since the
    registry was looked at.
    """
    live, aim, bound = question.live, question.aim, question.bound
    here, used = standing(court.policies.set, live.name), used_of(aim.target)
    answer = question.answer
    output = output_of(
        court.facts.models(*used), len(used), recorded=True, assurance=without_evidence(bound), marked=here.labels,
        detectors=court.detectors.look(
            here.detectors, answer.dialect, answer.body, operation=answer.operation, status=answer.status,
            content_type=answer.kind, content_encoding=answer.encoding, headers=answer.headers,
        ) if answer is not None else None,
    )  # fmt: skip
    judged = court.judge(live, aim, bound, question.who, age, output=output)
    keeps = live.body.body_capture == "encrypted"
    return released(judged.verdict, here.asked, label=here.labels, keeps=keeps), court.good(judged)


class Nothing(Hold):
    """Takes the chunks of an answer that does not go out, and lets none of them pass."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Way.SIZED)

    def feed(self, data: bytes) -> bytes:  # noqa: ARG002 - it is on record, and stays there
        """Let nothing pass."""
        return b""


def waiting() -> Hold:
    """Return what keeps an answer until it is decided about."""
    return Hold(Way.WHOLE)


def decided_about(status: int) -> bool:
    """Say whether policy has a say in an answer with this status."""
    return status in _SUCCESS


def _key(question: Question) -> object:
    live = question.live
    return live.name, live.spec, question.aim.index, question.bound, question.who.asks
