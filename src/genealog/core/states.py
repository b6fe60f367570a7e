"""How strongly we know something: one vocabulary for hops, edges, receipts, pages and `--json`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """Ordered from strong to weak by `rank`."""

    PROVEN = "proven"  # checked now from bytes: digests, signatures, inclusion, recomputation
    STATED = "stated"  # a signed, logged statement says so; the fact itself rests on its signer
    INFERRED = "inferred"  # statistical evidence, with its figure
    CLAIMED = "claimed"  # a name or field from outside, unchecked at its source
    UNCHECKED = "unchecked"  # evidence is there and was not verified
    MISSING = "missing"  # no evidence
    CONTRADICTED = "contradicted"  # evidence was checked and is false

    @property
    def rank(self) -> int:
        """0 for `proven`, growing as knowledge weakens."""
        return list(State).index(self)


def weakest(states: Iterable[State]) -> State:
    """Return the weakest of `states`; of none, `missing`."""
    return max(states, key=lambda state: state.rank, default=State.MISSING)


def exit_status(state: State, *, strict: bool = False) -> int:
    """Return the exit status for a verdict: 0, 1 (contradicted) or 3 (cannot tell). `strict` refuses claims too."""
    if state is State.CONTRADICTED:
        return 1
    if state in (State.UNCHECKED, State.MISSING) or (strict and state is State.CLAIMED):
        return 3
    return 0
