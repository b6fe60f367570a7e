"""`genealog cost`: who pays for what, what it would have cost elsewhere, and when an engine of one's own pays."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli import prices
from genealog.cli.options import Json, Store, moment
from genealog.cli.output import counting, one_line, out, print_json, print_table
from genealog.core.canonical import timestamp
from genealog.core.prices import MICRO
from genealog.core.pricing import REASONS
from genealog.cost.projection import catch_up
from genealog.cost.report import DIMENSIONS, Report, Sum, money, report
from genealog.cost.tables import Tables, today
from genealog.cost.what_if import WhatIf, break_even, what_if
from genealog.errors import UsageError
from genealog.ledger import Ledger
from genealog.store.home import Home
from genealog.store.index import Index

app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
app.add_typer(prices.app, name="prices")

Since = Annotated[str | None, typer.Option(help="Calls that began from then on, UTC: 2026-11-01, or with a time.")]
Until = Annotated[str | None, typer.Option(help="Calls that began until then; a day counts whole.")]
Many = list[str] | None
Department = Annotated[Many, typer.Option(help="Only this department; may be repeated.")]
Project = Annotated[Many, typer.Option(help="Only this project; may be repeated.")]
Principal = Annotated[Many, typer.Option(help="Only this principal; may be repeated.")]
Tenant = Annotated[Many, typer.Option(help="Only this tenant; may be repeated.")]
Deployment = Annotated[Many, typer.Option(help="Only this deployment; may be repeated.")]
Model = Annotated[Many, typer.Option(help="Only this model, as its upstream calls it; may be repeated.")]
PaidTo = Annotated[Many, typer.Option("--seller", help="Only what was paid to this seller; may be repeated.")]
_SUMS = ("calls", "cost", "currency", "prompt_tokens", "cached_tokens", "completion_tokens")
_WHY = {
    "unpriced": "used something, and have no price",
    "open": "nobody saw their end",
    "erased": "their contents were erased",
    "missing": "their contents are not in this vault",
    "altered": "the vault has something else than what was sealed: genealog fsck",
    "failed": "ended without an answer, and nobody reported that they used anything",
}
_REASONS = {
    **REASONS,
    "no-price": "no table of their seller had a price for them: genealog cost prices ls; what-if takes those of now",
}


@app.callback()
def cost(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(help=f"What to add up by, with commas: {', '.join(DIMENSIONS)}.", metavar="DIMENSIONS")
    ] = "department",
    since: Since = None,
    until: Until = None,
    department: Department = None,
    project: Project = None,
    principal: Principal = None,
    tenant: Tenant = None,
    deployment: Deployment = None,
    model: Model = None,
    seller: PaidTo = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: costs in millionths, as integers.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show who spent what on which model: sums of what each call cost when it was made, to the millionth.

    Each call has its cost sealed with the price entry it was computed by. Calls that have none are counted apart, by
    why; they are never taken to be free. Currencies are never added up.

    Example: [bold]genealog cost --by department,model --since 2026-11-01[/bold]

    Example: [bold]genealog cost --by day --deployment support-bot --csv > november.csv[/bold]
    """
    if context.invoked_subcommand is not None:
        return
    where = _where(department, project, principal, tenant, deployment, model, seller)
    dimensions = tuple(dict.fromkeys(word.strip() for word in by.split(",") if word.strip()))
    index = _index(Home.find(store), quiet=json or as_csv)
    found = report(index, by=dimensions, since=moment(since), until=moment(until, last=True), where=where)
    if json:
        print_json(_report_json(found))
    elif as_csv:
        _print_csv(found)
    else:
        _print(found)


@app.command("what-if")
def what_if_(
    as_: Annotated[
        str | None,
        typer.Option("--as", help="The model to price the calls as. Default: each as what it was.", metavar="MODEL"),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The seller whose prices to use. Default: whom each call was paid to.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="By the tables that are valid at this time. Default: now.")
    ] = None,
    since: Since = None,
    until: Until = None,
    department: Department = None,
    project: Project = None,
    principal: Principal = None,
    deployment: Deployment = None,
    model: Model = None,
    seller: PaidTo = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say what the same calls would have cost as another model, or by the prices of another time.

    It takes each call's own token counts. Another model cuts text into other tokens, caches other parts of it and
    answers at another length, so between models this is an estimate. Without --as it is exact: the same calls by the
    tables of now, also those that had no price when they were made.

    Example: [bold]genealog cost what-if --deployment support-bot --as gpt-5-mini --to openai[/bold]
    """
    home = Home.find(store)
    index = _index(home, quiet=json)
    found = what_if(
        index, Tables(home).now(), at=timestamp(when) if (when := moment(at)) else today(), model=as_, seller=to,
        since=moment(since), until=moment(until, last=True),
        where=_where(department, project, principal, None, deployment, model, seller),
    )  # fmt: skip
    if json:
        print_json(_what_if_json(found))
    else:
        _print_what_if(found, as_)


@app.command("break-even")
def break_even_(
    own: Annotated[str, typer.Option(help="The price table of your engine: its seller, or its ID.")],
    engine: Annotated[
        str | None, typer.Option(help="The model whose engine in that table is meant. Default: the first.")
    ] = None,
    seconds_per_call: Annotated[
        str | None,
        typer.Option(help="How long your engine takes for a call. Default: the mean of the calls it has answered."),
    ] = None,
    since: Since = None,
    until: Until = None,
    department: Department = None,
    project: Project = None,
    principal: Principal = None,
    deployment: Deployment = None,
    model: Model = None,
    seller: PaidTo = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say from which volume on an engine of your own costs less than the API that answered these calls.

    An engine costs its GPU-hours whether it is busy or not. It counts as able to answer in all its slots at once, each
    call taking --seconds-per-call; people, power and spare engines are in it as far as they are in its GPU-hour.

    Example: [bold]genealog cost break-even --deployment support-bot --own own/h100 --seconds-per-call 4[/bold]
    """
    home = Home.find(store)
    index = _index(home, quiet=json)
    found = break_even(
        index, Tables(home).find(own), model=engine, seconds_per_call=_seconds(seconds_per_call),
        since=moment(since), until=moment(until, last=True),
        where=_where(department, project, principal, None, deployment, model, seller),
    )  # fmt: skip
    facts = {
        "calls": found.calls,
        "hours": _decimal(found.hours),
        "currency": found.currency,
        "api_per_call": _decimal(found.api_per_call / MICRO, 9),
        "own_per_hour": _decimal(found.own_per_hour / MICRO, 6),
        "engine": found.engine,
        "seconds_per_call": _decimal(found.seconds_per_call),
        "capacity_per_hour": _decimal(found.capacity),
        "volume_per_hour": _decimal(found.volume),
        "break_even_per_hour": _decimal(found.calls_per_hour),
        "break_even_utilisation": _decimal(found.utilisation, 4),
        "engines": found.engines,
        "own_for_volume_per_hour": _decimal(found.own_for_volume / MICRO, 6),
        "api_for_volume_per_hour": _decimal(found.api_per_call * found.volume / MICRO, 6),
        "pays": found.pays,
    }
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        out.print(f"  {name.replace('_', ' '):>24}  {value}", markup=False)
    if found.utilisation > 1:
        out.print("one engine never pays: even when it is always busy, the API costs less")
    else:
        out.print(
            f"an engine pays from {_decimal(found.calls_per_hour)} calls an hour on, "
            f"{_decimal(found.utilisation * 100)} % of what it can answer"
        )


def _index(home: Home, *, quiet: bool) -> Index:
    ledger = Ledger(home)
    ledger.drain()
    with counting("costs", quiet=quiet) as progress:
        catch_up(ledger, progress=progress)
    return home.index


def _where(
    department: Many, project: Many, principal: Many, tenant: Many, deployment: Many, model: Many, seller: Many
) -> dict[str, list[str | None]]:
    given = {
        "department": department, "project": project, "principal": principal, "tenant": tenant,
        "deployment": deployment, "model": model, "seller": seller,
    }  # fmt: skip
    return {name: list(values) for name, values in given.items() if values}


def _print(found: Report) -> None:
    columns = (*found.by, "calls", "cost", "prompt tokens", "cached", "completion tokens", "without cost")
    rows = [
        (
            *(one_line(value) if value is not None else "-" for value in row.values), f"{row.calls:,}",
            money(row.cost, row.currency) if row.currency else "-", f"{row.prompt_tokens:,}",
            f"{row.cached_tokens:,}", f"{row.completion_tokens:,}",
            f"{row.uncovered:,}" if row.uncovered else "",
        )
        for row in found.rows
    ]  # fmt: skip
    print_table(columns, rows, empty="no calls in this time", spare=("cached", "prompt tokens", "completion tokens"))
    for total in found.totals:
        if total.currency:
            out.print(f"total  [bold]{escape(money(total.cost, total.currency))}[/bold] for {total.calls:,} calls")
        if total.partial_calls:
            what = f"{money(total.partial_cost, total.currency)} of it for {total.partial_calls:,} calls that were cut"
            out.print(f"  {what}: they may have cost more", markup=False)
    for state, count in _without(found.totals).items():
        out.print(f"without a cost  {count:,} calls {state}: {_WHY[state]}", markup=False)
    for reason, count in found.reasons.items():
        out.print(f"  {count:,} × {_REASONS.get(reason, reason)} [{reason}]", markup=False)


def _without(sums: Sequence[Sum]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in sums:
        for state, count in each.without.items():
            found[state] = found.get(state, 0) + count
    return dict(sorted(found.items()))


def _report_json(found: Report) -> dict[str, Any]:
    return {
        "by": found.by, "since": found.since, "until": found.until, "calls": found.calls,
        "uncovered": found.uncovered, "reasons": found.reasons,
        "totals": [_sum_json(total) for total in found.totals],
        "rows": [dict(zip(found.by, row.values, strict=True)) | _sum_json(row) for row in found.rows],
    }  # fmt: skip


def _sum_json(row: Sum) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _SUMS}
    if row.currency is None:
        values["cost"] = None
    partial = {"partial_calls": row.partial_calls, "partial_cost": row.partial_cost}
    return {**values, **partial, "uncovered": row.uncovered, "without": dict(sorted(row.without.items()))}


def _print_csv(found: Report) -> None:
    names = (*_SUMS, "partial_calls", "partial_cost", "uncovered")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*found.by, *("cost_millionths" if name == "cost" else name for name in names)])
    for row in found.rows:
        values = _sum_json(row)
        writer.writerow([*(_cell(value) for value in row.values), *(values[name] for name in names)])


def _cell(value: str | None) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    text = one_line(value) if value is not None else ""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and text else text


def _what_if_json(found: WhatIf) -> dict[str, Any]:
    classes = {
        name: {"count": each.count, "cost": str(_half_up(each.cost / MICRO))}
        for name, each in sorted(found.classes.items())
    }
    return {
        "compared": found.compared, "added": found.added, "actual": found.actual, "other": found.other,
        "classes": classes,
        "not_covered": dict(sorted(found.not_covered.items())), "prices": found.prices, "exact": found.exact,
    }  # fmt: skip


def _print_what_if(found: WhatIf, model: str | None) -> None:
    was = ", ".join(money(cost, currency) for currency, cost in sorted(found.actual.items())) or "nothing known"
    other = ", ".join(money(cost, currency) for currency, cost in sorted(found.other.items())) or "nothing known"
    of_them = f"; {found.added:,} of them have no cost" if found.added else ""
    out.print(f"{found.compared:,} calls cost {was}{of_them}", markup=False)
    out.print(f"as {model or 'they are'} they would cost {other}", markup=False)
    rows = [
        (name, f"{each.count:,}", money(_half_up(each.cost / MICRO), None))
        for name, each in sorted(found.classes.items())
    ]
    print_table(("class", "count", "would cost"), rows, empty="no call could be priced")
    for reason, count in sorted(found.not_covered.items()):
        what = "they have no cost now to compare with" if reason == "no-cost-now" else REASONS.get(reason, reason)
        out.print(f"left out  {count:,} calls: {what} [{reason}]", markup=False)
    if not found.exact:
        out.print("an estimate: another model has other tokens and other answers, another engine takes another time")


def _half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def _decimal(value: Fraction, digits: int = 2) -> str:
    """Spell a fraction with so many digits, rounded half up."""
    scaled = _half_up(value * 10**digits)
    whole, part = divmod(scaled, 10**digits)
    return f"{whole}.{part:0{digits}d}"


def _seconds(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if found <= 0:
        raise UsageError("bad-option", "not a number of seconds", got=text[:40], expected="2.5")
    return found
