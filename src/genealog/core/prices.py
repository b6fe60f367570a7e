"""Price tables, and what a call costs by one: exact integers from the usage of a call to millionths of a currency.

A price is an integer of 10⁻¹² units of its currency (pico-units) for one of a thing: a token, an image, a search. One
dollar for a million tokens is 1,000,000 of them, so every list price that vendors write is exact. A cost is the sum of
count × price over classes that do not overlap, rounded half up to a millionth once, at the end of the call.

A call that cannot be priced has no cost, and a word that says why (`core.pricing.REASONS`); nothing is ever guessed,
and no cost is not a cost of zero. Source of the meaning of token counts: `core.call_groups.UsageGroup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from msgspec import Meta, structs, to_builtins

from genealog.core.call_groups import Time, UsageGroup
from genealog.core.canonical import MAX_INTEGER, Record, encode
from genealog.core.ids import record_id, sha256_hex
from genealog.errors import MalformedError

TABLE = "application/vnd.genealog.price-table+json"  # the payload type of a signed table
PICO = 10**12
MICRO = 10**6  # pico-units in a millionth
ENGINE_TIME = "gpu_ms"  # the line of an engine of one's own
STANDARD = frozenset((None, "", "default", "standard", "on_demand"))  # what vendors call the tier that is none
Price = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
Seller = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}\Z")]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]


class Rates(Record):
    """What one of each thing costs, in pico-units. A part of a prompt or an answer without a rate costs what the rest
    of it costs.
    """

    input: Price | None = None
    cached: Price | None = None  # read from the vendor's cache
    cache_write: Price | None = None
    cache_write_1h: Price | None = None  # without it: as `cache_write`
    audio_input: Price | None = None
    image_input: Price | None = None
    output: Price | None = None
    reasoning: Price | None = None
    audio_output: Price | None = None
    image_output: Price | None = None
    image: Price | None = None  # an image that was made
    audio_minute: Price | None = None  # charged by the millisecond
    character: Price | None = None
    search: Price | None = None
    call: Price | None = None


class Step(Record):
    """The rates of a whole call whose prompt has more than `above` tokens."""

    above: Positive
    rates: Rates


class Tier(Record):
    """The rates of a tier: batch, flex, priority."""

    rates: Rates
    steps: tuple[Step, ...] = ()


class OwnEngine(Record):
    """What an engine of one's own costs: pico-units for one GPU and hour, `gpus` of them shared by `slots` calls."""

    gpu_hour: Price
    gpus: Positive = 1
    slots: Positive = 1


class Entry(Record):
    """The prices of some models. The first entry of a table with a pattern that fits is the one that counts; one with
    neither rates nor tiers nor an engine says that their price is not known.

    A pattern is a name with `*` and `?`, or a regular expression between two slashes; case does not matter.
    """

    models: tuple[str, ...]
    rates: Rates | None = None
    steps: tuple[Step, ...] = ()
    tiers: dict[str, Tier] = {}  # noqa: RUF012 - msgspec copies an empty default
    engine: OwnEngine | None = None


class PriceTable(Record, tag_field="t", tag="genealog/price-table/v1"):
    """The prices of one seller from `valid_from` until just before `until`. `source` says where the figures are from.

    Raises: MalformedError `bad-price-table` from `check`.
    """

    seller: Seller
    currency: Currency
    valid_from: Time
    source: str
    entries: tuple[Entry, ...]
    until: Time | None = None

    @property
    def head(self) -> dict[str, Any]:
        """The body of the table's artifact: all but its entries, which stand there by digest."""
        entries = self.entries_bytes
        kept = {"sha256": sha256_hex(entries), "size": len(entries), "count": len(self.entries)}
        plain = to_builtins(structs.replace(self, entries=()))
        return {**plain, "entries": kept}

    @property
    def entries_bytes(self) -> bytes:
        """The canonical bytes that the head has a digest of."""
        return encode(self.entries)

    @property
    def id(self) -> str:
        """The table's ID: `glr1:…`, the record ID of its head."""
        return record_id(self.head)

    def check(self) -> None:
        """Refuse what no call could be priced by. Raises: MalformedError `bad-price-table`."""
        if self.until is not None and self.until <= self.valid_from:
            raise _bad("it ends before it begins", self.until)
        if not self.entries:
            raise _bad("it has no entries", self.seller)
        for number, entry in enumerate(self.entries):
            _check_entry(number, entry)

    def find(self, model: str) -> int | None:
        """Return the number of the entry for a model, None if no pattern fits."""
        return _find(self, model.lower())


@dataclass(frozen=True, slots=True)
class Line:
    """One class of what a call used: `count` things at `rate` pico-units for `per` of them."""

    name: str
    count: int
    rate: int
    per: int = 1


def total(lines: Iterable[Line]) -> int:
    """Return the sum of lines in millionths, rounded half up once."""
    top, bottom = 0, 1
    for line in lines:
        top, bottom = top * line.per + line.count * line.rate * bottom, bottom * line.per
    return (2 * top + bottom * MICRO) // (2 * bottom * MICRO)


def lines_of(entry: Entry, usage: UsageGroup, milliseconds: int | None) -> tuple[Line, ...] | str:
    """Return the lines of a bill, or the key of `pricing.REASONS` that says why there is none."""
    if (own := entry.engine) is not None:
        if milliseconds is None:
            return "usage-missing"
        return (Line(ENGINE_TIME, milliseconds * own.gpus, own.gpu_hour, 3_600_000 * own.slots),)
    if entry.rates is None and not entry.tiers:
        return "no-rate"
    tier = (usage.tier or "").lower()
    if tier in STANDARD and entry.rates is not None:
        rates, steps = entry.rates, entry.steps
    elif tier in entry.tiers:
        rates, steps = entry.tiers[tier].rates, entry.tiers[tier].steps
    else:
        return "no-tier"
    for step in steps:  # in rising order
        if usage.prompt_tokens is not None and usage.prompt_tokens > step.above:
            rates = step.rates
    try:
        lines = tuple(line for line in _lines(rates, usage) if line.count)
    except _NoPriceError as none:
        return str(none)
    return lines


class _NoPriceError(Exception):
    pass


def _lines(rates: Rates, usage: UsageGroup) -> Iterator[Line]:
    units = [
        Line("image", usage.images, rates.image) if usage.images is not None and rates.image is not None else None,
        Line("audio_ms", usage.audio_ms, rates.audio_minute, 60_000)
        if usage.audio_ms is not None and rates.audio_minute is not None
        else None,
        Line("character", usage.characters, rates.character)
        if usage.characters is not None and rates.character is not None
        else None,
    ]
    counted = [line for line in units if line is not None]
    yield from counted
    by_token = rates.input is not None or rates.output is not None
    by_unit = any(rate is not None for rate in (rates.image, rates.audio_minute, rates.character))
    missing = (usage.prompt_tokens is None and rates.input is not None) or (
        usage.completion_tokens is None and rates.output is not None
    )
    if not counted and (missing if by_token else by_unit):
        raise _NoPriceError("usage-missing")
    if by_token:
        yield from _prompt(rates, usage)
        yield from _completion(rates, usage)
    if usage.searches:
        yield Line("search", usage.searches, _rate(rates.search))
    if rates.call is not None:
        yield Line("call", 1, rates.call)


def _prompt(rates: Rates, usage: UsageGroup) -> Iterator[Line]:
    """Take a prompt apart. Parts without a rate of their own stay in it."""
    if usage.prompt_tokens is None:
        return
    written, hour = usage.cache_write_tokens or 0, usage.cache_write_1h_tokens or 0
    if hour > written:
        raise _NoPriceError("usage-inconsistent")
    longer = rates.cache_write_1h if rates.cache_write_1h is not None else rates.cache_write
    caches = (
        ("cached", usage.cached_tokens or 0, rates.cached),
        ("cache_write", written - hour, rates.cache_write),
        ("cache_write_1h", hour, longer),
    )
    media = (
        ("audio_input", usage.audio_prompt_tokens or 0, rates.audio_input),
        ("image_input", usage.image_prompt_tokens or 0, rates.image_input),
    )
    if any(count and rate is not None for _, count, rate in caches) and any(
        count and rate is not None for _, count, rate in media
    ):
        raise _NoPriceError("classes-overlap")
    yield from _apart("input", usage.prompt_tokens, rates.input, (*caches, *media))


def _completion(rates: Rates, usage: UsageGroup) -> Iterator[Line]:
    if usage.completion_tokens is not None:
        parts = (
            ("reasoning", usage.reasoning_tokens or 0, rates.reasoning),
            ("audio_output", usage.audio_completion_tokens or 0, rates.audio_output),
            ("image_output", usage.image_completion_tokens or 0, rates.image_output),
        )
        yield from _apart("output", usage.completion_tokens, rates.output, parts)


def _apart(name: str, whole: int, rate: int | None, parts: Iterable[tuple[str, int, int | None]]) -> Iterator[Line]:
    for part, count, own in parts:
        if count and own is not None:
            whole -= count
            yield Line(part, count, own)
    if whole < 0:
        raise _NoPriceError("usage-inconsistent")
    if whole:
        yield Line(name, whole, _rate(rate))


def _rate(rate: int | None) -> int:
    if rate is None:
        raise _NoPriceError("no-rate")
    return rate


def _find(table: PriceTable, model: str) -> int | None:
    for number, entry in enumerate(table.entries):
        if any(_compiled(pattern).match(model) for pattern in entry.models):
            return number
    return None


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        return re.compile(pattern[1:-1], re.IGNORECASE | re.DOTALL)
    parts = (".*" if letter == "*" else "." if letter == "?" else re.escape(letter) for letter in pattern.lower())
    return re.compile("".join(parts) + r"\Z", re.DOTALL)


def _check_entry(number: int, entry: Entry) -> None:
    if not entry.models:
        raise _bad(f"entry {number} names no models", "")
    for pattern in entry.models:
        try:
            _compiled(pattern)
        except re.error as error:
            raise _bad(f"entry {number} has a pattern that is none: {error}", pattern) from None
    if entry.engine is not None and (entry.rates is not None or entry.tiers or entry.steps):
        raise _bad(f"entry {number} has either rates or an engine", entry.models[0])
    given = [entry.rates, *(tier.rates for tier in entry.tiers.values())]
    given += [step.rates for steps in (entry.steps, *(t.steps for t in entry.tiers.values())) for step in steps]
    if Rates() in given or (entry.steps and entry.rates is None):
        raise _bad(f"entry {number} has rates without a price; one that is nothing is 0", entry.models[0])
    tariffs: Mapping[str, tuple[Step, ...]] = {"": entry.steps} | {n: t.steps for n, t in entry.tiers.items()}
    for name, steps in tariffs.items():
        if name != name.lower() or (name and name in STANDARD):
            raise _bad(f"entry {number} has a tier whose name is none", name)
        above = [step.above for step in steps]
        if above != sorted(set(above)):
            raise _bad(f"the steps of entry {number} do not rise", ", ".join(map(str, above)))


def _bad(what: str, got: str) -> MalformedError:
    return MalformedError("bad-price-table", f"a price table cannot be used: {what}", got=got or None)
