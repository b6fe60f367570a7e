"""The input of a decision, `genealog.policy/1`: facts, and nothing that a policy would have to verify.

All cryptography was done before, and every age was taken from one clock: a policy needs no built-in that can fail.
A fact that nobody looked at says so (`scanned: false`, state `unchecked`), because policies ask for good facts and not
for the absence of bad ones: leaving out any fact can only turn an allow into a deny. So no field has a default, what is
bad is counted instead of listed, and `subject.models` says how many models the decision is about.

Source: the page docs/reference/policy-input.md says the same for people who write policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from genealog.core.canonical import Record
from genealog.core.policy import Point


class Actor(Record):
    """Who wants it. `id` is the identity of the key that signs, of the principal that calls, or a Kubernetes user."""

    id: str
    kind: Literal["human", "ci", "workload", "principal", "unknown"]
    groups: tuple[str, ...]


class Env(Record):
    """Where: the environment that the deployment belongs to (`[policy.environments]`)."""

    name: str
    minimum_assurance: int  # 0 … 4
    sink: Literal["internal", "public"]


class Signed(Record):
    """Whose signatures over a model count. `own` are identities of this registry that state or sign it."""

    own: tuple[str, ...]
    foreign: tuple[str, ...]  # signers of OMS bundles that this store trusts and that verified
    contradicted: int  # signatures that were checked and are false


class Base(Record):
    """What an adapter or a fine-tune was made from."""

    needed: bool  # whether this is an adapter, which is nothing without its base
    state: str  # proven, stated, claimed, unchecked, missing, contradicted
    matches: bool  # the base that it is used on is the one that it was made for, bit for bit


class Lineage(Record):
    """How much is known of where a model comes from."""

    complete: bool  # the walk ended everywhere, and nothing was left out
    to_data: bool  # each training run on the way names the data it read
    contradicted: int  # edges that bytes refute


class Pickle(Record):
    """What loading the files would run."""

    scanned: bool
    unsafe: int  # files with opcodes that call what is not on the list


class EvaluationRun(Record):
    """The newest evaluation of one suite."""

    age_seconds: int
    succeeded: bool
    measurements: dict[str, str]  # exact decimals


class Approval(Record):
    """Somebody's approval of exactly this spec on this deployment."""

    by: str
    independent: bool  # neither who asks nor whoever made or registered the model


class Model(Record):
    """One model of the decision."""

    id: str
    name: str
    kind: str
    role: Literal["model", "base", "adapter", "external"]
    registered: bool
    revoked: bool
    tainted: bool  # descends from something revoked, and nobody allowed it
    signed: Signed
    base: Base
    lineage: Lineage
    licence: str  # empty: not known
    tier: str  # minimal, limited, high, systemic; empty: not assessed
    pickle: Pickle
    vendor: str  # empty: weights of one's own
    evaluations: dict[str, EvaluationRun]
    purposes: tuple[str, ...]
    data_classes: tuple[str, ...]


class Subject(Record):
    """What is decided about."""

    deployment: str
    models: int  # how many there are in `models`
    workload: bool  # a Kubernetes workload, so that there is `workload`; false where none is concerned


class RegistryState(Record):
    """The registry log that the facts were read at."""

    size: int
    root: str  # hex
    age_seconds: int  # since it was last looked at
    stale: bool  # it could not be looked at since


class Incidents(Record):
    """Whether an incident holds this deployment or one of these models."""

    checked: bool
    open: int


class Serving(Record):
    """How a deployment serves. At `load`, what the engine will."""

    minimum_assurance: int  # that the deployment demands
    assurance: int  # that its engine is bound at now; -1 where nothing is asked yet


class Call(Record):
    """One call, at `serve` and `release`."""

    purpose: str
    data_class: str
    tenant: str
    budget: bool  # the principal has one
    budget_left: bool  # … and there is something left of it


class Output(Record):
    """An answer, at `release`."""

    recorded: bool  # its intent is on record
    lineage_complete: bool  # of every model that made it
    assurance: int
    marked: bool  # as made by AI, by one of the environment's means
    detectors: tuple[str, ...]  # that looked at it and found nothing
    alarms: int  # detectors that found something, or did not come to an end


class Workload(Record):
    """What Kubernetes is asked to run, at `deploy`."""

    unresolved: int  # sources of models that are no registered model
    unpinned: int  # images of serving containers that are not named by digest
    remote_code: int  # containers that would run code of a model's repository
    open_loading: int  # containers that take models or adapters at run time, past every gate


class Input(Record):
    """The whole document. What a point does not need (`PARTS`) is absent: policies that ask for it deny."""

    v: Literal["genealog.policy/1"]
    point: Point
    now_ns: str  # Unix time, decimal
    actor: Actor
    env: Env
    subject: Subject
    models: tuple[Model, ...]
    registry: RegistryState
    incidents: Incidents
    approvals: tuple[Approval, ...]
    waived: tuple[str, ...]  # policies that an open break-glass puts aside
    serving: Serving | None = None
    call: Call | None = None
    output: Output | None = None
    workload: Workload | None = None

    def __post_init__(self) -> None:
        """Refuse more models than `subject` says. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if len(self.models) > self.subject.models:
            raise ValueError("`subject.models` says how many models there are")


PARTS: Mapping[Point, tuple[str, ...]] = {  # the optional parts that each point has; `workload` where there is one
    "deploy": ("serving", "workload"),
    "load": ("serving",),
    "serve": ("serving", "call"),
    "release": ("serving", "call", "output"),
    "promote": ("serving",),
}
