"""Which model produced this output, where did that model come from, and can you prove it?

import genealog

with genealog.run("finetune", inputs={"base": "smol", "data": "facts"}, parameters={"lr": 2e-3}) as run:
    train(...)
    run.output("out/adapter", kind="adapter", name="facts-lora")

registry = genealog.Registry(genealog.Home.find())
print(registry.resolve("facts-lora").id)                     # glf1:… computed from the bytes

answers = genealog.Answers(genealog.Home.find())
for hop in answers.why("01JD…").hops:                        # output ← call ← … ← training data
    print(hop.role, hop.title, hop.state)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from genealog.errors import (
    GenealogError,
    MalformedError,
    MissingError,
    PolicyDenied,
    StoreError,
    UpstreamError,
    VerificationError,
)

if TYPE_CHECKING:
    from genealog.answers import Answers
    from genealog.core.bundle import parse_file
    from genealog.core.chain import Hop, Report, examine
    from genealog.core.states import State
    from genealog.core.trust import parse_trust
    from genealog.deploy import Deployments
    from genealog.ledger import Ledger
    from genealog.policy.application import Releases, release
    from genealog.policy.release import Released
    from genealog.registry import Registry
    from genealog.store.home import Home
    from genealog.training import Run, run

__version__ = "0.1.0"

__all__ = [
    "Answers", "Deployments", "GenealogError", "Home", "Hop", "Ledger", "MalformedError", "MissingError",
    "PolicyDenied", "Registry", "Released", "Releases", "Report", "Run", "State", "StoreError", "UpstreamError",
    "VerificationError", "examine", "parse_file", "parse_trust", "release", "run",
]  # fmt: skip

_HOME = {
    "Answers": "answers", "Deployments": "deploy", "Home": "store.home", "Hop": "core.chain", "Ledger": "ledger",
    "Registry": "registry", "Report": "core.chain", "Run": "training", "State": "core.states", "examine": "core.chain",
    "parse_file": "core.bundle", "parse_trust": "core.trust", "run": "training",
    "Released": "policy.release", "Releases": "policy.application", "release": "policy.application",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: verifying a file should not wait for an SQL library."""
    if name not in _HOME:
        raise AttributeError(f"module 'genealog' has no attribute {name!r}")
    return getattr(import_module(f"genealog.{_HOME[name]}"), name)
