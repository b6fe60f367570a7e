"""Whether what a deployment serves rests on the approvals that are asked for: moves that went round our commands.

Approvals are asked for by `[[approvals]]`, and by the policy `four_eyes` where an environment denies by it. A move
rests on those that it names, if they were given before it and count; or on those that count now, so that a rule that
came later is met by approving what is live. A rollback needs none where its target was live on good ground: on
approvals, or before any move here rested on some, which is before there was a rule. Whatever a move says of itself,
nobody can give an approval of somebody else.

Gateways refuse to serve from a move that rests on nothing (`move-not-approved`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from genealog.core import records
from genealog.core.policy import Point
from genealog.deploy.approvals import Approvals, Given
from genealog.deploy.moves import Move, left_behind, stack
from genealog.errors import GenealogError, MissingError
from genealog.policy.break_glass import BreakGlasses
from genealog.policy.facts import Facts, used_by
from genealog.store import schema
from genealog.store.home import REGISTRY
from genealog.store.vault.patterns import fits

FOUR_EYES = "four_eyes"


class Resting:
    """Judges moves of one store by its settings as they are now. `facts` are those of its policy set."""

    def __init__(self, approvals: Approvals, facts: Facts) -> None:
        self._approvals = approvals
        self._facts = facts

    def asked(self, deployment: str) -> bool:
        """Say whether approvals are asked for here at all."""
        rules = any(fits(deployment, rule.deployment) for rule in self._approvals.home.config.approvals)
        return rules or any(self._four_eyes(deployment, action) for action in ("set", "promote"))

    def unapproved(self, deployment: str, moves: Sequence[Move]) -> str | None:
        """Say why the last of the moves that count does not rest on enough approvals; None if it does."""
        if not moves or not self.asked(deployment):
            return None
        sound: list[Move] = []  # moves on good ground; until the first that rests on approvals, every one
        ruled, why = False, None
        for number, move in enumerate(moves):
            try:
                why = self._why(deployment, moves[: number + 1], sound, moves)
            except GenealogError as error:
                why = f"{error.code}: {error.message}"
            if why is None and not ruled and move.action != "rollback":
                ruled = True
            if why is None or not ruled:
                sound.append(move)
        return why

    def _why(self, deployment: str, until: Sequence[Move], sound: Sequence[Move], moves: Sequence[Move]) -> str | None:
        move = until[-1]
        if move.action == "rollback" and move.spec in stack(sound):
            return None
        left = left_behind(until[:-1], move.spec)
        named = [each for each in self._approvals.of_move(move, deployment) if each.void is None and each.index > left]
        now = self._approvals.said(deployment, move.spec, moves)
        missing = [self._missing(deployment, move, given) for given in (named, now)]
        if None in missing:
            return None
        return f"{move.position} by {move.signer} rests on too few approvals: {missing[0]}"

    def _missing(self, deployment: str, move: Move, given: Sequence[Given]) -> str | None:
        for ruled in self._approvals.ruled(deployment, given, move.signer):
            if not ruled.met:
                return f"{len(ruled.given)} of {ruled.rule.required} ({ruled.rule.deployment})"
        if self._four_eyes(deployment, move.action) and not self._waived(deployment, move):
            makers = self._facts.makers(used_by(self._spec(move.spec)))
            others = {each.identity for each in given if each.void is None} - makers - {move.signer}
            wanted = self._facts.policies.settings["approvals"]
            if len(others) < wanted:
                return f"{len(others)} of {wanted} ({FOUR_EYES})"
        return None

    def _four_eyes(self, deployment: str, action: str) -> bool:
        policies = self._facts.policies
        point: Point = "promote" if action == "promote" else "deploy"
        return policies.asked(policies.environment_of(deployment), point).get(FOUR_EYES) == "deny"

    def _waived(self, deployment: str, move: Move) -> bool:
        """Say whether a break-glass had put four eyes aside when this move was decided."""
        table, entry = schema.decision, schema.entry
        query = (
            select(table.c.id, entry.c.leaf)
            .join(entry, entry.c.id == table.c.id)
            .where(table.c.subject == deployment, table.c.outcome == "allow", table.c.id < move.index)
            .where(table.c.policy.is_not(None), entry.c.signer == move.signer)
            .order_by(table.c.id.desc())
        )
        registry = self._approvals.registry
        row = registry.ledger.index(REGISTRY).first(query)
        body = registry.statement(row["leaf"]).body if row else None
        if row is None or not isinstance(body, records.Decision) or FOUR_EYES not in body.waived:
            return False
        return any(
            glass.name in body.break_glass
            and FOUR_EYES in glass.policies
            and fits(deployment, glass.deployment)
            and glass.agreed is not None
            and glass.agreed < row["id"]
            and (glass.closed is None or glass.closed > row["id"])
            and body.at < glass.until
            for glass in BreakGlasses(registry.home).all()
        )

    def _spec(self, identifier: str) -> records.ServingSpec:
        registry = self._approvals.registry
        query = (
            select(schema.entry.c.leaf)
            .join(schema.spec, schema.spec.c.id == schema.entry.c.id)
            .where(schema.spec.c.digest == identifier)
        )
        row = registry.ledger.index(REGISTRY).first(query)
        body = registry.statement(row["leaf"]).body if row else None
        if not isinstance(body, records.ServingSpec):
            raise MissingError("unknown-spec", "no serving spec has this ID", got=identifier)
        return body
