"""The same calls by other prices; and an API against an engine of one's own.

What a call would have cost is its own token counts at other prices. Another model has another tokenizer, another cache
and another length of answers, and another engine takes another time, so then the result is an estimate, and says so;
between two tables for one model it is exact. Only calls that both sides have a cost for are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from sqlalchemy import and_, func, select

from genealog.core.call_groups import UsageGroup
from genealog.core.prices import ENGINE_TIME, MICRO, OwnEngine
from genealog.core.pricing import Listed, Prices
from genealog.cost.projection import NAMES
from genealog.errors import MissingError, UsageError
from genealog.store import schema
from genealog.store.index import Index

_READ = 5_000


@dataclass(slots=True)
class Class:
    """One class of tokens or things over all compared calls: how many, and their cost in pico-units, exact."""

    count: int = 0
    cost: Fraction = Fraction(0)


@dataclass(slots=True)
class WhatIf:
    """What calls cost, and what they would have cost. Costs in millionths, by currency."""

    compared: int = 0
    added: int = 0  # of those, calls that have no cost now
    actual: dict[str, int] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    not_covered: dict[str, int] = field(default_factory=dict)
    prices: dict[str, int] = field(default_factory=dict)  # price entry → calls
    exact: bool = True  # no other model, and no time that another engine took


def what_if(
    index: Index, prices: Prices, *, at: str, model: str | None = None, seller: str | None = None,
    since: datetime | None = None, until: datetime | None = None,
    where: Mapping[str, Iterable[str | None]] | None = None,
) -> WhatIf:  # fmt: skip
    """Price calls again by the tables that are valid at `at`: as `model` of `seller`, or as what they were.

    Without a seller, `model` is of the seller that each call was paid to. Calls that have no cost now are priced as
    well where they stay what they were, and counted (`added`); as another model they stand in `not_covered`.
    """
    found = WhatIf()
    for row in _calls(index, since, until, where or {}):
        usage = UsageGroup(tier=row["tier"] if model is None else None, **{n: row[n] for n in schema.COUNTS})
        named = model or row["model"]
        found.exact &= named == row["model"]
        done = prices.price(
            usage, seller=seller or row["seller"], model=named or "", at=at, milliseconds=row["ms"], known=False
        )
        if done.cost is None or done.currency is None:
            reason = done.reason or "usage-missing"
            found.not_covered[reason] = found.not_covered.get(reason, 0) + 1
            continue
        if row["cost"] is None and model is not None:
            found.not_covered["no-cost-now"] = found.not_covered.get("no-cost-now", 0) + 1
            continue
        found.compared += 1
        if row["cost"] is None:
            found.added += 1
        else:
            found.actual[row["currency"]] = found.actual.get(row["currency"], 0) + row["cost"]
        found.other[done.currency] = found.other.get(done.currency, 0) + done.cost
        found.prices[done.price or ""] = found.prices.get(done.price or "", 0) + 1
        if seller not in (None, row["seller"]) and any(line.name == ENGINE_TIME for line in done.lines):
            found.exact = False
        for line in done.lines:
            each = found.classes.setdefault(line.name, Class())
            each.count += line.count
            each.cost += Fraction(line.count * line.rate, line.per)
    return found


def _calls(
    index: Index, since: datetime | None, until: datetime | None, where: Mapping[str, Iterable[str | None]]
) -> Iterator[Mapping[str, Any]]:
    cost, account = schema.cost, schema.account
    for name in where:
        if name not in NAMES:
            raise UsageError("bad-option", "costs have no such dimension", got=name, expected=", ".join(NAMES))
    columns = [cost.c.ms, cost.c.cost, *(cost.c[name] for name in schema.COUNTS), cost.c.account]
    with index.reading() as connection:
        accounts = {
            row["id"]: dict(row)
            for row in connection.execute(select(account)).mappings()
            if all(row[name] in set(values) for name, values in where.items())
        }
        query = select(*columns).where(*_during(since, until))
        for row in connection.execution_options(yield_per=_READ).execute(query).mappings():
            names = accounts.get(row["account"])
            if names is not None and names["state"] in ("priced", "partial", "unpriced"):
                yield {**names, **row}


def _during(since: datetime | None, until: datetime | None) -> list[Any]:
    cost = schema.cost
    found = []
    if since is not None:
        first = round(since.timestamp() * 1000)
        found.append(and_(cost.c.hour >= first // 3_600_000, cost.c.at >= first))
    if until is not None:
        last = round(until.timestamp() * 1000)
        found.append(and_(cost.c.hour <= last // 3_600_000, cost.c.at <= last))
    return found


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When an engine of one's own pays. Money in millionths; rates are exact fractions of an hour."""

    currency: str
    calls: int
    hours: Fraction  # from the first call to the last
    api_per_call: Fraction
    own_per_hour: Fraction  # busy or not
    seconds_per_call: Fraction
    capacity: Fraction  # calls an hour that the engine can answer
    volume: Fraction  # calls an hour that there were
    engine: str

    @property
    def calls_per_hour(self) -> Fraction:
        """From how many calls an hour on the engine costs less than the API."""
        return self.own_per_hour / self.api_per_call

    @property
    def utilisation(self) -> Fraction:
        """The part of its capacity that this is; over 1: it never pays."""
        return self.calls_per_hour / self.capacity

    @property
    def pays(self) -> bool:
        """Whether it would have paid at the volume that there was, on as few engines as can carry it."""
        return self.own_for_volume < self.api_per_call * self.volume

    @property
    def engines(self) -> int:
        """How many engines carry the volume."""
        return max(1, -(-self.volume // self.capacity))

    @property
    def own_for_volume(self) -> Fraction:
        """What the engines for the volume cost in an hour."""
        return self.own_per_hour * self.engines


def break_even(
    index: Index, own: Listed, *, model: str | None = None, seconds_per_call: Fraction | None = None,
    since: datetime | None = None, until: datetime | None = None,
    where: Mapping[str, Iterable[str | None]] | None = None,
) -> BreakEven:  # fmt: skip
    """Hold what calls cost at an API against an engine of the table `own`.

    How long the engine takes for one call is `seconds_per_call`, else the mean of the calls that were paid to `own`.
    Raises: MissingError `no-costs`, `no-own-engine`, `no-own-calls`; UsageError `mixed-currencies`.
    """
    number, engine = _engine(own, model)
    account, table = schema.account, schema.cost
    query = (
        select(account.c.currency, func.count(), func.sum(table.c.cost), func.min(table.c.at), func.max(table.c.at))
        .join(account, account.c.id == table.c.account)
        .where(account.c.state.in_(("priced", "partial")), account.c.seller != own.seller, *_during(since, until))
        .group_by(account.c.currency)
    )
    for name, values in (where or {}).items():
        query = query.where(account.c[name].in_([value for value in values if value is not None]))
    with index.reading() as connection:
        found = connection.execute(query).all()
        mean = connection.execute(
            select(func.count(), func.sum(table.c.ms))
            .join(account, account.c.id == table.c.account)
            .where(account.c.seller == own.seller, table.c.ms.is_not(None))
        ).one()
    if not any(row[2] for row in found):
        raise MissingError("no-costs", "no call that fits has a cost", hint="genealog cost --by deployment,seller")
    if [row.currency for row in found] != [own.currency]:
        raise UsageError(
            "mixed-currencies", "the calls and the engine are not paid in one currency",
            got=", ".join(sorted(row.currency for row in found)), expected=own.currency,
        )  # fmt: skip
    if seconds_per_call is None:
        if not mean[0]:
            raise MissingError(
                "no-own-calls", "how long the engine takes for a call is not known: it has answered none",
                got=own.seller, hint="say it: --seconds-per-call 2.5",
            )  # fmt: skip
        seconds_per_call = Fraction(int(mean[1]), int(mean[0]) * 1000)
    _, calls, cost, first, last = found[0]
    hours = max(Fraction(last - first, 3_600_000), Fraction(1))
    return BreakEven(
        currency=own.currency, calls=calls, hours=hours, api_per_call=Fraction(int(cost), calls),
        own_per_hour=Fraction(engine.gpu_hour * engine.gpus, MICRO), seconds_per_call=seconds_per_call,
        capacity=engine.slots * 3600 / seconds_per_call, volume=calls / hours, engine=f"{own.id}#{number}",
    )  # fmt: skip


def _engine(own: Listed, model: str | None) -> tuple[int, OwnEngine]:
    for number, entry in enumerate(own.table.entries if own.table else ()):
        if entry.engine is not None and (model is None or (own.table and own.table.find(model) == number)):
            return number, entry.engine
    raise MissingError(
        "no-own-engine", "this price table has no engine", got=own.seller,
        hint="an entry with [entries.engine]: docs/reference/prices.md",
    )  # fmt: skip
