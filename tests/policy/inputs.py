"""Inputs that every default policy allows, one for each point, and what makes each of them say no.

good("serve")               the facts of a deployment with a base, an adapter and a vendor's model
bad() -> list of Bad        one change each: the policy that denies it, at which point, with which code
changed(document, {"models.1.revoked": True})
everything()                a policy set with every default policy in force in every environment
only("registered")          one with this policy alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from genealog.core.canonical import encode
from genealog.core.policy import POINTS, Point
from genealog.policy.document import (
    PARTS,
    Actor,
    Approval,
    Base,
    Call,
    Env,
    EvaluationRun,
    Incidents,
    Input,
    Lineage,
    Model,
    Output,
    Pickle,
    RegistryState,
    Serving,
    Signed,
    Subject,
    Workload,
)
from genealog.policy.sets import BASELINE, PolicySet, default_policies, make_set
from genealog.store.policy_settings import Environment, Evaluation
from genealog.store.policy_settings import Policy as Settings
from genealog.store.units import Seconds

ENVIRONMENT = "prod"
DEPLOYMENT = "prod/chat"
SETTINGS = Settings(
    approvals=2, vendors=("openai",), licences=("Apache-2.0", "MIT"),
    evaluations={
        "safety": Evaluation(newest=Seconds(86_400), minimum={"refusals": "0.95"}, maximum={"toxicity": "0.01"}),
        "quality": Evaluation(newest=Seconds(604_800), minimum={"exact_match": "0.7"}),
    },
)  # fmt: skip


def model(name: str, role: str = "model", **changes: Any) -> Model:
    """Return a model that every default policy allows."""
    facts: dict[str, Any] = {
        "id": "glf1:" + (name.encode().hex() + "0" * 64)[:64], "name": name, "kind": "model", "role": role,
        "registered": True, "revoked": False, "tainted": False,
        "signed": Signed(own=("alice@example.org", "ci@example.org"), foreign=(), contradicted=0),
        "base": Base(needed=role == "adapter", state="stated", matches=role == "adapter"),
        "lineage": Lineage(complete=True, to_data=True, contradicted=0),
        "licence": "apache-2.0", "tier": "high", "pickle": Pickle(scanned=True, unsafe=0), "vendor": "",
        "evaluations": {
            "safety": EvaluationRun(age_seconds=3_600, succeeded=True,
                                    measurements={"refusals": "0.97", "toxicity": "0.004"}),
            "quality": EvaluationRun(age_seconds=90_000, succeeded=True, measurements={"exact_match": "0.7"}),
        },
        "purposes": ("support", "search"), "data_classes": ("public", "internal"),
    }  # fmt: skip
    return Model(**{**facts, **changes})


MODELS = (
    model("acme/base", "base", evaluations={}, signed=Signed(own=(), foreign=("vendor@example.com",), contradicted=0)),
    model("acme/support-lora", "adapter", kind="adapter"),
    model(
        "openai/gpt-5", "external", kind="external-model", vendor="openai", tier="limited",
        lineage=Lineage(complete=False, to_data=True, contradicted=0), pickle=Pickle(scanned=False, unsafe=0),
    ),
)  # fmt: skip
_PARTS: dict[str, Any] = {
    "serving": Serving(minimum_assurance=2, assurance=3),
    "call": Call(purpose="support", data_class="internal", tenant="acme", budget=True, budget_left=True),
    "output": Output(
        recorded=True,
        lineage_complete=True,
        assurance=3,
        marked=True,
        alarms=0,
        detectors=("personal-data", "toxicity"),
    ),
    "workload": Workload(unresolved=0, unpinned=0, remote_code=0, open_loading=0),
}


def good(point: Point) -> Input:
    """Return an input that every default policy allows at this point."""
    return Input(
        v="genealog.policy/1", point=point, now_ns="1763812800000000000",
        actor=Actor(id="bob@example.org", kind="human", groups=("operators",)),
        env=Env(name=ENVIRONMENT, minimum_assurance=2, sink="public"),
        subject=Subject(deployment=DEPLOYMENT, models=len(MODELS), workload=point == "deploy"),
        models=MODELS,
        registry=RegistryState(size=4_711, root="5a" * 32, age_seconds=2, stale=False),
        incidents=Incidents(checked=True, open=0),
        approvals=(
            Approval(by="carol@example.org", independent=True), Approval(by="dan@example.org", independent=True),
            Approval(by="bob@example.org", independent=False),
        ),
        waived=(),
        **{part: _PARTS[part] for part in PARTS[point]},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bad:
    """An input that one policy denies. `changes`: path → value, as `changed` takes them."""

    policy: str
    point: Point
    code: str
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """What tests call it."""
        return f"{self.policy}-{self.point}-{','.join(f'{path}={value}' for path, value in self.changes.items())}"

    @property
    def document(self) -> Input:
        """The input."""
        return changed(good(self.point), self.changes)


def changed(document: Input, changes: dict[str, Any]) -> Input:
    """Return the document with other values at some paths, such as `models.0.revoked`."""
    plain = msgspec.json.decode(encode(document))
    for path, value in changes.items():
        *way, last = path.split(".")
        at = plain
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[int(last) if isinstance(at, list) else last] = value
    return msgspec.convert(plain, Input)


_CHANGES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("registered", "unregistered-model"): [{"models.1.registered": False}],
    ("registered", "model-not-signed"): [{"models.0.signed.foreign": []}, {"models.1.signed.own": []}],
    ("registered", "signature-contradicted"): [{"models.1.signed.contradicted": 1}],
    ("not_revoked", "model-revoked"): [{"models.0.revoked": True}, {"models.2.revoked": True}],
    ("not_revoked", "model-tainted"): [{"models.1.tainted": True}],
    ("base_matches", "wrong-base"): [{"models.1.base.matches": False}, {"models.0.base.state": "contradicted"}],
    ("base_matches", "base-unknown"): [{"models.1.base.state": "missing"}, {"models.1.base.state": "unchecked"}],
    ("lineage_complete", "lineage-incomplete"): [
        {"models.0.lineage.complete": False}, {"models.2.tier": ""}, {"models.2.tier": "systemic"},
    ],
    ("lineage_complete", "lineage-contradicted"): [{"models.1.lineage.contradicted": 2}],
    ("lineage_complete", "no-data-lineage"): [{"models.1.lineage.to_data": False}],
    ("minimum_assurance", "assurance-too-low"): [{"env.minimum_assurance": 4}],
    ("evaluated", "evaluation-missing"): [
        {"models.1.evaluations": {}}, {"models.2.evaluations.safety.measurements": {}},
    ],
    ("evaluated", "evaluation-stale"): [{"models.1.evaluations.safety.age_seconds": 86_401}],
    ("evaluated", "evaluation-failed"): [{"models.2.evaluations.quality.succeeded": False}],
    ("evaluated", "evaluation-below-bound"): [
        {"models.1.evaluations.quality.measurements.exact_match": "0.699"},
        {"models.1.evaluations.safety.measurements.toxicity": "0.011"},
    ],
    ("four_eyes", "approvals-missing"): [
        {"approvals": []}, {"approvals.0.independent": False}, {"approvals.0.by": "dan@example.org"},
    ],
    ("licence_allowed", "licence-not-allowed"): [{"models.0.licence": "llama3.1"}],
    ("licence_allowed", "licence-unknown"): [{"models.1.licence": ""}],
    ("safe_pickle", "pickle-unsafe"): [{"models.0.pickle.unsafe": 3}],
    ("safe_pickle", "pickle-unchecked"): [{"models.1.pickle.scanned": False}],
    ("vendor_allowed", "vendor-not-allowed"): [{"models.2.vendor": "elsewhere"}, {"models.2.vendor": ""}],
    ("within_budget", "budget-missing"): [{"call.budget": False, "call.budget_left": False}],
    ("within_budget", "budget-spent"): [{"call.budget_left": False}],
    ("purpose_allowed", "purpose-missing"): [{"call.purpose": ""}],
    ("purpose_allowed", "purpose-not-allowed"): [{"call.purpose": "hiring"}, {"models.0.purposes": []}],
    ("purpose_allowed", "data-class-not-allowed"): [{"call.data_class": "health"}, {"call.data_class": ""}],
    ("no_incident", "incident-open"): [{"incidents.open": 1}],
    ("no_incident", "incidents-unchecked"): [{"incidents.checked": False}],
    ("traceable", "output-without-lineage"): [{"output.lineage_complete": False}],
    ("traceable", "output-not-recorded"): [{"output.recorded": False}],
    ("clean", "output-alarm"): [{"output.alarms": 1}],
    ("clean", "output-not-looked-at"): [{"output.detectors": ["toxicity"]}, {"output.detectors": []}],
    ("registry_fresh", "registry-stale"): [{"registry.stale": True}, {"registry.age_seconds": 61}],
    ("workload_safe", "unresolved-model"): [{"workload.unresolved": 1}],
    ("workload_safe", "image-not-pinned"): [{"workload.unpinned": 1}],
    ("workload_safe", "remote-code"): [{"workload.remote_code": 1}],
    ("workload_safe", "open-loading"): [{"workload.open_loading": 1}],
}  # fmt: skip
_AT_ONE_POINT: list[Bad] = [
    Bad("minimum_assurance", "deploy", "assurance-too-low", {"serving.minimum_assurance": 1}),
    Bad("minimum_assurance", "serve", "assurance-too-low", {"serving.assurance": 1}),
    Bad("minimum_assurance", "serve", "assurance-too-low", {"serving.assurance": -1, "env.minimum_assurance": 0}),
    Bad("minimum_assurance", "release", "assurance-too-low", {"output.assurance": 1}),
    Bad("marked", "release", "not-marked", {"output.marked": False}),
]


def bad() -> list[Bad]:
    """Return every way to be denied that a default policy has a code for, at each of its points."""
    points = {name: policy.points for name, policy in default_policies().items()}
    found = [
        Bad(policy, point, code, changes)
        for (policy, code), each in _CHANGES.items()
        for changes in each
        for point in points[policy]
    ]
    return found + _AT_ONE_POINT


def everything() -> PolicySet:
    """Return a set with every default policy in force, and marking by a header."""
    return _set(*default_policies())


def only(*names: str) -> PolicySet:
    """Return a set where just these policies are in force."""
    return _set(*names)


def _set(*names: str) -> PolicySet:
    off = {name for point in POINTS for name in BASELINE[point]} - set(names)
    environment = Environment(
        deny=names, off=tuple(sorted(off)), minimum_assurance="A2", sink="public", marking=("header",),
        detectors=("personal-data", "toxicity"),
    )  # fmt: skip
    settings = msgspec.structs.replace(SETTINGS, environments={ENVIRONMENT: environment})
    return make_set(default_policies(), settings)
