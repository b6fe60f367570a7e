"""Deployments: a name that serves, the immutable spec that it points at, and every move that it made."""

from __future__ import annotations

from genealog.deploy.approvals import Approvals, Given, Status
from genealog.deploy.moves import Move
from genealog.deploy.past import Past, what_was_live
from genealog.deploy.service import Deployments, Live, Snapshot
from genealog.deploy.targets import Wanted, read_wanted

__all__ = [
    "Approvals",
    "Deployments",
    "Given",
    "Live",
    "Move",
    "Past",
    "Snapshot",
    "Status",
    "Wanted",
    "read_wanted",
    "what_was_live",
]
