"""Release for applications that ask no gateway, or that make something else of an answer before people get it.

    import genealog

    found = genealog.release(text, call="01JD…", marked=["footer"])
    if not found.out:
        raise found.error()
    response.headers.update(found.headers)

The same decision, by the same policies, from the facts that the application and the store have. Nothing is recorded and
nothing is kept: what is `held` waits in the application, until the person whom it asks says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genealog.core.call import CallLeaf
from genealog.core.call_groups import RequestGroup, ResponseGroup, WhoGroup
from genealog.core.canonical import decode
from genealog.core.frames import Assurance
from genealog.core.ids import sha256_hex
from genealog.errors import MissingError, UsageError
from genealog.policy.decide import Policies
from genealog.policy.document import Actor, Call, Serving
from genealog.policy.facts import LEVELS, Facts, Used
from genealog.policy.release import ALLOWED, Released, output_of, released, standing
from genealog.store.home import Home


class Releases:
    """The decision on many outputs of one store. Not safe for two threads at once; `close` it at the end."""

    def __init__(self, home: Home) -> None:
        """Load the store's policies. Raises: as `Policies.open`."""
        self.home = home
        self.policies = Policies.open(home)
        self.facts = Facts(home, self.policies.set)

    def release(
        self, output: str | bytes, *, call: str | None = None, deployment: str | None = None,
        models: Sequence[str] = (), marked: Sequence[str] = (), purpose: str = "", data_class: str = "",
        detectors: Mapping[str, bool] | None = None,
    ) -> Released:  # fmt: skip
        """Say what becomes of an output: a whole body, or the text of an answer.

        `call`: the ID of the call that it came from, whose deployment, models and level then count. An output is on
        record if that call is, and said exactly this. Without one: `deployment` and `models` (names or IDs). `marked`:
        how the application marks it, of what its environment names; `detectors`: what looked at it → whether it found
        nothing. Never raises for a no. Raises: UsageError `bad-option`; MissingError `unknown-call`.
        """
        if call is None and (deployment is None or not models):
            raise UsageError("bad-option", "nobody can know what made this", expected="call, or deployment and models")
        recorded, assurance, tenant = False, None, ""
        if call is not None:
            recorded, assurance, tenant, deployment, models = self._call(output, call, deployment, models)
        name = deployment or ""
        here = standing(self.policies.set, name)
        if not here.asked:
            return ALLOWED
        used = tuple(self._used(model) for model in models)
        found = output_of(
            self.facts.models(*used), len(used), recorded=recorded, assurance=assurance,
            marked=not {*marked}.isdisjoint(here.marking), detectors=detectors,
        )  # fmt: skip
        glasses = self.facts.waived(name)
        document = self.facts.document(
            "release", deployment=name, used=used, actor=Actor(id="", kind="workload", groups=()), waived=glasses,
            allowed=[each.id for each in used],
            serving=Serving(minimum_assurance=0, assurance=LEVELS[assurance] if assurance else -1),
            call=Call(purpose=purpose, data_class=data_class, tenant=tenant, budget=False, budget_left=False),
            output=found,
        )  # fmt: skip
        return released(self.policies.judge(document, glasses).verdict, here.asked)

    def close(self) -> None:
        """Let go of the engine."""
        self.policies.close()

    def _used(self, model: str) -> Used:
        try:
            return Used(self.facts.registry.resolve(model).id)
        except MissingError:  # not registered: there it stands, without a good fact
            return Used(model)

    def _call(
        self, output: str | bytes, call: str, deployment: str | None, models: Sequence[str]
    ) -> tuple[bool, Assurance | None, str, str | None, Sequence[str]]:
        """Return whether the call said this, its level and tenant, its deployment and models."""
        ledger = self.facts.registry.ledger
        leaf = decode(ledger.entry(ledger.call(call)), CallLeaf)
        try:
            groups = self.home.vault.get_groups(call)
        except MissingError:  # erased, or another machine's: nobody can say that it said this
            return False, leaf.assurance, "", deployment, leaf.models or models
        request, response = decode(groups["request"][1], RequestGroup), decode(groups["response"][1], ResponseGroup)
        tenant = decode(groups["who"][1], WhoGroup).tenant or ""
        digest = sha256_hex(output.encode() if isinstance(output, str) else output)
        return digest in (response.wire, *response.text), leaf.assurance, tenant, request.deployment, leaf.models


def release(
    output: str | bytes, *, call: str | None = None, deployment: str | None = None, models: Sequence[str] = (),
    marked: Sequence[str] = (), purpose: str = "", data_class: str = "",
    detectors: Mapping[str, bool] | None = None, home: Home | None = None,
) -> Released:  # fmt: skip
    """Say what becomes of one output: as `Releases.release`, for the store at `home`, else the one that is found.

    Loads the policies each time: an application that asks often keeps a `Releases`.
    """
    releases = Releases(home or Home.find())
    try:
        return releases.release(
            output, call=call, deployment=deployment, models=models, marked=marked, purpose=purpose,
            data_class=data_class, detectors=detectors,
        )  # fmt: skip
    finally:
        releases.close()
        if home is None:
            releases.home.close()
