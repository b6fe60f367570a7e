"""Answers at the gate: which may go out, and what waits until that is known.

    known    the decision, if one of a call like this is still good: no call waits for a policy that was asked already
    ask      the same where it has to be asked: what comes of the answer meanwhile waits here

Only an answer of success (2xx) is decided about, before its first byte goes to the client. Decisions are kept until the
registry changes, but no longer than `decision_ttl`. One answer is decided about by its own content: that of an
environment with detectors, which therefore waits until it is whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from genealog.core.frames import Assurance
from genealog.core.policy import no
from genealog.deploy import Live
from genealog.errors import GenealogError, PolicyDenied
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.hold import Hold, Way
from genealog.policy.release import ALLOWED, Released, Standing, released

_MOST = 4_096  # decisions that are kept
_SUCCESS = range(200, 300)

log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided: the answer of one target of a deployment, at the level that is reached by now."""

    live: Live
    aim: Aim
    assurance: Assurance
    who: Who
    body: bytes | None = None  # of the answer, where detectors look at it
    kind: str = ""
    encoding: str | None = None


class Epochs(Protocol):
    """The snapshot that calls are let in by (`directory.Directory`)."""

    epoch: int


class _Kept(NamedTuple):
    released: Released
    until: float


class Releasing:
    """What policy makes of the answers of one worker. `decide` is asked where nothing is known; `look` says what is in
    force for a deployment. Used by one event loop.
    """

    def __init__(
        self,
        epochs: Epochs,
        decide: Callable[[Question], Awaitable[Released]],
        look: Callable[[str], Standing],
        *,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs = epochs
        self._epoch = -1
        self._decide = decide
        self._look = look
        self._ttl = ttl
        self._clock = clock
        self._kept: dict[object, _Kept] = {}
        self._standing: dict[str, Standing] = {}

    def known(self, question: Question) -> Released | None:
        """Return a decision that is good now."""
        if self._epochs.epoch != self._epoch:
            self._kept.clear()
            self._epoch = self._epochs.epoch
        kept = self._kept.get(_key(question))
        if kept is not None and kept.until > self._clock():
            return kept.released
        return None if self.standing(question.live.name).asked else ALLOWED

    def standing(self, deployment: str) -> Standing:
        """Return what is in force for a deployment."""
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
        epoch = self._epochs.epoch
        try:
            found = await self._decide(question)
        except GenealogError as error:
            log.error("an answer of %s could not be decided about: %s", question.live.name, error.code)
            code = error.code if isinstance(error, PolicyDenied) else "policy-error"
            return released(no(code, "the policy engine gave no answer"), self.standing(question.live.name).asked)
        if question.body is None and epoch == self._epochs.epoch == self._epoch:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[_key(question)] = _Kept(found, self._clock() + self._ttl)
        return found

    def forget(self) -> None:
        """Ask anew for every call from now on."""
        self._kept.clear()
        self._standing.clear()


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
    return live.name, live.spec, question.aim.index, question.assurance, question.who.asks
