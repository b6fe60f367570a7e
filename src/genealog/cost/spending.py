"""What principals have spent so far: what budgets are held against.

Cheap: sums of hours, of which a month has 744. It is as new as the last `catch_up`, and that as the sequencer: calls
that run, or lie in a spool, are not in it. A call that cannot be priced spends nothing here, however much it cost.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from genealog.cost.projection import HOUR, catch_up
from genealog.ledger import Ledger
from genealog.store import schema
from genealog.store.index import Index


class Spending:
    """Reads spending of principals from the index of a store. `refresh` first."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def refresh(self) -> int:
        """Bring costs up to date with the call logs; returns how many calls were new. Raises: StoreError."""
        return catch_up(self._ledger)

    def __call__(self, principal: str, since: datetime, currency: str) -> int:
        """Return what one principal spent in calls that began since the start of the hour of `since`, in millionths."""
        return spent_since(self._ledger.home.index, since, currency, principal=principal).get(principal, 0)

    def all(self, since: datetime, currency: str) -> dict[str, int]:
        """Return the same for every principal that spent anything, in one query."""
        return spent_since(self._ledger.home.index, since, currency)


def spent_since(index: Index, since: datetime, currency: str, *, principal: str | None = None) -> dict[str, int]:
    """Return principal → millionths of `currency`, from the start of the hour of `since` on (a UTC day begins one)."""
    spend, account = schema.spend, schema.account
    query = (
        select(account.c.principal, func.sum(spend.c.cost).label("cost"))
        .join(account, account.c.id == spend.c.account)
        .where(
            spend.c.hour >= round(since.timestamp() * 1000) // HOUR,
            account.c.currency == currency,
            account.c.principal.is_not(None),
        )
        .group_by(account.c.principal)
    )
    if principal is not None:
        query = query.where(account.c.principal == principal)
    return {row["principal"]: int(row["cost"]) for row in index.rows(query)}
