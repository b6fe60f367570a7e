"""Where a deployment is moved, policy is asked: at `deploy` and at `promote`, while nobody else may append.

What a policy says stands in the log: a yes right before the move, in the same batch; a no alone. A rollback is no
decision point: what it goes back to was decided, and whoever is in trouble must be able to go back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from functools import cached_property
from typing import Literal

from sqlalchemy import func, select

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.deploy.approvals import Approvals, Given
from genealog.deploy.moves import Move
from genealog.deploy.resting import FOUR_EYES, Resting
from genealog.errors import PolicyDenied
from genealog.policy.break_glass import Glass
from genealog.policy.decide import Policies
from genealog.policy.document import Actor, Input, Serving
from genealog.policy.facts import LEVELS, Facts, used_by
from genealog.policy.sets import load_set
from genealog.registry import Body
from genealog.store import schema
from genealog.store.config import Config
from genealog.store.home import REGISTRY, Home
from genealog.store.vault.patterns import fits

_NEXT = {  # what whoever asked can do about a no, by its code
    "approvals-missing": "genealog approve {name} --from WHERE-IT-IS-TRIED --as LABEL, then genealog promote",
    "licence-unknown": "genealog assess MODEL --licence SPDX",
    "evaluation-missing": "genealog run --kind evaluate --name SUITE --input model=MODEL -- COMMAND",
    "evaluation-stale": "genealog run --kind evaluate --name SUITE --input model=MODEL -- COMMAND",
    "model-not-signed": "genealog sign MODEL",
    "incident-open": "genealog incident ls",
    "not-marked": "`marking` in [policy.environments.…]",
}
log = logging.getLogger("genealog.policy")


class Gate:
    """The policies of one store as they guard its deployments. Opened when first asked, and again with new settings.

    `tell` is called with each break-glass that an answer needed.
    """

    def __init__(
        self, home: Home, approvals: Approvals, clock: Callable[[], datetime], tell: Callable[[Glass], None]
    ) -> None:
        self._home = home
        self._approvals = approvals
        self._clock = clock
        self._tell = tell
        self._config: Config | None = None
        self._judged: tuple[object, dict[tuple[str, str], str | None]] = (None, {})

    def ask(
        self, point: Literal["deploy", "promote"], name: str, spec: records.ServingSpec, *, signer: Signer,
        said: Iterable[Given], allowed: Collection[str] = (),
    ) -> list[Body]:  # fmt: skip
        """Ask whether `name` may get `spec`, and return what stands before the move. The caller alone may append.

        `said` is what was said of it, of which some counts; `allowed` are tainted models that somebody allowed.
        Raises: PolicyDenied with the first reason's code, `policy-engine-missing` and the like; the no is in the log.
        """
        self._fresh()
        registry = self._approvals.registry
        try:
            policies, facts = self._policies, self._facts
        except PolicyDenied as error:
            registry.append_all([self._unasked(point, name, error)], signer=signer)
            raise
        glasses = facts.waived(name)
        document = moving(facts, point, name, spec, facts.actor(signer.keyid), said, allowed=allowed, waived=glasses)
        judged = policies.judge(document, glasses)
        bodies = policies.bodies(registry, judged, name, timestamp(self._clock()))
        if not judged.verdict.allow:
            position = registry.append_all(bodies, signer=signer)[-1]
            hint = f"why: genealog policy explain {position}"
            if (then := _NEXT.get(judged.verdict.code)) is not None:
                hint += f"; then: {then.format(name=name)}"
            raise judged.verdict.denied(name, hint=hint)
        for glass in judged.broken:
            self._tell(glass)
        return bodies

    def unapproved(self, name: str, head: Move | None, moves: Callable[[], list[Move]]) -> str | None:
        """Say why the last of the moves that count rests on too few approvals. `head` is that move, if it is known."""
        resting = self._rests(name)
        if resting is None:
            return None
        entry = schema.entry
        said = [records.TYPES[kind] for kind in (records.Approval, records.Key, records.BreakGlass)]
        newest = select(func.max(entry.c.id).label("id")).where(entry.c.predicate.in_(said))
        state = (self._approvals.registry.ledger.index(REGISTRY).first(newest), self._config)
        if self._judged[0] != state:
            self._judged = (state, {})
        key = (name, head.leaf if head is not None else "")
        if head is None or key not in self._judged[1]:
            self._judged[1][key] = resting.unapproved(name, moves())
        return self._judged[1][key]

    def _rests(self, name: str) -> Resting | None:
        """Return who judges the moves of a deployment; None where no approvals are asked for. Needs no engine."""
        self._fresh()
        config = self._home.config
        may = any(fits(name, rule.deployment) for rule in config.approvals)
        may = may or any(FOUR_EYES in environment.deny for environment in config.policy.environments.values())
        return self._resting if may and self._resting.asked(name) else None

    def _unasked(self, point: Literal["deploy", "promote"], name: str, error: PolicyDenied) -> Body:
        """Return the decision where no policy could be asked: no."""
        body = records.Decision(
            point=point, outcome="deny", code=error.code, subject=name, message=str(error)[:1_000],
            at=timestamp(self._clock()),
        )  # fmt: skip
        return body, name, None

    def _fresh(self) -> None:
        """Forget what was made of other settings."""
        if self._config is not self._home.config:
            if (policies := self.__dict__.pop("_policies", None)) is not None:
                policies.close()
            for made in ("_facts", "_resting"):
                self.__dict__.pop(made, None)
            self._config = self._home.config

    @cached_property
    def _policies(self) -> Policies:
        return Policies.open(self._home)

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self._home, load_set(self._home.config, self._home.path), clock=self._clock)

    @cached_property
    def _resting(self) -> Resting:
        return Resting(self._approvals, self._facts)


def moving(
    facts: Facts, point: Literal["deploy", "promote"], name: str, spec: records.ServingSpec, actor: Actor,
    said: Iterable[Given], *, allowed: Collection[str] = (), waived: Iterable[Glass] | None = None,
) -> Input:  # fmt: skip
    """Return what policy is asked when `name` shall get `spec`. `said` is what was said of it, of which some counts."""
    return facts.document(
        point, deployment=name, used=used_by(spec), actor=actor, allowed=allowed, waived=waived,
        approvals=[each.identity for each in said if each.void is None],
        serving=Serving(minimum_assurance=LEVELS[spec.minimum_assurance], assurance=-1),
    )  # fmt: skip


def log_broken(glass: Glass) -> None:
    """Log, as a warning, a break-glass that an answer needed."""
    log.warning("break-glass %s", glass)
