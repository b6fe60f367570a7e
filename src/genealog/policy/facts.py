"""Facts: from what the registry holds to the input of a decision. Everything that had to be verified was verified.

What is known of a model is read once for each state of the registry and kept while nothing changes that could change
it: heartbeats, heads of other logs, loads and decisions do not. Ages are taken when a document is made, from one clock;
what says that it lies in the future is as old as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import or_, select

from genealog.core import records
from genealog.core.canonical import MAX_INTEGER, parse_timestamp
from genealog.core.policy import Point
from genealog.core.states import State
from genealog.custody.contradictions import contradicted
from genealog.errors import MalformedError, MissingError
from genealog.policy.break_glass import SKEW, BreakGlasses, Glass
from genealog.policy.document import (
    Actor,
    Approval,
    Base,
    Call,
    Env,
    EvaluationRun,
    Incidents,
    Input,
    Model,
    Output,
    RegistryState,
    Serving,
    Subject,
    Workload,
)
from genealog.policy.model_facts import Known, Reader, revocations
from genealog.policy.sets import PolicySet
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

Role = Literal["model", "base", "adapter", "external"]
Kind = Literal["human", "ci", "workload", "principal", "unknown"]
_SILENT = (  # what they state changes nothing that is known of a model
    records.Heartbeat, records.LogHead, records.Load, records.Decision, records.GapNote, records.DecisionLog,
    records.Review, records.Drift, records.Hold, records.Tombstone, records.Approval, records.BreakGlass,
)  # fmt: skip
LEVELS = {"A0": 0, "A1": 1, "A2": 2, "A3": 3, "A4": 4}


@dataclass(frozen=True, slots=True)
class Used:
    """A model that a decision is about: by its ID, what for, and with `on` the base (ID, weights ID) that it is on."""

    id: str
    role: Role = "model"
    on: tuple[str, str | None] | None = None


def used_by(spec: records.ServingSpec) -> tuple[Used, ...]:
    """Return every model of a serving spec as it is used there, each use once."""
    return tuple(dict.fromkeys(each for target in spec.targets for each in used_of(target)))


def used_of(target: records.Target) -> tuple[Used, ...]:
    """Return the models of one target as they are used there."""
    on = (target.model.artifact, target.model.weights)
    first = Used(target.model.artifact, "base" if target.adapters else "model")
    return tuple(dict.fromkeys((first, *(Used(adapter.artifact, "adapter", on) for adapter in target.adapters))))


class Facts:
    """The facts of one store, for one policy set. `clock` tells the time. Not safe for two threads at once."""

    def __init__(
        self, home: Home, policies: PolicySet, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.home = home
        self.policies = policies
        self.clock = clock
        self.registry = Registry(home)
        self.glasses = BreakGlasses(home, clock=clock)
        self._reader = Reader(self.registry)
        self._epoch = -2
        self._known: dict[str, Known] = {}
        self._refuted: dict[str, str] = {}
        self._revoked: dict[str, str] = {}
        self._root: tuple[int, str] = (-1, "")

    def epoch(self) -> int:
        """Return the newest registry entry that can change what is known of a model; -1 in an empty log."""
        table = schema.entry
        silent = [records.TYPES[kind] for kind in _SILENT]
        query = select(table.c.id).where(or_(table.c.predicate.is_(None), table.c.predicate.not_in(silent)))
        row = self.registry.ledger.index(REGISTRY).first(query.order_by(table.c.id.desc()))
        return row["id"] if row is not None else -1

    def models(self, *used: Used | str, allowed: Collection[str] = ()) -> tuple[Model, ...]:
        """Return the facts of models, one for each that is asked for, in order. A text is a registry ref.

        `allowed` are descendants of something revoked that somebody allowed. What nobody registered is there too, and
        has no good facts.
        """
        self._refresh()
        now = self.clock()
        return tuple(self._model(self._use(each) if isinstance(each, str) else each, allowed, now) for each in used)

    def makers(self, used: Iterable[Used]) -> frozenset[str]:
        """Return the identities that registered any of these models, or ran what made one."""
        self._refresh()
        return frozenset(who for each in used for who in self._about(each.id).makers)

    def registry_state(self, *, age: float = 0.0, stale: bool = False) -> RegistryState:
        """Return where the registry log stands. `age` is in seconds, since it was last looked at: now, if not said."""
        self.registry.ledger.index(REGISTRY)
        log = self.home.registry_log()
        if self._root[0] != log.size:
            self._root = (log.size, log.root().hex())
        size, root = self._root
        return RegistryState(size=size, root=root, age_seconds=max(0, int(age)), stale=stale)

    def incidents(self, deployment: str, models: Iterable[str] = ()) -> Incidents:
        """Count the open incidents of a deployment, or of one of these models (IDs)."""
        table, wanted = schema.incident, set(models)
        open_: dict[str, dict[str, Any]] = {}
        over = set()
        for row in self.registry.ledger.index(REGISTRY).rows(select(table).order_by(table.c.id)):
            if row["action"] == "open":
                open_.setdefault(row["name"], row)
            else:
                over.add(row["name"])
        hold = [
            name
            for name, row in open_.items()
            if name not in over and (row["deployment"] == deployment or wanted & set(row["artifacts"].split()))
        ]
        return Incidents(checked=True, open=len(hold))

    def waived(self, deployment: str) -> tuple[Glass, ...]:
        """Return the break-glasses that are open for a deployment now."""
        return self.glasses.open_now(deployment)

    def env(self, deployment: str) -> Env:
        """Return the environment that a deployment belongs to."""
        name = self.policies.environment_of(deployment)
        environment = self.policies.environments[name]
        return Env(name=name, minimum_assurance=LEVELS[environment.minimum_assurance], sink=environment.sink)

    def actor(self, keyid: str, *, kind: Kind = "unknown") -> Actor:
        """Return whose key this is, as the registry knows it."""
        row = self.registry.keys().get(keyid)
        return Actor(id=row.identity if row is not None else "", kind=kind, groups=())

    def document(
        self,
        point: Point,
        *,
        deployment: str,
        used: Sequence[Used],
        actor: Actor,
        approvals: Iterable[str] = (),
        allowed: Collection[str] = (),
        registry: RegistryState | None = None,
        waived: Iterable[Glass] | None = None,
        serving: Serving | None = None,
        call: Call | None = None,
        output: Output | None = None,
        workload: Workload | None = None,
    ) -> Input:
        """Put the input of a decision together. `approvals` are the identities whose approvals of it count."""
        models = self.models(*used, allowed=allowed)
        makers = self.makers(used)
        subject = Subject(deployment=deployment, models=len(used), workload=workload is not None)
        glasses = self.waived(deployment) if waived is None else waived
        return Input(
            v="genealog.policy/1", point=point, now_ns=str(int(self.clock().timestamp() * 1_000_000) * 1_000),
            actor=actor, env=self.env(deployment), subject=subject, models=models,
            registry=registry or self.registry_state(),
            incidents=self.incidents(deployment, [each.id for each in used]),
            approvals=tuple(
                Approval(by=who, independent=who != actor.id and who not in makers) for who in dict.fromkeys(approvals)
            ),
            waived=tuple(sorted({name for glass in glasses for name in glass.policies})),
            serving=serving, call=call, output=output, workload=workload,
        )  # fmt: skip

    def _refresh(self) -> None:
        epoch = self.epoch()
        if epoch != self._epoch:
            index = self.registry.ledger.index(REGISTRY)
            self._refuted, self._revoked = contradicted(index), revocations(index)
            self._known.clear()
            self._epoch = epoch

    def _about(self, artifact: str) -> Known:
        if artifact not in self._known:
            self._known[artifact] = self._reader.known(artifact, refuted=self._refuted, revoked=self._revoked)
        return self._known[artifact]

    def _use(self, ref: str) -> Used:
        try:
            return Used(self.registry.resolve(ref).id)
        except MissingError:
            return Used(ref)

    def _model(self, used: Used, allowed: Collection[str], now: datetime) -> Model:
        known = self._about(used.id)
        return Model(
            id=known.id, name=known.name, kind=known.kind, role="external" if known.external else used.role,
            registered=known.registered, revoked=known.revoked, tainted=known.tainted and known.id not in allowed,
            signed=known.signed, base=_base(known, used), lineage=known.lineage, licence=known.licence, tier=known.tier,
            pickle=known.pickle, vendor=known.vendor,
            evaluations={
                suite: EvaluationRun(
                    age_seconds=age_of(run.ended_at, now), succeeded=run.succeeded, measurements=run.measurements
                )
                for suite, run in known.evaluations.items()
            },
            purposes=known.purposes, data_classes=known.data_classes,
        )  # fmt: skip


def age_of(at: str, now: datetime) -> int:
    """Return how many seconds ago `at` was; of a time that lies ahead, or is none, as many as there can be."""
    try:
        passed = now - parse_timestamp(at)
    except MalformedError:
        return MAX_INTEGER
    return MAX_INTEGER if passed < -SKEW else max(0, int(passed.total_seconds()))


def _base(known: Known, used: Used) -> Base:
    """Judge the base that a model is used on by the one that it was made for."""
    needed = known.kind == "adapter" or used.role == "adapter" or not known.registered
    named = known.made_for
    matches = (
        used.on is not None
        and named is not None
        and known.base_state != State.CONTRADICTED
        and used.on[0] == named.artifact
        and named.weights in (None, used.on[1])
    )
    return Base(needed=needed, state=known.base_state, matches=matches)
