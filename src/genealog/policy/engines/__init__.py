"""Policy engines, one a file. `genealog.policy.port` says what each can do."""

from __future__ import annotations

from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet
from genealog.store.policy_settings import Policy


def open_engine(_settings: Policy, policies: PolicySet) -> Engine:
    """Load a policy set in the engine that the settings name. Raises: PolicyDenied `policy-engine-missing`."""
    from genealog.policy.engines.regorus import Regorus

    return Regorus(policies)
