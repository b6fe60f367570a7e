"""Policy engines, one a file; `open_engine` gives the one of the settings. `policy.port` says what each can do."""

from __future__ import annotations

from genealog.policy import forbidden, self_test, trial
from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet
from genealog.store.policy_settings import Policy as Settings


def open_engine(settings: Settings, policies: PolicySet) -> Engine:
    """Load a policy set in the engine that the settings name, after that engine has shown that it can be believed.

    Raises: MissingError `extra-not-installed`; PolicyDenied `policy-malformed`, `policy-engine-unfit`,
    `policy-timeout`, and of Open Policy Agent `policy-engine-missing`, `policy-other-revision`.
    """
    forbidden.check(policies.modules)
    if settings.engine == "opa":
        from genealog.policy.engines.opa import Opa

        return Opa(settings, policies)
    from genealog.policy.engines.regorus import Regorus

    self_test.check(Regorus)
    if trial.needed(policies):
        trial.hold(policies)
    return Regorus(policies.files)
