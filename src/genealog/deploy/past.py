"""What was live at a time: the last move of a deployment that says it was made by then.

The log gives an order that nobody can change, and no clock. The time of a move is its signer's word; where a witness
has cosigned a later head, that bounds it: the move was in the log by then. Clocks that went back are told, not mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from genealog.core.canonical import timestamp
from genealog.core.merkle import root_at
from genealog.core.timestamp import read_timestamp
from genealog.core.trust import TrustedCheckpoint
from genealog.deploy.moves import Move
from genealog.deploy.service import Deployments
from genealog.errors import GenealogError
from genealog.store.home import REGISTRY, Home
from genealog.store.static_export import log_reader


@dataclass(frozen=True, slots=True)
class Bound:
    """Somebody else's word that the log had an entry at `at` at the latest, under the head of `size` entries."""

    at: str
    who: str
    size: int
    checked: bool  # False: a timestamp, whose authority no root here vouches for


@dataclass(frozen=True, slots=True)
class Past:
    """What a deployment served at a time, or at a registry entry.

    `move` made it live (None: nothing was live yet), `until` ended that (None: it still serves). `disagree` are moves
    that stand before `move` in the log and claim a time after the one asked for: then some clock was wrong, and which
    one nobody can tell from the log. `size` is that of the registry log.
    """

    name: str
    move: Move | None
    until: Move | None
    disagree: tuple[Move, ...]
    bound: Bound | None
    until_bound: Bound | None
    size: int


def what_was_live(deployments: Deployments, name: str, *, at: datetime | None = None, entry: int | None = None) -> Past:
    """Return what `name` served at a moment, or when registry entry `entry` was the newest; without either, now.

    Raises: MissingError `unknown-deployment`.
    """
    size = deployments.home.registry_log().refresh()
    moves = deployments.history(name)
    chosen, disagree = _chosen(moves, at, entry)
    following = next(
        (m for m in moves if chosen is not None and m.index > chosen.index and m.spec != chosen.spec), None
    )
    home = deployments.home
    return Past(
        name, chosen, following, disagree,
        existed_by(home, chosen.index) if chosen is not None else None,
        existed_by(home, following.index) if following is not None else None,
        size,
    )  # fmt: skip


def existed_by(home: Home, index: int) -> Bound | None:
    """Return the earliest word of somebody else under which registry entry `index` was in the log, of those kept."""
    log, heads = home.registry_log(), home.heads
    found: list[Bound] = []
    read = log_reader(log, log.refresh())
    for size in heads.sizes(REGISTRY):
        note = heads.note(REGISTRY, size)
        opened = _open(home, note) if note is not None else None
        if note is None or opened is None or not index < opened.checkpoint.size <= log.size:
            continue
        if root_at(opened.checkpoint.size, read) != opened.checkpoint.root:
            continue  # a fork: `fsck` says so, and it bounds nothing here
        found += [
            Bound(timestamp(datetime.fromtimestamp(seconds, UTC)), f"witness {who}", size, True)
            for who, seconds in opened.cosigned_at.items()
        ]
        if (token := heads.token(REGISTRY, size)) is not None:
            try:
                stamp = read_timestamp(token, note)
            except GenealogError:
                continue
            found.append(Bound(stamp.at, f"timestamp authority {stamp.authority}", size, False))
    return min(found, key=lambda bound: (not bound.checked, bound.at), default=None)


def _chosen(
    moves: Sequence[Move], at: datetime | None, entry: int | None
) -> tuple[Move | None, tuple[Move, ...]]:  # fmt: skip
    if entry is not None:
        return next((move for move in reversed(moves) if move.index <= entry), None), ()
    if at is None:
        return moves[-1], ()
    asked = timestamp(at)
    chosen = next((move for move in reversed(moves) if move.at <= asked), None)
    return chosen, tuple(m for m in moves if chosen is not None and m.index < chosen.index and m.at > asked)


def _open(home: Home, note: bytes) -> TrustedCheckpoint | None:
    try:
        return home.trust.open_head(note)
    except GenealogError:
        return None
