"""The moves of one deployment, in log order: which of them count, and what they make of it.

A move names the leaf hash of the move that it follows. Of two that follow the same one, the first in the log counts;
the other was made by somebody who did not know, and is `stale`: kept, shown, and without effect. So no move can
overwrite another silently, whoever appends and however.

Nothing here reads a log. Order is the log's, never the clock's: `at` is what the signer's clock said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Move:
    """One move: at registry entry `index`, `signer` pointed a deployment at `spec`."""

    index: int
    leaf: str
    spec: str
    action: str
    at: str
    reason: str | None = None
    previous: str | None = None
    incident: str | None = None
    approvals: tuple[str, ...] = ()
    signer: str | None = None
    stale: bool = False

    @property
    def position(self) -> str:
        """Its place, as it is printed."""
        return f"registry:{self.index}"


def judged(moves: Iterable[Move], head: Move | None = None) -> list[Move]:
    """Return the moves, in log order, each with its `stale` as it is. `head` is the last before that counts."""
    found = []
    for move in moves:
        known = replace(move, stale=move.previous != (head.leaf if head else None))
        found.append(known)
        head = head if known.stale else known
    return found


def counting(moves: Iterable[Move]) -> list[Move]:
    """Return those moves that have effect."""
    return [move for move in moves if not move.stale]


def stack(moves: Sequence[Move]) -> list[str]:
    """Return the specs that can be gone back to, and last the one that is live.

    A rollback takes off everything above its target: the next one goes further back, never forth again.
    """
    specs: list[str] = []
    for move in moves:
        if move.action == "rollback" and move.spec in specs:
            del specs[len(specs) - specs[::-1].index(move.spec) :]
        elif specs[-1:] != [move.spec]:  # deployed again as it was: nothing to go back to
            specs.append(move.spec)
    return specs


def left_behind(moves: Sequence[Move], spec: str) -> int:
    """Return the index of the last rollback that went away from `spec`, -1 if none did."""
    left = -1
    for before, move in pairwise(moves):
        if move.action == "rollback" and before.spec == spec != move.spec:
            left = move.index
    return left


def live_times(moves: Sequence[Move], specs: Iterable[str]) -> list[tuple[Move, Move | None]]:
    """Return (the move with which it began, the move with which it ended or None) of each time one of `specs` served.

    Moves from one of `specs` to another end one time and begin the next.
    """
    wanted = set(specs)
    found: list[tuple[Move, Move | None]] = []
    begun: Move | None = None
    for move in moves:
        if begun is not None and move.spec != begun.spec:
            found.append((begun, move))
            begun = None
        if begun is None and move.spec in wanted:
            begun = move
    return [*found, (begun, None)] if begun is not None else found
