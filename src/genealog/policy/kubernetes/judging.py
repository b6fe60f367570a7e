"""From a workload to a decision: its sources are looked up in the registry, and the store's policies are asked.

A source is resolved by what the registry has on record: the ID, the name, or the `--source` that a model was added
with. The annotation `genealog.dev/model-id` is a claim: it chooses between versions of one source, and everything in it
has to be served. It stands for bytes on a volume only where whoever runs this allows that.

Names are judged here, and no bytes: those are hashed where a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec import structs
from sqlalchemy import select

from genealog.core.canonical import timestamp
from genealog.errors import MissingError
from genealog.policy import document
from genealog.policy.decide import Judged, Policies
from genealog.policy.document import Actor, Serving
from genealog.policy.facts import LEVELS, Facts, Used
from genealog.policy.kubernetes.sources import Found, Source, find
from genealog.policy.kubernetes.workloads import ANNOTATION, Workload
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

UNRESOLVED = "unresolved-model"
ID = re.compile(r"gl[fr]1:[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Resolved:
    """What the sources of a workload are: models with their use, and what is no registered model, with why."""

    used: tuple[Used, ...] = ()
    of: tuple[tuple[Source, str], ...] = ()
    unresolved: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A workload, judged. `judged` is None where it serves no model that anybody could name: nothing was asked."""

    workload: Workload
    found: Found
    resolved: Resolved = field(default_factory=Resolved)
    judged: Judged | None = None

    @property
    def allow(self) -> bool:
        """Whether it may run."""
        return self.judged is None or self.judged.verdict.allow

    @property
    def code(self) -> str:
        """The first reason's code, but an unknown model before all; `no-model` where nothing was asked."""
        if self.judged is None:
            return "no-model"
        reasons = [reason.code for reason in self.judged.verdict.reasons]
        return UNRESOLVED if UNRESOLVED in reasons else self.judged.verdict.code

    @property
    def details(self) -> tuple[str, ...]:
        """Where in the object the facts stand that policies may say no to."""
        found = self.found
        return (
            *(f"{where}: {why}" for where, why in self.resolved.unresolved),
            *(f"{where}: not named by digest" for where in found.unpinned),
            *(f"{where}: runs code of a model's repository" for where in found.remote_code),
            *(f"{where}: takes models while it runs" for where in found.open_loading),
        )


class Admission:
    """Judges workloads by the policies of one store. Not safe for two threads at once.

    `images` are further patterns of serving images; `annotated_volumes`: annotations stand for what is on a volume.
    """

    def __init__(
        self, home: Home, policies: Policies, *, images: Sequence[str] = (), annotated_volumes: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.home, self.policies, self.clock = home, policies, clock
        self.images, self.annotated_volumes = tuple(images), annotated_volumes
        self.registry = Registry(home)
        self.facts = Facts(home, policies.set, clock=clock)

    def judge(self, workload: Workload, *, actor: Actor, environment: str | None = None) -> Answer:
        """Decide whether a workload may run. Writes nothing.

        `environment` is one of the settings, instead of the one that the workload's `NAMESPACE/NAME` belongs to.
        Raises: MissingError `no-policy-environment`; what reading the store raises.
        """
        self.home.registry_log().refresh()
        found = find(workload, images=self.images)
        resolved = self._resolve(workload, found)
        if workload.is_runtime and not found.sources and not workload.claimed:
            return Answer(workload, found)  # its pods have the model, and are judged
        if not found.serves and not workload.claimed:
            return Answer(workload, found)
        glasses = self.facts.waived(workload.deployment)
        asked = self.facts.document(
            "deploy", deployment=workload.deployment, used=resolved.used, actor=actor, waived=glasses,
            serving=Serving(minimum_assurance=0, assurance=-1),
            workload=document.Workload(
                unresolved=len(resolved.unresolved), unpinned=len(found.unpinned), remote_code=len(found.remote_code),
                open_loading=len(found.open_loading),
            ),
        )  # fmt: skip
        if environment is not None:
            asked = structs.replace(asked, env=self._environment(environment))
        return Answer(workload, found, resolved, self.policies.judge(asked, glasses))

    def record(self, answer: Answer) -> None:
        """Put a decision into the registry log. Raises: as `Registry.append_all`."""
        if answer.judged is not None:
            subject, at = answer.workload.deployment, timestamp(self.clock())
            bodies = self.policies.bodies(self.registry, answer.judged, subject, at)
            self.registry.append_all(bodies, signer=self.registry.signer())

    def _environment(self, name: str) -> document.Env:
        if name not in self.policies.set.environments:
            raise MissingError(
                "no-policy-environment", "there is no such environment", got=name,
                expected=", ".join(sorted(self.policies.set.environments)), hint="genealog policy ls",
            )  # fmt: skip
        chosen = self.policies.set.environments[name]
        return document.Env(name=name, minimum_assurance=LEVELS[chosen.minimum_assurance], sink=chosen.sink)

    def _resolve(self, workload: Workload, found: Found) -> Resolved:
        of: list[tuple[Source, str]] = []
        unresolved: list[tuple[str, str]] = []
        open_: list[Source] = []
        for source in found.sources:
            known = self._known(source.names)
            chosen = [each for each in known if each in workload.claimed] if len(known) > 1 else known
            if len(chosen) == 1:
                of.append((source, chosen[0]))
            elif len(known) > 1:
                unresolved.append((source.where, f"{source.shown} is {len(known)} registered models: {ANNOTATION}"))
            else:
                open_.append(source)
        left = [each for each in workload.claimed if each not in {artifact for _, artifact in of}]
        bad = [each for each in left if not ID.match(each)]
        unresolved += [(ANNOTATION, f"{each[:80] or 'nothing'} is no ID of a model") for each in bad]
        left = [each for each in left if ID.match(each)]
        if len(left) == 1 and len(open_) == 1 and open_[0].volume and self.annotated_volumes:
            of.append((open_.pop(), left.pop()))
        unresolved += [(each.where, f"{each.shown or 'a model'} is no registered model") for each in open_]
        if found.serves:
            unresolved += [(ANNOTATION, f"{each} is not what is served here") for each in left]
        strangers = tuple(Used((each.shown or each.where)[:200]) for each in open_)  # models that nobody registered
        used = (*self._used(of, () if found.serves else left), *strangers)
        return Resolved(tuple(dict.fromkeys(used)), tuple(of), tuple(unresolved))

    def _known(self, names: Sequence[str]) -> list[str]:
        """Return the IDs that the first of these texts to be known stands for."""
        for name in names:
            if ID.match(name):
                return [name] if self._registered(name) else []
            move = self.registry.last_ref("name", name)
            if move is not None:
                return [move["to"]]
            table = schema.artifact
            query = select(table.c.digest).where(table.c.source == name, table.c.entry.is_not(None))
            rows = self.registry.ledger.index(REGISTRY).rows(query.order_by(table.c.id))
            if rows:
                return [row["digest"] for row in rows]
        return []

    def _registered(self, artifact: str) -> bool:
        table = schema.artifact
        query = select(table.c.id).where(table.c.digest == artifact, table.c.entry.is_not(None))
        return self.registry.ledger.index(REGISTRY).first(query) is not None

    def _used(self, of: Sequence[tuple[Source, str]], claimed: Sequence[str]) -> tuple[Used, ...]:
        bases = list(dict.fromkeys(artifact for source, artifact in of if source.role == "model"))
        adapters = list(dict.fromkeys(artifact for source, artifact in of if source.role == "adapter"))
        asides = [artifact for source, artifact in of if source.role == "aside" and artifact not in bases]
        on = None
        if len(bases) == 1 and self._registered(bases[0]):
            on = (bases[0], self.registry.resolve(bases[0]).weights)
        return tuple(
            dict.fromkeys((
                *(Used(each, "base" if adapters else "model") for each in bases),
                *(Used(each, "adapter", on) for each in adapters),
                *(Used(each) for each in (*asides, *claimed)),
            ))
        )  # fmt: skip
