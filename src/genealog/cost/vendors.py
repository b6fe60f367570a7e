"""Vendors' list prices as price tables, from the package `genai-prices` (MIT), version and all.

A table says what was in force on one day. What a table cannot say is left out and named, never approximated: prices by
the time of day, tiers other than `service_tier` and batch, things that no count of a call is known for.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from genealog.core.canonical import MAX_INTEGER
from genealog.core.prices import PICO, Entry, PriceTable, Rates, Step, Tier
from genealog.errors import MissingError, UsageError, not_installed

SELLERS = ("anthropic", "aws", "azure", "cohere", "deepseek", "google", "groq", "mistral", "openai", "together")
_NAMES = {  # theirs → ours, and how many one price is for
    "input_mtok": ("input", 10**6),
    "output_mtok": ("output", 10**6),
    "cache_read_mtok": ("cached", 10**6),
    "cache_write_mtok": ("cache_write", 10**6),
    "cache_write_1h_mtok": ("cache_write_1h", 10**6),
    "input_audio_mtok": ("audio_input", 10**6),
    "output_audio_mtok": ("audio_output", 10**6),
    "input_image_mtok": ("image_input", 10**6),
    "output_image_mtok": ("image_output", 10**6),
    "output_reasoning_mtok": ("reasoning", 10**6),
    "input_mchars": ("character", 10**6),
    "web_searches_kcount": ("search", 10**3),
    "requests_kcount": ("call", 10**3),
    "audio_hours": ("audio_minute", 60),
    "input_audio_hours": ("audio_minute", 60),
}
_UNUSED = frozenset(("storage_searches_kcount",))  # billed beside calls, which never report it


@dataclass(frozen=True, slots=True)
class Imported:
    """A table, and what of the vendor's list it does not say: lines `model: what`."""

    table: PriceTable
    left_out: tuple[str, ...]


class _CannotError(Exception):
    """A table cannot say this."""


def import_vendor(seller: str, *, day: dt.date, name: str | None = None) -> Imported:
    """Return the list prices of `seller`, an ID of `genai-prices`, as they were on `day`. `name`: what to call it.

    Raises: MissingError `extra-not-installed`, `unknown-seller`; UsageError `bad-option` where nothing is left.
    """
    try:
        from genai_prices.data import providers

        release = version("genai-prices")
    except (ImportError, PackageNotFoundError):
        raise not_installed("vendors' list prices", "genai-prices", "prices") from None
    provider = next((each for each in providers if each.id == seller), None)
    if provider is None:
        raise MissingError(
            "unknown-seller", "genai-prices has no such seller", got=seller,
            expected=", ".join(each.id for each in providers)[:300],
        )  # fmt: skip
    entries, left = [], []
    for model in provider.models:
        try:
            entry, notes = _entry(model, day)
        except _CannotError as cannot:
            left.append(f"{model.id}: {cannot}")
            entry, notes = Entry(models=tuple(_patterns(model.match))), []
        entries.append(entry)  # also where it has no price: no pattern behind it may take its place
        left += [f"{model.id}: {note}" for note in notes]
    if all(entry.rates is None for entry in entries):
        raise UsageError("bad-option", "this seller has no price that a table can say", got=seller)
    pages = ", ".join(provider.pricing_urls or ()) or "no page named"
    table = PriceTable(
        seller=name or seller,
        currency="USD",
        valid_from=f"{day.isoformat()}T00:00:00.000Z",
        source=f"genai-prices {release} (MIT), provider {provider.id}, in force on {day.isoformat()}; {pages}",
        entries=tuple(entries),
    )
    table.check()
    return Imported(table, tuple(left))


def _entry(model: Any, day: dt.date) -> tuple[Entry, list[str]]:
    prices = model.prices if isinstance(model.prices, list) else [model]
    current = None
    for each in prices:  # the last one that has begun; one without a constraint always has
        constraint = getattr(each, "constraint", None)
        if constraint is not None and type(constraint).__name__ != "StartDateConstraint":
            raise _CannotError("its price depends on the time of day")
        if constraint is None or constraint.start_date <= day:
            current = each.prices
    if current is None:
        raise _CannotError("it had no price on that day")
    base = _set(current)
    rates, steps = _tariff(base)
    tiers, notes = {}, []
    for variant in model.price_variants or ():
        words = dict(variant.when)
        tier = words.pop("service_tier", None) or words.pop("processing", None)
        if variant.constraint is not None and type(variant.constraint).__name__ != "StartDateConstraint":
            notes.append("a tier whose price depends on the time of day is left out")
        elif words or tier is None:
            notes.append(f"a price for {', '.join(f'{k} {v}' for k, v in variant.when.items())} is left out")
        elif tier not in ("default", "standard") and (
            variant.constraint is None or variant.constraint.start_date <= day
        ):
            of_tier, of_steps = _tariff({**base, **_set(variant.prices)})
            tiers[str(tier).lower()] = Tier(rates=of_tier, steps=of_steps)
    return Entry(models=tuple(_patterns(model.match)), rates=rates, steps=steps, tiers=tiers), notes


def _set(prices: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(prices).items() if value is not None and name not in _UNUSED}


def _tariff(prices: Mapping[str, Any]) -> tuple[Rates, tuple[Step, ...]]:
    """Return the rates, and those of each step: a vendor that has no step for a thing goes on with its price."""
    if "audio_hours" in prices and prices["audio_hours"] != prices.get("input_audio_hours", prices["audio_hours"]):
        raise _CannotError("it has two prices for an hour of audio")
    starts = sorted({tier.start for value in prices.values() for tier in getattr(value, "tiers", ())})
    made = [_rates(prices, start) for start in (0, *starts)]
    if made[0] == Rates():
        raise _CannotError("it has no price")
    return made[0], tuple(Step(above=start, rates=rates) for start, rates in zip(starts, made[1:], strict=True))


def _rates(prices: Mapping[str, Any], above: int) -> Rates:
    found = {}
    for name, value in prices.items():
        if name not in _NAMES:
            if name.startswith("cache_") and name.endswith("_read_mtok"):
                continue  # of cached audio or images, which no call counts: such a call has no price by then
            raise _CannotError(f"it has a price for {name}, which no call reports")
        ours, per = _NAMES[name]
        price = value
        if not isinstance(value, Decimal):
            reached = [tier for tier in value.tiers if 0 < tier.start <= above]
            price = max(reached, key=lambda tier: tier.start).price if reached else value.base
        top, bottom = price.as_integer_ratio()
        pico, rest = divmod(top * PICO, bottom * per)
        if rest or not 0 <= pico <= MAX_INTEGER:
            raise _CannotError(f"{name} is not exact in pico-units: {price}")
        found[ours] = pico
    return Rates(**found)


def _patterns(match: Any) -> Iterator[str]:
    """Yield patterns for what a match of theirs fits."""
    kind = type(match).__name__
    if kind == "ClauseOr":
        for each in match.or_:
            yield from _patterns(each)
    elif kind in _GLOBS and not re.search(r"[*?/]", text := getattr(match, _GLOBS[kind][0])):
        yield _GLOBS[kind][1].format(text)
    else:
        yield f"/{_regex(match)}/"


_GLOBS = {
    "ClauseEquals": ("equals", "{}"), "ClauseStartsWith": ("starts_with", "{}*"),
    "ClauseEndsWith": ("ends_with", "*{}"), "ClauseContains": ("contains", "*{}*"),
}  # fmt: skip


def _regex(match: Any) -> str:
    """Return a regular expression that matches at the start of every name that fits."""
    match type(match).__name__:
        case "ClauseEquals":
            return f"{re.escape(match.equals)}\\Z"
        case "ClauseStartsWith":
            return str(re.escape(match.starts_with))
        case "ClauseEndsWith":
            return f".*{re.escape(match.ends_with)}\\Z"
        case "ClauseContains":
            return f".*{re.escape(match.contains)}"
        case "ClauseRegex":
            return f"(?:{match.regex})" if match.regex.startswith("^") else f".*(?:{match.regex})"
        case "ClauseAnd":
            return "".join(f"(?={_regex(each)})" for each in match.and_)
        case "ClauseOr":
            return "(?:" + "|".join(_regex(each) for each in match.or_) + ")"
    raise _CannotError(f"nobody knows which models {type(match).__name__} fits")
