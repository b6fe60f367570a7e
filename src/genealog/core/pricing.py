"""Which price table counts for a call, and what the call costs by it: a function of the call and of the registry alone.

A table counts for a call if its validity covers the time at which the call began, and if it was registered by then and
not revoked. So nothing that is registered later can change the cost of a call, also not of one that is sealed again
after a crash (docs/adr/0031). Of the tables of a seller that count, the one that begins last does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from msgspec import structs

from genealog.core.call_groups import UsageGroup
from genealog.core.canonical import MAX_INTEGER, timestamp
from genealog.core.frames import Intent, Outcome
from genealog.core.prices import Line, PriceTable, lines_of, total

REASONS = {
    "no-seller": "its target names nobody whom it is paid to",
    "no-table": "no price table of its seller was in force",
    "many-tables": "two price tables of its seller begin at the same time",
    "table-damaged": "the price table in force cannot be read",
    "no-model": "the price table does not name its model",
    "no-tier": "the price table has no price for its tier",
    "no-rate": "the price table has no price for something that it used",
    "usage-missing": "nobody reported what it used",
    "usage-inconsistent": "its counts contradict each other",
    "classes-overlap": "which of its cached tokens were audio or images is not known",
}
_CACHED = 65_536


@dataclass(frozen=True, slots=True)
class Priced:
    """What a call costs, in millionths of `currency`, by the entry `price`; or `reason`, why that is not known."""

    cost: int | None = None
    currency: str | None = None
    price: str | None = None
    reason: str | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A table as the registry knows it. `table` is None where its entries cannot be read: no other takes its place.

    It counts for calls from `registered_at` on, and no more from `revoked_at` on, whatever times it names itself.
    """

    id: str
    name: str
    seller: str
    currency: str
    valid_from: str
    until: str | None
    registered_at: str
    revoked_at: str | None
    source: str
    signer: str | None
    count: int
    table: PriceTable | None

    def covers(self, at: str, *, known: bool) -> bool:
        """Say whether it is in force at a time; `known`: only if it was registered by then, and not revoked."""
        if self.valid_from > at or (self.until is not None and at >= self.until):
            return False
        if not known:
            return self.revoked_at is None
        return self.registered_at <= at and (self.revoked_at is None or at < self.revoked_at)

    def clashes(self, other: Listed) -> bool:
        """Say whether neither of two tables would count, because both begin at once while both are in force."""
        if self.seller != other.seller or self.valid_from != other.valid_from:
            return False
        apart = any(
            one.revoked_at is not None and one.revoked_at <= two.registered_at
            for one, two in ((self, other), (other, self))
        )
        return not apart


class Prices:
    """The tables of a store."""

    def __init__(self, tables: Iterable[Listed] = ()) -> None:
        self.tables = tuple(tables)
        self._by_seller: dict[str, list[Listed]] = {}
        for table in self.tables:
            self._by_seller.setdefault(table.seller, []).append(table)
        self._found: dict[tuple[str, str], int | None] = {}

    def price(
        self, usage: UsageGroup, *, seller: str | None, model: str, at: str, milliseconds: int | None,
        known: bool = True,
    ) -> Priced:  # fmt: skip
        """Return what a call of `model` costs. `at`: when it began; `milliseconds`: how long it took.

        `known` False counts tables also for calls before they were registered: what it would cost by what is known now.
        """
        if seller is None:
            return Priced(reason="no-seller")
        found = [table for table in self._by_seller.get(seller, ()) if table.covers(at, known=known)]
        newest = max((table.valid_from for table in found), default=None)
        best = [table for table in found if table.valid_from == newest]
        if len(best) != 1:
            return Priced(reason="many-tables" if best else "no-table")
        if (table := best[0].table) is None:
            return Priced(reason="table-damaged")
        number = self._entry(best[0].id, table, model)
        if number is None:
            return Priced(reason="no-model")
        lines = lines_of(table.entries[number], usage, milliseconds)
        if isinstance(lines, str):
            return Priced(reason=lines)
        cost = total(lines)
        if cost > MAX_INTEGER:
            return Priced(reason="usage-inconsistent")
        return Priced(cost, table.currency, f"{best[0].id}#{number}", None, lines)

    def __call__(self, intent: Intent, outcome: Outcome | None, model: str | None, usage: UsageGroup) -> UsageGroup:
        """Fill cost, currency and price into the usage of a call that is sealed, where it can be priced.

        `model`: what the upstream reported, else what was asked for.
        """
        if outcome is None:
            return usage  # nobody saw its end
        if outcome.finish == "refused" or (outcome.finish == "upstream_error" and outcome.status is None):
            return usage  # nobody answered
        began, ended = timestamp(intent.called_at), timestamp(outcome.ended_at)
        name, took = model or intent.deployment, milliseconds_between(began, ended)
        done = self.price(usage, seller=intent.seller, model=name, at=began, milliseconds=took)
        if done.cost is None:
            return usage
        return structs.replace(usage, cost=done.cost, currency=done.currency, price=done.price)

    def _entry(self, table_id: str, table: PriceTable, model: str) -> int | None:
        key = table_id, model
        if key not in self._found:
            if len(self._found) >= _CACHED:
                self._found.clear()
            self._found[key] = table.find(model)
        return self._found[key]


def milliseconds_between(began: str, ended: str) -> int | None:
    """Return how long something took, from its two times; None where it ended before it began."""
    took = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
    whole = (took.days * 86_400 + took.seconds) * 1000 + took.microseconds // 1000
    return whole if whole >= 0 else None
