"""What `deploy` would be told, without deploying: for CI that ask before they change anything."""

from __future__ import annotations

from genealog.core import records
from genealog.core.ids import record_id
from genealog.deploy.gate import moving
from genealog.deploy.options import check_name
from genealog.deploy.service import Deployments
from genealog.deploy.targets import Wanted, pin
from genealog.errors import PolicyDenied
from genealog.policy.decide import Judged, Policies
from genealog.policy.document import Actor
from genealog.policy.facts import Facts


def would_deploy(deployments: Deployments, policies: Policies, name: str, wanted: Wanted, *, actor: Actor) -> Judged:
    """Ask policy whether `name` may get one target, with the approvals of exactly that spec. Writes nothing.

    Raises: as `targets.pin`; PolicyDenied `model-tainted`, `approvals-missing`; UsageError `bad-option`.
    """
    check_name(name)
    target = pin(deployments.registry, wanted)
    spec = records.ServingSpec(**{field: getattr(target, field) for field in target.__struct_fields__})
    taint = deployments.taint(spec)
    if taint is not None:
        raise PolicyDenied("model-tainted", f"{taint.artifact} {taint}")
    moves = [move for move in deployments.moves(name) if not move.stale]
    identifier = record_id(spec)
    deployments.approvals.check(name, identifier, moves, deployments.registry.signer().keyid)
    said = deployments.approvals.said(name, identifier, moves)
    facts = Facts(deployments.home, policies.set, clock=deployments.clock)
    glasses = facts.waived(name)
    return policies.judge(moving(facts, "deploy", name, spec, actor, said, waived=glasses), glasses)
