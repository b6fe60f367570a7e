"""What every policy engine can do: take an input, and give the value of `data.genealog.decision`.

An engine decides nothing: what its answer is worth, `core.policy.read_verdict` says. One that cannot answer raises, and
whoever asked takes that as no.
"""

from __future__ import annotations

from typing import Protocol

ENTRY = "data.genealog.decision"


class Engine(Protocol):
    """A policy set, loaded. Not safe for two threads at once."""

    name: str  # with its version, as decisions name it

    def evaluate(self, document: bytes) -> object:
        """Return the decision for an input (JSON) as plain values; None where it is undefined.

        Raises: PolicyDenied `policy-error` (a built-in failed, a conflict), `policy-timeout`, `policy-engine-missing`.
        """

    def close(self) -> None:
        """Let go of what it holds."""
