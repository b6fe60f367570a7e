"""What calls cost, added up by department, project, model, day: and how many calls the sum does not cover.

Sums come from `spend`, an hour at a time; an hour that a question cuts comes from the rows of its calls. Currencies are
never added to each other. A call without a cost is counted beside the sum, by why it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select

from genealog.core.canonical import timestamp
from genealog.cost.projection import HOUR, NAMES, WITHOUT_COST
from genealog.errors import UsageError
from genealog.store import schema
from genealog.store.index import Index

TIMES = ("month", "day", "hour")
DIMENSIONS = (*NAMES, *TIMES)
_CUT = {"month": 7, "day": 10, "hour": 13}


@dataclass(slots=True)
class Sum:
    """Calls that have the same values in what was asked for. `cost` in millionths of `currency`; `without` by state."""

    values: tuple[str | None, ...]
    currency: str | None
    calls: int = 0
    cost: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    partial_calls: int = 0
    partial_cost: int = 0
    without: dict[str, int] = field(default_factory=dict)

    @property
    def uncovered(self) -> int:
        """How many of the calls may have cost something that is not in `cost`."""
        return sum(count for state, count in self.without.items() if state != "failed")

    def add(self, other: Mapping[str, Any], state: str) -> None:
        """Add a row of `spend`."""
        for name in schema.SUMS:
            setattr(self, name, getattr(self, name) + int(other[name]))  # PostgreSQL adds up to decimals
        if state == "partial":
            self.partial_calls += int(other["calls"])
            self.partial_cost += int(other["cost"])
        elif state in WITHOUT_COST:
            self.without[state] = self.without.get(state, 0) + int(other["calls"])


@dataclass(frozen=True, slots=True)
class Report:
    """Sums by `by`, the most expensive first, and one total for each currency. Calls without a cost have none."""

    by: tuple[str, ...]
    since: str | None
    until: str | None
    rows: tuple[Sum, ...]
    totals: tuple[Sum, ...]
    reasons: dict[str, int]

    @property
    def calls(self) -> int:
        """How many calls it is about."""
        return sum(total.calls for total in self.totals)

    @property
    def uncovered(self) -> int:
        """How many of them may have cost something that no total has."""
        return sum(total.uncovered for total in self.totals)


def report(
    index: Index, *, by: Sequence[str] = (), since: datetime | None = None, until: datetime | None = None,
    where: Mapping[str, Iterable[str | None]] | None = None,
) -> Report:  # fmt: skip
    """Add up what calls cost that began in since ≤ t ≤ until. `where`: dimension → values that count, None for none.

    Raises: UsageError `bad-option` for what is no dimension.
    """
    where = where or {}
    for name in (*by, *where):
        if name not in (DIMENSIONS if name in by else NAMES):
            raise UsageError("bad-option", "costs have no such dimension", got=name, expected=", ".join(DIMENSIONS))
    rows: dict[tuple[tuple[str | None, ...], str | None], Sum] = {}
    totals: dict[str | None, Sum] = {}
    reasons: dict[str, int] = {}
    with index.reading() as connection:
        for query in _queries(by, where, since, until):
            for row in map(dict, connection.execute(query).mappings()):
                values = tuple(
                    _time(row["slot"], name, hourly="hour" in by) if name in TIMES else row[name] for name in by
                )
                currency, state = row["currency"], row["state"]
                rows.setdefault((values, currency), Sum(values, currency)).add(row, state)
                totals.setdefault(currency, Sum((), currency)).add(row, state)
                if row["reason"] is not None:
                    reasons[row["reason"]] = reasons.get(row["reason"], 0) + int(row["calls"])
    return Report(
        by=tuple(by),
        since=timestamp(since) if since else None,
        until=timestamp(until) if until else None,
        rows=tuple(sorted(rows.values(), key=_order(by))),
        totals=tuple(sorted(totals.values(), key=lambda total: (total.currency is None, total.currency or ""))),
        reasons=dict(sorted(reasons.items())),
    )


def _order(by: Sequence[str]) -> Any:
    """Order rows by time where time was asked for first, else the most expensive first."""

    def key(row: Sum) -> tuple[Any, ...]:
        texts = tuple((value is None, value or "") for value in row.values)
        rest = (row.currency is None, row.currency or "", -row.cost, -row.calls, texts)
        return (texts[0], *rest) if by and by[0] in TIMES else rest

    return key


def _queries(
    by: Sequence[str], where: Mapping[str, Iterable[str | None]], since: datetime | None, until: datetime | None
) -> list[Any]:
    """Return the selects whose rows together are the answer: whole hours from sums, cut ones from single calls."""
    spend, cost, account = schema.spend, schema.cost, schema.account
    first = None if since is None else _milliseconds(since)
    end = None if until is None else _milliseconds(until) + 1
    whole_from = None if first is None else -(-first // HOUR)
    whole_to = None if end is None else end // HOUR
    cut: list[ColumnElement[bool]] = []
    if whole_from is not None and whole_to is not None and whole_from > whole_to:  # both ends in one hour
        cut.append(and_(cost.c.hour == whole_to, cost.c.at >= first, cost.c.at < end))
        whole_to = whole_from
    else:
        if first is not None and first % HOUR:
            cut.append(and_(cost.c.hour == first // HOUR, cost.c.at >= first))
        if end is not None and end % HOUR:
            cut.append(and_(cost.c.hour == end // HOUR, cost.c.at < end))
    whole = [spend.c.hour >= whole_from] if whole_from is not None else []
    whole += [spend.c.hour < whole_to] if whole_to is not None else []
    counts = [func.sum(spend.c[name]).label(name) for name in schema.SUMS]
    single = [func.count().label("calls")]
    single += [func.coalesce(func.sum(cost.c[name]), 0).label(name) for name in schema.SUMS[1:]]
    names = dict.fromkeys((*(name for name in by if name not in TIMES), "currency", "state", "reason"))
    texts = [account.c[name] for name in names]
    fits = [_one_of(account.c[name], tuple(values)) for name, values in where.items()]
    queries = []
    for table, sums, conditions in ((spend, counts, whole), *((cost, single, [condition]) for condition in cut)):
        slots = [table.c.hour if "hour" in by else table.c.hour // 24] if any(name in TIMES for name in by) else []
        query = select(*texts, *(slot.label("slot") for slot in slots), *sums).where(*conditions, *fits)
        query = query.select_from(table.join(account, account.c.id == table.c.account))
        queries.append(query.group_by(*texts, *slots))
    return queries


def _one_of(column: Any, values: tuple[str | None, ...]) -> Any:
    """Return the condition that a text is one of these, None being no text at all."""
    texts = column.in_([value for value in values if value is not None])
    return or_(texts, column.is_(None)) if None in values else texts


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _time(slot: int, name: str, *, hourly: bool) -> str:
    hour = slot if hourly else slot * 24
    text = datetime.fromtimestamp(hour * 3600, UTC).isoformat()[: _CUT[name]]
    return f"{text}:00Z" if name == "hour" else text


def money(cost: int, currency: str | None) -> str:
    """Spell millionths: `12.345678 USD`, at least two digits behind the point."""
    whole, part = divmod(cost, 1_000_000)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{whole:,}.{digits}" + (f" {currency}" if currency else "")
