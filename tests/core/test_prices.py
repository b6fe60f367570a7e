"""What a call costs: bills computed by hand, an oracle in fractions, and every reason why there is no cost."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from genealog.core.call_groups import UsageGroup
from genealog.core.prices import Entry, Line, OwnEngine, PriceTable, Rates, Step, Tier, lines_of, total
from genealog.core.pricing import REASONS, Listed, Prices, milliseconds_between
from genealog.errors import MalformedError

MTOK = 1_000_000  # a dollar for a million tokens, in pico-dollars for one
AT = "2026-11-20T10:00:00.000Z"
CLAUDE = Entry(
    models=("claude-sonnet-4-5*",),
    rates=Rates(
        input=3 * MTOK, output=15 * MTOK, cached=MTOK * 3 // 10, cache_write=MTOK * 375 // 100, cache_write_1h=6 * MTOK,
        search=10**10,
    ),
)  # fmt: skip
GPT = Entry(
    models=("gpt-5",),
    rates=Rates(input=MTOK * 125 // 100, cached=MTOK // 8, output=10 * MTOK),
    tiers={"batch": Tier(rates=Rates(input=MTOK * 625 // 1000, cached=MTOK // 16, output=5 * MTOK))},
)
GEMINI = Entry(
    models=("gemini-2.5-pro*",),
    rates=Rates(input=MTOK * 125 // 100, cached=MTOK // 8, output=10 * MTOK),
    steps=(Step(above=200_000, rates=Rates(input=MTOK * 25 // 10, cached=MTOK // 4, output=15 * MTOK)),),
)
FLASH = Entry(models=("flash",), rates=Rates(input=3 * MTOK // 10, audio_input=MTOK, output=25 * MTOK // 10))
IMAGE = Entry(models=("dall-e-3",), rates=Rates(image=4 * 10**10))
WHISPER = Entry(models=("whisper-1",), rates=Rates(audio_minute=6 * 10**9))
SPEECH = Entry(models=("tts-1",), rates=Rates(character=15 * MTOK))
OWN = Entry(models=("*",), engine=OwnEngine(gpu_hour=2_500_000_000_000, gpus=2, slots=16))

BILLS = [  # entry, usage, milliseconds, millionths of a dollar; computed by hand from the vendors' pages
    # 1,000 fresh * 3.00 + 20,000 read * 0.30 + 4,000 for 5 min * 3.75 + 1,000 for 1 h * 6.00 + 500 out * 15.00
    (CLAUDE, {"prompt_tokens": 26_000, "cached_tokens": 20_000, "cache_write_tokens": 5_000,
              "cache_write_1h_tokens": 1_000, "completion_tokens": 500}, 0, 3000 + 6000 + 15_000 + 6000 + 7500),
    (CLAUDE, {"prompt_tokens": 10, "completion_tokens": 1, "searches": 3}, 0, 30 + 15 + 30_000),
    # 1,976 fresh * 1.25 + 1,024 read * 0.125 + 700 out * 10, of which 512 reasoning: 2,470 + 128 + 7,000
    (GPT, {"prompt_tokens": 3_000, "cached_tokens": 1_024, "completion_tokens": 700, "reasoning_tokens": 512}, 0, 9598),
    (GPT, {"prompt_tokens": 3_000, "cached_tokens": 1_024, "completion_tokens": 700, "tier": "batch"}, 0, 4799),
    (GPT, {"prompt_tokens": 1, "completion_tokens": 0}, 0, 1),  # 1.25 millionths
    (GPT, {"prompt_tokens": 2, "completion_tokens": 0}, 0, 3),  # 2.5, half up
    (GEMINI, {"prompt_tokens": 200_000, "completion_tokens": 1_000}, 0, 250_000 + 10_000),
    (GEMINI, {"prompt_tokens": 200_001, "completion_tokens": 1_000}, 0, 500_003 + 15_000),  # 500,002.5 up
    (GEMINI, {"prompt_tokens": 300_000, "cached_tokens": 100_000, "completion_tokens": 0}, 0, 500_000 + 25_000),
    (FLASH, {"prompt_tokens": 1_000, "audio_prompt_tokens": 400, "completion_tokens": 0}, 0, 180 + 400),
    (IMAGE, {"images": 3}, 0, 120_000),
    (WHISPER, {"audio_ms": 61_000}, 0, 6_100),
    (SPEECH, {"characters": 1_000}, 0, 15_000),
    (OWN, {}, 7_200, 625),  # 2 GPUs * 2.50 an hour * 7.2 s ÷ 16 slots
    (OWN, {"prompt_tokens": 10}, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "usage", "milliseconds", "expected"), BILLS)
def test_a_bill_is_what_it_was_computed_to_be_by_hand(
    entry: Entry, usage: dict[str, Any], milliseconds: int, expected: int
) -> None:
    lines = lines_of(entry, UsageGroup(**usage), milliseconds)
    assert not isinstance(lines, str)
    assert total(lines) == expected


NONE = [
    (GPT, {}, "usage-missing"),
    (GPT, {"prompt_tokens": 5}, "usage-missing"),
    (GPT, {"prompt_tokens": 5, "completion_tokens": 1, "tier": "priority"}, "no-tier"),
    (GPT, {"prompt_tokens": 5, "completion_tokens": 1, "searches": 1}, "no-rate"),
    (GPT, {"prompt_tokens": 5, "cached_tokens": 6, "completion_tokens": 1}, "usage-inconsistent"),
    (CLAUDE, {"prompt_tokens": 9, "cache_write_tokens": 1, "cache_write_1h_tokens": 2, "completion_tokens": 1},
     "usage-inconsistent"),
    (IMAGE, {}, "usage-missing"),
    (IMAGE, {"prompt_tokens": 5, "completion_tokens": 1}, "usage-missing"),
    (OWN, {}, "usage-missing"),
    (Entry(models=("x",)), {"prompt_tokens": 1}, "no-rate"),
    (Entry(models=("x",), rates=Rates(input=1)), {"prompt_tokens": 1, "completion_tokens": 1}, "no-rate"),
    (Entry(models=("x",), rates=Rates(input=4, cached=1, audio_input=9, output=1)),
     {"prompt_tokens": 9, "cached_tokens": 2, "audio_prompt_tokens": 2, "completion_tokens": 1}, "classes-overlap"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "usage", "reason"), NONE)
def test_what_cannot_be_priced_has_a_reason_and_no_cost(entry: Entry, usage: dict[str, Any], reason: str) -> None:
    assert lines_of(entry, UsageGroup(**usage), None) == reason
    assert reason in REASONS


def test_embeddings_have_no_completion_to_pay_for() -> None:
    entry = Entry(models=("e",), rates=Rates(input=20_000))
    assert lines_of(entry, UsageGroup(prompt_tokens=50), 0) == (Line("input", 50, 20_000),)
    assert lines_of(entry, UsageGroup(prompt_tokens=50, completion_tokens=0), 0) == (Line("input", 50, 20_000),)


PRICES = st.one_of(st.none(), st.integers(0, 10**12))
COUNTS = st.integers(0, 10**7)


@st.composite
def usages(draw: st.DrawFn) -> UsageGroup:
    cached, write, hour, text = draw(COUNTS), draw(COUNTS), draw(COUNTS), draw(COUNTS)
    reasoning, audio, rest = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    return UsageGroup(
        prompt_tokens=cached + write + hour + text, cached_tokens=cached, cache_write_tokens=write + hour,
        cache_write_1h_tokens=hour, completion_tokens=reasoning + audio + rest, reasoning_tokens=reasoning,
        audio_completion_tokens=audio, searches=draw(st.integers(0, 100)),
    )  # fmt: skip


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    optional = ("cached", "cache_write", "cache_write_1h", "reasoning", "audio_output")
    given_ = {name: draw(PRICES) for name in optional}
    return Rates(input=draw(st.integers(0, 10**12)), output=draw(st.integers(0, 10**12)),
                 search=draw(st.integers(0, 10**12)), **given_)  # fmt: skip


def oracle(price: Rates, usage: UsageGroup) -> Fraction:
    """The same in other words: each token by the first price that is there for it, in dollars."""
    count = {name: value or 0 for name, value in structs.asdict(usage).items() if name.endswith(("tokens", "searches"))}
    fresh = count["prompt_tokens"] - count["cached_tokens"] - count["cache_write_tokens"]
    short = count["cache_write_tokens"] - count["cache_write_1h_tokens"]
    said = count["completion_tokens"] - count["reasoning_tokens"] - count["audio_completion_tokens"]

    def first(*names: str) -> int:
        found: int = next(p for name in names if (p := getattr(price, name)) is not None)
        return found

    parts = [
        (fresh, first("input")), (count["cached_tokens"], first("cached", "input")),
        (short, first("cache_write", "input")),
        (count["cache_write_1h_tokens"], first("cache_write_1h", "cache_write", "input")), (said, first("output")),
        (count["reasoning_tokens"], first("reasoning", "output")),
        (count["audio_completion_tokens"], first("audio_output", "output")), (count["searches"], first("search")),
    ]  # fmt: skip
    return sum((Fraction(number * each, 10**12) for number, each in parts), Fraction(0))


@given(rates(), usages())
def test_a_cost_is_the_fraction_rounded_half_up_to_the_millionth(price: Rates, usage: UsageGroup) -> None:
    lines = lines_of(Entry(models=("m",), rates=price), usage, None)
    assert not isinstance(lines, str)
    cost = total(lines)
    assert cost >= 0
    assert cost == (oracle(price, usage) * 10**6 + Fraction(1, 2)).__floor__()


@given(rates(), usages(), usages())
def test_costs_add_up_but_for_the_rounding_of_each_call(price: Rates, one: UsageGroup, two: UsageGroup) -> None:
    entry = Entry(models=("m",), rates=price)
    names = [name for name, value in structs.asdict(one).items() if isinstance(value, int)]
    both = UsageGroup(**{name: getattr(one, name) + getattr(two, name) for name in names})
    lines = [lines_of(entry, usage, None) for usage in (one, two, both)]
    assert not any(isinstance(each, str) for each in lines)
    first, second, whole = (total(each) for each in lines)  # type: ignore[arg-type]
    assert abs(first + second - whole) <= 1
    assert total((*lines[0], *lines[1])) == whole  # type: ignore[misc]


def listed(book: PriceTable, **changes: Any) -> Listed:
    known: dict[str, Any] = {
        "id": book.id, "name": "prices/x", "seller": book.seller, "currency": book.currency,
        "valid_from": book.valid_from, "until": book.until, "registered_at": "2026-01-01T00:00:00.000Z",
        "revoked_at": None, "source": book.source, "signer": "owner", "count": len(book.entries), "table": book,
    }  # fmt: skip
    return Listed(**(known | changes))


def table(*entries: Entry, **changes: Any) -> PriceTable:
    known: dict[str, Any] = {
        "seller": "openai", "currency": "USD", "valid_from": "2026-01-01T00:00:00.000Z", "source": "a test",
        "entries": entries or (GPT,),
    }  # fmt: skip
    return PriceTable(**(known | changes))


USED = UsageGroup(prompt_tokens=1_000_000, completion_tokens=0)


def cost(prices: Prices, at: str = AT, model: str = "gpt-5", seller: str | None = "openai", **more: Any) -> Any:
    done = prices.price(USED, seller=seller, model=model, at=at, milliseconds=1, **more)
    return done.reason if done.cost is None else (done.cost, done.price)


def test_the_newest_table_in_force_counts() -> None:
    old, new = table(), table(source="newer", valid_from="2026-06-01T00:00:00.000Z", until="2026-12-01T00:00:00.000Z")
    prices = Prices([listed(new), listed(old)])
    assert cost(prices, "2026-05-31T23:59:59.999Z") == (1_250_000, f"{old.id}#0")
    assert cost(prices, "2026-06-01T00:00:00.000Z") == (1_250_000, f"{new.id}#0")
    assert cost(prices, "2026-12-01T00:00:00.000Z") == (1_250_000, f"{old.id}#0")
    assert cost(prices, "2025-12-31T23:59:59.999Z") == "no-table"
    assert cost(prices, seller="another") == "no-table"
    assert cost(prices, seller=None) == "no-seller"
    assert cost(prices, model="gpt-6") == "no-model"


def test_a_table_counts_from_its_registration_and_until_its_revocation() -> None:
    one = table()
    prices = Prices([listed(one, registered_at=AT, revoked_at="2026-11-21T00:00:00.000Z")])
    assert cost(prices, "2026-11-20T09:59:59.999Z") == "no-table"
    assert cost(prices, "2026-11-20T09:59:59.999Z", known=False) == "no-table"  # revoked: nothing goes by it any more
    assert cost(prices, AT) == (1_250_000, f"{one.id}#0")
    assert cost(prices, "2026-11-21T00:00:00.000Z") == "no-table"
    late = Prices([listed(one, registered_at=AT)])
    assert cost(late, "2026-11-20T09:59:59.999Z", known=False) == (1_250_000, f"{one.id}#0")


def test_of_two_tables_that_begin_at_once_neither_counts_and_a_damaged_one_hides_no_older_one() -> None:
    one, two = table(), table(source="another")
    assert cost(Prices([listed(one), listed(two)])) == "many-tables"
    assert listed(one).clashes(listed(two))
    assert not listed(one, revoked_at=AT).clashes(listed(two, registered_at=AT))
    newer = table(source="newer", valid_from="2026-06-01T00:00:00.000Z")
    assert cost(Prices([listed(one), listed(newer, table=None)])) == "table-damaged"


def test_the_first_entry_that_fits_counts() -> None:
    cheap, other = Rates(input=0, output=0), Rates(input=1, output=1)
    book = table(
        Entry(models=("gpt-5-mini*", "a?c"), rates=cheap), Entry(models=("/gpt-5(?!-chat)/", "GPT-4o"), rates=other)
    )
    names = ("gpt-5-mini-2025", "ABC", "gpt-5", "gpt-5-chat", "gpt-4O", "gpt-4o-2024", "agpt-5")
    assert [book.find(name) for name in names] == [0, 0, 1, None, 1, None, None]


def test_the_id_of_a_table_covers_its_entries() -> None:
    one = table()
    assert one.id == table().id
    assert one.id.startswith("glr1:")
    assert one.head["entries"]["count"] == 1
    changed = Entry(models=("gpt-5",), rates=Rates(input=1, output=10 * MTOK))
    assert table(changed).id != one.id


BAD = [
    {"entries": (Entry(models=()),)},
    {"entries": (Entry(models=("/(/",), rates=Rates(input=1)),)},
    {"entries": (Entry(models=("x",), rates=Rates()),)},
    {"entries": (Entry(models=("x",), rates=Rates(input=1), engine=OwnEngine(gpu_hour=1)),)},
    {"entries": (Entry(models=("x",), rates=Rates(input=1), tiers={"Batch": Tier(rates=Rates(input=1))}),)},
    {"entries": (Entry(models=("x",), rates=Rates(input=1), tiers={"default": Tier(rates=Rates(input=1))}),)},
    {"entries": (Entry(models=("x",), rates=Rates(input=1), steps=tuple(
        Step(above=above, rates=Rates(input=1)) for above in (2, 1))),)},
    {"until": "2026-01-01T00:00:00.000Z"},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD)
def test_a_table_that_no_call_could_be_priced_by_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError) as error:
        table(**changes).check()
    assert error.value.code == "bad-price-table"


def test_a_call_that_ended_before_it_began_took_no_time_that_is_known() -> None:
    assert milliseconds_between("2026-11-20T10:00:00.250Z", "2026-11-20T10:01:00.000Z") == 59_750
    assert milliseconds_between(AT, "2026-11-20T09:59:59.999Z") is None
