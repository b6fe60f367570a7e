"""What calls used, charged to the counters of whoever made them, once they are in the log.

The sequencer hands over what it has put into the log; tokens and money stand in the sealed groups. What was in the log
when a process died before it could charge is not charged: `restore` sets the money right from the log, at start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from genealog.core.call_groups import UsageGroup, WhoGroup
from genealog.core.canonical import decode, parse_timestamp
from genealog.errors import StoreError
from genealog.store.config import Config
from genealog.store.counters import Counters
from genealog.store.gateway_settings import Limits
from genealog.store.vault.call import VaultCall

FILE = "limits.counters"  # in the node folder

log = logging.getLogger("genealog.charges")


class Spent(Protocol):
    """What the costs of a store know of one principal."""

    def __call__(self, principal: str, since: datetime, currency: str) -> int:
        """Return what its calls cost since then, in millionths."""


class Charges:
    """Charges calls to their principals. Calls that nobody authenticated are charged to nobody."""

    def __init__(self, config: Config, counters: Counters) -> None:
        self._counters = counters
        self._principals: Mapping[str, Limits] = {name: each.limits for name, each in config.principals.items()}
        self._tokens = {each.limits.currency for each in config.issuers if counts_use(each.limits)}

    def __call__(self, calls: Iterable[VaultCall]) -> None:
        """Charge calls that are in the log now. What cannot be counted is said in the log of this process."""
        for call in calls:
            who = decode(call.groups["who"][1], WhoGroup)
            if who.principal is None or (currencies := self._currencies(who)) is None:
                continue
            usage = decode(call.groups["usage"][1], UsageGroup)
            tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            money = (usage.cost or 0) if usage.currency in currencies else 0
            if call.ended_at and (tokens or money):
                at = parse_timestamp(call.ended_at).timestamp()
                try:
                    self._counters.charge(who.principal, at, tokens=tokens, money=money)
                except StoreError as error:
                    log.error("call %s is not charged to %s: %s", call.call, who.principal, error.code)

    def restore(self, spent: Spent, now: float) -> None:
        """Set what every principal with a budget has spent in this day and month."""
        moment = datetime.fromtimestamp(now, UTC)
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        for name, limits in self._principals.items():
            if limits.budget_per_day is not None or limits.budget_per_month is not None:
                self._counters.restore(
                    name, now,
                    day=spent(name, day, limits.currency), month=spent(name, day.replace(day=1), limits.currency),
                )  # fmt: skip

    def _currencies(self, who: WhoGroup) -> set[str] | None:
        """Return in which money a caller is limited; None for one who is not."""
        if who.how == "jwt":
            return self._tokens or None
        if who.how in ("key", "mtls") and (limits := self._principals.get(who.principal or "")) is not None:
            return {limits.currency} if counts_use(limits) else None
        return None


def counts_use(limits: Limits) -> bool:
    """Say whether limits ask for something that is only known after a call."""
    return (limits.tokens_per_minute, limits.budget_per_day, limits.budget_per_month) != (None, None, None)


def charges_of(config: Config, folder: Path) -> Charges | None:
    """Return what charges the calls of a store whose node folder is `folder`; None where nothing is to be charged."""
    limits = [*(each.limits for each in config.principals.values()), *(each.limits for each in config.issuers)]
    return Charges(config, Counters(folder / FILE)) if any(map(counts_use, limits)) else None
