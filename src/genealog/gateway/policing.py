"""What policy says of a call before it is made: the decision point `serve`.

    known    the ruling, if one of a call like this is still good: some microseconds
    rule     the same where it has to be asked; what is asked for meanwhile waits for the same answer

The policy set, its engine and the facts of the store live on one thread of their own (`Court`), so that neither a slow
engine nor a long lineage holds up the loop or the registry's thread. A ruling is kept in what belongs to one epoch of
the registry (`directory.Found`): any entry there makes every worker ask again. Without one it is good for
`[policy] decision_ttl`, and not longer than the break-glass that it rests on. What an engine did not answer is asked
again after a second.

Calls are alike where policy could not tell them apart: one target of a deployment, bound at one level, asked by callers
with the same `admission.Who.asks`. Whether a descendant of something revoked may serve was said when the deployment was
moved, so `tainted` is false here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from genealog.core.canonical import parse_timestamp
from genealog.core.frames import Assurance
from genealog.core.policy import Reason, no
from genealog.deploy import Live
from genealog.errors import GenealogError, PolicyDenied, StoreError
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.counters import Counters
from genealog.gateway.directory import Found
from genealog.policy.break_glass import Glass
from genealog.policy.decide import Judged, Policies
from genealog.policy.detectors import Detectors
from genealog.policy.document import Actor, Call, Input, Output, Serving
from genealog.policy.facts import LEVELS, Facts, used_of
from genealog.policy.sets import PolicySet
from genealog.store.config import Config
from genealog.store.home import Home
from genealog.store.leases import boot_clock

AGAIN = 1.0  # seconds for which an engine is not asked again that gave no answer
_MOST = 4_096  # rulings of one deployment: as many callers as there may be that differ
_REACHABLE = 1  # A1, which only the answer tells

Key = tuple[object, ...]
Headers = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")
log = logging.getLogger("genealog.gateway")


class ServeDenied(PolicyDenied):
    """Policy does not let a call be made. `policy` is the ID of the set that says so."""

    reasons: tuple[Reason, ...] = ()
    policy: str = ""

    def problem(self) -> dict[str, object]:
        """As every error's, with all reasons and the revision of the policies."""
        reasons = [{"policy": each.policy, "code": each.code, "message": each.message} for each in self.reasons]
        return {**super().problem(), "policy": self.policy, "reasons": reasons}


@dataclass(frozen=True, slots=True, eq=False)
class Ruling:
    """What holds for calls that are alike. `on_record` is policy, flags and waived of their intents."""

    on_record: tuple[str, tuple[str, ...], tuple[str, ...]]
    denial: ServeDenied | None
    until: float  # of the clock of leases
    headers: Headers = ()


class _Known(NamedTuple):
    document: Input  # but for what differs from call to call
    glasses: tuple[Glass, ...]
    until: datetime


class Court:
    """A policy set in its engine, over the facts of a store. Belongs to the thread that made it."""

    def __init__(self, home: Home, *, config: Config | None = None) -> None:
        """Load everything; the store is closed with it. Raises: as `Policies.open`, `Detectors.load`."""
        if config is not None:
            home.config = config
        self.home = home
        self._epoch = -1
        self._kept: dict[tuple[str, str, int], _Known] = {}
        try:
            self.policies = Policies.open(home)
            self.facts = Facts(home, self.policies.set)
            self.detectors = Detectors()
            for environment in self.policies.set.environments.values():
                self.detectors.load(environment.detectors)
        except BaseException:
            home.close()
            raise

    @property
    def ttl(self) -> float:
        """Seconds for which a ruling is good."""
        return float(self.home.config.policy.decision_ttl)

    @property
    def cuts(self) -> bool:
        """Whether answers are cut whose model is revoked while they stream."""
        return self.home.config.policy.on_revoke == "cut"

    def judge(
        self, live: Live, aim: Aim, bound: Assurance, who: Who, age: float, *, output: Output | None = None
    ) -> Judged:  # fmt: skip
        """Decide on one call, or on its `output`. `age` is in seconds, since the registry was looked at."""
        known = self._known(live, aim)
        told, document = who.facts, known.document
        named = told.get("how", "claimed") != "claimed"
        asked = replace(
            document,
            point="serve" if output is None else "release",
            now_ns=str(time.time_ns()),
            actor=Actor(id=told.get("principal", ""), kind="principal" if named else "unknown", groups=()),
            registry=replace(document.registry, age_seconds=max(0, int(age))),
            serving=Serving(
                minimum_assurance=LEVELS[live.body.minimum_assurance], assurance=max(LEVELS[bound], _REACHABLE)
            ),
            call=Call(
                purpose=who.purpose, data_class=who.data_class, tenant=told.get("tenant", ""), budget=who.budget,
                budget_left=who.budget,  # or admission had refused it
            ),
            output=output,
        )  # fmt: skip
        return self.policies.judge(asked, known.glasses)

    def _known(self, live: Live, aim: Aim) -> _Known:
        """Return the facts of one target, read once for a state of the registry, and again when they have aged."""
        epoch, now = self.home.registry_log().refresh(), self.facts.clock()
        if epoch != self._epoch:
            self._kept.clear()
            self._epoch = epoch
        key = (live.name, live.spec, aim.index)
        known = self._kept.get(key)
        if known is None or now >= known.until:
            used, glasses = used_of(aim.target), self.facts.waived(live.name)
            document = self.facts.document(
                "serve", deployment=live.name, used=used, actor=Actor(id="", kind="unknown", groups=()),
                allowed=[each.id for each in used], waived=glasses,
            )  # fmt: skip
            until = min((now + timedelta(seconds=self.ttl), *(parse_timestamp(glass.until) for glass in glasses)))
            known = self._kept[key] = _Known(document, glasses, until)
        return known

    def rule(self, live: Live, aim: Aim, bound: Assurance, who: Who, age: float) -> tuple[Judged, float]:
        """Decide, and say for how many seconds that is good. Raises: what reading the facts raises."""
        judged = self.judge(live, aim, bound, who, age)
        return judged, self.good(judged)

    def good(self, judged: Judged) -> float:
        """Return for how many seconds a decision is good."""
        good = self.ttl
        if any(reason.policy == "engine" for reason in judged.verdict.reasons):
            good = min(good, AGAIN)
        now = self.facts.clock()
        for glass in judged.broken:
            good = min(good, (parse_timestamp(glass.until) - now).total_seconds())
        return good

    def close(self) -> None:
        """Let go of engine and store."""
        self.policies.close()
        del self.policies  # an engine dies on the thread that it lived on
        self.home.close()


class Policing:
    """The rulings of one worker. `open_court` runs on the thread that the court stays on."""

    def __init__(
        self,
        open_court: Callable[[], Court],
        *,
        counters: Counters | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._open = open_court
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._counters = counters or Counters.create(None)
        self._clock = clock
        self._court: Court | None = None
        self._pending: dict[Key, asyncio.Future[Ruling]] = {}
        self._broken_until = float("-inf")
        self._turn = 0  # another set of policies has another one
        self.cuts = True  # answers of a model that is revoked while they stream

    async def start(self) -> None:
        """Load the policies. Raises: PolicyDenied, where they cannot be used or their engine is unfit."""
        self._court = await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        self._take(self._court)

    async def replace(self, open_court: Callable[[], Court]) -> None:
        """Decide by other policies from now on. Raises: as `start`, and then those before hold."""
        court = await asyncio.get_running_loop().run_in_executor(self._thread, open_court)
        before, self._court = self._court, court
        self._take(court)
        if before is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, before.close)

    async def stop(self) -> None:
        """Let go of the policies."""
        court, self._court = self._court, None
        if court is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, court.close)
        self._thread.shutdown()

    async def ask(self, question: Callable[[Court], T]) -> T:
        """Run `question` on the thread of the court."""
        court = self._court
        if court is None:
            raise StoreError("policy-closed", "the policies are not loaded")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: question(court))

    @property
    def turn(self) -> int:
        """Which policies decide now: other ones, another number."""
        return self._turn

    @property
    def set(self) -> PolicySet:
        """Those policies. Raises: StoreError `policy-closed`."""
        if self._court is None:
            raise StoreError("policy-closed", "the policies are not loaded")
        return self._court.policies.set

    def known(self, found: Found, aim: Aim, bound: Assurance, who: Who) -> Ruling | None:
        """Return the ruling on a call like this, if one is good now."""
        ruling: Ruling | None = found.rulings.get((self._turn, aim.index, bound, who.asks))
        return ruling if ruling is not None and ruling.until > self._clock() else None

    def good(self, ruling: Ruling) -> bool:
        """Say whether a ruling still counts, of somebody who had to wait after it."""
        return ruling.until > self._clock()

    @property
    def broken(self) -> bool:
        """Whether calls pass by a break-glass now."""
        return self._clock() < self._broken_until

    async def rule(self, found: Found, aim: Aim, bound: Assurance, who: Who, age: float) -> Ruling:
        """Ask the policies. Never raises: what cannot be answered is a no."""
        key: Key = (id(found), self._turn, aim.index, bound, who.asks)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = asyncio.ensure_future(self._rule(found, aim, bound, who, age))
            pending.add_done_callback(lambda _: self._pending.pop(key, None))
        return await asyncio.shield(pending)

    async def _rule(self, found: Found, aim: Aim, bound: Assurance, who: Who, age: float) -> Ruling:
        began, turn, live = self._clock(), self._turn, found.live
        if live is None:
            raise AssertionError("nothing is served there")
        try:
            judged, good = await self.ask(lambda court: court.rule(live, aim, bound, who, age))
        except Exception as error:  # noqa: BLE001 - what fails in a way of its own has not said yes
            code = error.code if isinstance(error, GenealogError) else "policy-error"
            log.error("%s cannot be decided on: %s", live.name, code)
            return Ruling(("", (), ()), _denied(live, no(code, "no decision could be made").reasons, ""), began)
        ruling = self._ruling(live, judged, began + good)
        if len(found.rulings) >= _MOST:
            found.rulings.clear()
        found.rulings[(turn, aim.index, bound, who.asks)] = ruling
        return ruling

    def _ruling(self, live: Live, judged: Judged, until: float) -> Ruling:
        verdict = judged.verdict
        flags, waived = tuple(dict.fromkeys(verdict.flags)), verdict.waived
        self._counters.add("decisions")
        denial = None if verdict.allow else _denied(live, verdict.reasons, judged.policy)
        headers: list[tuple[bytes, bytes]] = []
        if flags:
            headers.append((b"genealog-policy-flags", ", ".join(flags).encode()))
        if waived and denial is None:
            self._broken_until = max(self._broken_until, until)
            for glass in judged.broken:
                log.warning("BREAK-GLASS: calls to %s pass although policy says no: %s", live.name, glass)
            names = ", ".join(dict.fromkeys(glass.name for glass in judged.broken))
            headers.append((b"genealog-break-glass", names.encode("latin-1", "replace")))
        if denial is not None:
            log.info("policy denies calls to %s: %s", live.name, ", ".join(map(str, verdict.reasons)))
        return Ruling((judged.policy, flags, waived), denial, until, tuple(headers))

    def _take(self, court: Court) -> None:
        self._turn += 1
        self.cuts = court.cuts


def _denied(live: Live, reasons: tuple[Reason, ...], policy: str) -> ServeDenied:
    said = "; ".join(dict.fromkeys(reason.message for reason in reasons)) or "no policy allows it"
    code = reasons[0].code if reasons else "policy-undefined"
    error = ServeDenied(
        code, f"policy denies calls to {live.name}: {said}", got=", ".join(map(str, reasons)),
        hint=f"genealog policy explain serve {live.name} says what would have to be so",
    )  # fmt: skip
    error.reasons, error.policy = reasons, policy
    return error
