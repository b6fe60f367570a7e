"""Price tables as people write them, as they are signed, and as vendors' lists give them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from costed_store import OPENAI, OWN, Costed, costed
from genealog.core.call_groups import UsageGroup
from genealog.core.canonical import decode, encode
from genealog.core.prices import PriceTable, lines_of, total
from genealog.cost.files import open_table, parse_table, sign_table
from genealog.cost.tables import Tables
from genealog.cost.vendors import SELLERS, import_vendor
from genealog.errors import GenealogError
from genealog.price_list import whole_table

DAY = dt.date(2026, 10, 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Costed]:
    with costed(tmp_path) as made:
        yield made


def test_prices_are_read_as_the_decimals_that_stand_there() -> None:
    table = parse_table(OPENAI.encode())
    rates = table.entries[0].rates
    assert rates is not None
    assert (rates.input, rates.cached, rates.output) == (1_250_000, 125_000, 10_000_000)
    assert table.entries[0].tiers["batch"].rates.cached == 62_500
    assert table.valid_from == "2026-01-01T00:00:00.000Z"
    own = parse_table(OWN.encode()).entries[0].engine
    assert own is not None
    assert (own.gpu_hour, own.gpus, own.slots) == (2_500_000_000_000, 2, 16)


def test_json_says_the_same_as_toml() -> None:
    text = b"""{"seller": "x", "currency": "EUR", "valid_from": "2026-01-01T12:00:00Z", "source": "s", "until":
        "2027-01-01", "entries": [{"models": ["a"], "per_thousand": {"search": 0.1}, "per_one": {"image": "0.04"},
        "steps": [{"above": 5, "per_million": {"input": 1}}]}]}"""
    table = parse_table(text)
    rates = table.entries[0].rates
    assert rates is not None
    assert (rates.search, rates.image) == (100_000_000, 40_000_000_000)
    assert (table.valid_from, table.until) == ("2026-01-01T12:00:00.000Z", "2027-01-01T00:00:00.000Z")
    assert table.entries[0].steps[0].rates.input == 1_000_000


BAD = [
    ("input = 1.25", "input = nan"),
    ("input = 1.25", "input = -1"),
    ("input = 1.25", "input = true"),
    ("input = 1.25", 'input = "1,25"'),
    ("input = 1.25", "inputs = 1"),
    ("input = 1.25", "input = 1e30"),
    ('currency = "USD"', 'currency = "usd"'),
    ("valid_from = 2026-01-01", 'valid_from = "soon"'),
    ('source = "a test"', ""),
    ('seller = "openai"', 'seller = "Open AI"'),
    ("[[entries]]", "[[entry]]"),
    ('seller = "openai"', "seller"),
]


@pytest.mark.parametrize(("right", "wrong"), BAD)
def test_what_is_no_table_is_refused(right: str, wrong: str) -> None:
    assert right in OPENAI
    with pytest.raises(GenealogError) as error:
        parse_table(OPENAI.replace(right, wrong).encode())
    assert error.value.code == "bad-price-table"
    assert error.value.exit_status == 1


def test_a_price_that_would_have_to_be_rounded_is_refused() -> None:
    with pytest.raises(GenealogError) as error:
        parse_table(OPENAI.replace("1.25", "0.0000001").encode())
    assert error.value.code == "price-too-fine"


def test_a_table_counts_only_if_somebody_of_the_store_signed_it(store: Costed) -> None:
    table = parse_table(OWN.replace("h100", "a100").encode())
    signer = store.registry.signer()
    signed = sign_table(table, signer)
    assert open_table(signed, {signer.keyid: signer.public_der}) == (table, signer.keyid)
    with pytest.raises(GenealogError) as unknown:
        open_table(signed, {})
    assert unknown.value.code == "signer-unknown"
    forged = sign_table(parse_table(OWN.replace("2.50", "1.50").encode()), signer)
    mixed = signed[: signed.index(b'"signatures"')] + forged[forged.index(b'"signatures"') :]
    with pytest.raises(GenealogError) as invalid:
        Tables(store.home).add(mixed)
    assert invalid.value.code == "signature-invalid"
    with pytest.raises(GenealogError) as bare:
        Tables(store.home).add(encode(table))
    assert bare.value.code == "price-table-unsigned"


def test_a_registered_table_can_be_proven(store: Costed) -> None:
    listed = Tables(store.home).find("openai")
    body = store.registry.statement(store.registry.resolve(listed.id).statement).body
    head = body.body  # type: ignore[attr-defined]
    table = whole_table(head, store.home.objects.get(head["entries"]["sha256"]))
    assert table == listed.table
    assert table.id == listed.id
    assert body.claims == {"signed_by": "owner"}  # type: ignore[attr-defined]
    with pytest.raises(GenealogError) as error:
        whole_table(head, encode(parse_table(OWN.encode()).entries))
    assert error.value.code == "bad-price-table"


@pytest.mark.parametrize("seller", SELLERS)
def test_a_vendors_list_makes_a_table(seller: str) -> None:
    made = import_vendor(seller, day=DAY)
    assert decode(encode(made.table), PriceTable) == made.table
    assert "genai-prices" in made.table.source
    assert made.table.valid_from == "2026-10-20T00:00:00.000Z"
    assert import_vendor(seller, day=DAY) == made


CALLS = [
    ("openai", "gpt-5", {"input_tokens": 3000, "cache_read_tokens": 1024, "output_tokens": 700}),
    ("openai", "gpt-4o-2024-08-06", {"input_tokens": 12_345, "output_tokens": 678}),
    ("anthropic", "claude-sonnet-4-5", {"input_tokens": 26_000, "cache_read_tokens": 20_000, "cache_write_tokens": 5000,
                                        "cache_write_1h_tokens": 1000, "output_tokens": 500}),
    ("anthropic", "claude-sonnet-4-5", {"input_tokens": 260_000, "output_tokens": 500}),
    ("anthropic", "claude-opus-4-5-20251101", {"input_tokens": 100, "output_tokens": 500}),
    ("google", "gemini-2.5-pro", {"input_tokens": 200_000, "output_tokens": 1000}),
    ("google", "gemini-2.5-pro", {"input_tokens": 200_001, "cache_read_tokens": 5, "output_tokens": 1000}),
]  # fmt: skip


@pytest.mark.parametrize(("seller", "model", "used"), CALLS)
def test_a_cost_by_an_imported_table_is_the_one_that_the_package_gives(
    seller: str, model: str, used: dict[str, int]
) -> None:
    table = import_vendor(seller, day=DAY).table
    names = {
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
        "cache_read_tokens": "cached_tokens",
    }
    usage = UsageGroup(**{names.get(name, name): count for name, count in used.items()})  # type: ignore[arg-type]
    number = table.find(model)
    assert number is not None
    lines = lines_of(table.entries[number], usage, 0)
    assert not isinstance(lines, str)
    when = dt.datetime(2026, 10, 20, 12, tzinfo=dt.UTC)
    theirs = calc_price(Usage(**used), model, provider_id=seller, genai_request_timestamp=when).total_price
    assert total(lines) == int((theirs * 10**6).quantize(Decimal(1), rounding="ROUND_HALF_UP"))


def test_what_a_table_cannot_say_has_no_price_and_is_told() -> None:
    made = import_vendor("deepseek", day=DAY)
    assert any("time of day" in line for line in made.left_out)
    number = made.table.find("deepseek-reasoner")
    assert number is not None
    assert lines_of(made.table.entries[number], UsageGroup(prompt_tokens=1, completion_tokens=1), 0) == "no-rate"


def test_a_seller_that_nobody_knows() -> None:
    with pytest.raises(GenealogError) as error:
        import_vendor("acme", day=DAY)
    assert error.value.code == "unknown-seller"
