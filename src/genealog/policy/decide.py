"""Decisions: a policy set in its engine, asked; and what becomes of the answer in the log.

`Policies.judge` never raises for a no: an engine that fails, or gives nothing that may be believed, has said no, with a
code. Who asks raises `verdict.denied(…)`. A decision that is recorded names the policy set by its ID and the input by
its digest; both are kept as objects, so that anybody can ask again and hold the record to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex
from genealog.core.manifest import encode_manifest
from genealog.core.policy import Verdict, no, read_verdict
from genealog.errors import GenealogError
from genealog.policy.break_glass import Glass
from genealog.policy.document import Input
from genealog.policy.engines import open_engine
from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet, load_set
from genealog.registry import Body, Registry
from genealog.store import schema
from genealog.store.config import Config
from genealog.store.home import REGISTRY, Home

KIND = "policy"  # of the artifact that a policy set is
MOST = 1_000  # characters of a message in the log


@dataclass(frozen=True)
class Judged:
    """A decision: what was asked, what came of it, by which policy set (ID) and engine; the break-glasses then open."""

    document: Input
    verdict: Verdict
    policy: str
    engine: str
    glasses: tuple[Glass, ...] = ()

    @cached_property
    def input(self) -> bytes:
        """The canonical bytes of the document."""
        return encode(self.document)

    @property
    def broken(self) -> tuple[Glass, ...]:
        """The break-glasses that this decision needed."""
        return tuple(glass for glass in self.glasses if set(glass.policies) & set(self.verdict.waived))

    def decision(self, subject: str, at: str) -> records.Decision:
        """Return the statement of this decision about `subject`."""
        verdict, registry = self.verdict, self.document.registry
        said = "; ".join(dict.fromkeys(reason.message for reason in verdict.reasons))
        message = "allowed" if verdict.allow else said or "no policy allows it"
        if verdict.allow and verdict.waived:
            message = f"allowed, with {', '.join(verdict.waived)} put aside"
        return records.Decision(
            point=self.document.point, outcome="allow" if verdict.allow else "deny", code=verdict.code, subject=subject,
            message=message[:MOST], at=at, policy=self.policy, engine=self.engine, input=sha256_hex(self.input),
            registry=f"{registry.size}:{registry.root}",
            reasons=tuple(dict.fromkeys(str(reason) for reason in verdict.reasons)),
            flags=tuple(dict.fromkeys(verdict.flags)), waived=verdict.waived,
            break_glass=tuple(dict.fromkeys(glass.name for glass in self.broken)),
        )  # fmt: skip


class Policies:
    """One store's policy set, loaded in its engine; cheap to ask again. Safe for several threads: they wait."""

    def __init__(self, policies: PolicySet, engine: Engine) -> None:
        self.set = policies
        self.engine = engine
        self._lock = Lock()

    @classmethod
    def open(cls, home: Home, *, config: Config | None = None) -> Policies:
        """Load the set that the settings make, in the engine that they name.

        Raises: PolicyDenied `policy-engine-unfit`, `policy-engine-missing`, `policy-malformed`; as `load_set`.
        """
        config = config or home.config
        policies = load_set(config, home.path)
        return cls(policies, open_engine(config.policy, policies))

    def judge(self, document: Input, glasses: Sequence[Glass] = ()) -> Judged:
        """Decide. `glasses` are the break-glasses that `document.waived` rests on: decisions name them."""
        return Judged(document, self._verdict(document), self.set.id, self.engine.name, tuple(glasses))

    def _verdict(self, document: Input) -> Verdict:
        asked = self.set.asked(document.env.name, document.point)
        waived = self.set.breakable.intersection(document.waived)
        try:
            with self._lock:
                answer = self.engine.evaluate(encode(document))
        except GenealogError as error:
            return no(error.code, f"{error.message}{f' ({error.got})' if error.got else ''}")
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            # an engine that fails in a way of its own, or panics, has not said yes
            return no("policy-error", f"the policy engine failed: {type(error).__name__}")
        return read_verdict(answer, asked, waived)

    def bodies(self, registry: Registry, judged: Judged, subject: str, at: str) -> list[Body]:
        """Keep what a recorded decision names, and return what goes into the log: the set if it is new there, then it.

        Raises: StoreError as the objects.
        """
        registry.home.objects.put(judged.input)
        return [*self.registration(registry, at), (judged.decision(subject, at), subject, None)]

    def registration(self, registry: Registry, at: str) -> Iterable[Body]:
        """Return the statement that registers the set, its files kept as objects; nothing where it is registered."""
        table = schema.artifact
        known = select(table.c.id).where(table.c.digest == self.set.id, table.c.entry.is_not(None))
        if registry.ledger.index(REGISTRY).first(known) is not None:
            return ()
        objects, files = registry.home.objects, self.set.files
        for data in files.values():
            objects.put(data)
        manifest = encode_manifest(self.set.manifest.files)
        body = records.Artifact(
            kind=KIND, registered_at=at, files=len(files), size=sum(map(len, files.values())), format="files",
            manifest=records.Blob(sha256=objects.put(manifest), size=len(manifest)),
        )  # fmt: skip
        return ((body, KIND, self.set.id),)

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.close()
