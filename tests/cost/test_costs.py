"""Calls are sealed with what they cost; rows add up to it; nothing that is not known is shown as nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import select, text

from call_node import Crash, crash_at
from command_line import Cli, cli
from costed_store import OPENAI, OWN, Costed, costed, used
from genealog.core.canonical import timestamp
from genealog.cost.projection import catch_up
from genealog.cost.report import report
from genealog.cost.spending import Spending
from genealog.cost.tables import Tables, today
from genealog.cost.what_if import break_even, what_if
from genealog.erasure import Erasure
from genealog.errors import GenealogError
from genealog.ledger import Ledger
from genealog.store import schema
from genealog.store.index import Index
from postgres import PASSWORD, PostgresServer, own_postgres, postgres

__all__ = ["cli", "own_postgres", "postgres"]
TABLES = ("account", "cost", "spend")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Costed]:
    with costed(tmp_path) as made:
        yield made


def test_a_call_is_sealed_with_its_cost_and_the_entry_that_it_used(store: Costed) -> None:
    table = Tables(store.home).find("openai")
    plain = store.call(used(3000, 700, 1024), model="gpt-5-2026-01-31")
    batch = store.call(used(3000, 700, 1024), tier="batch")
    own = store.call(used(10, 10), seller="own/h100", model="llama", seconds=7.2)
    named = store.call(used(1000, 0), model=None, asked="gpt-5-mini")
    other = store.call(used(1000, 0), model=None, asked="prod/bot", served_as="gpt-5-mini")
    store.drain()
    usage = store.usage(plain)
    assert (usage["cost"], usage["currency"], usage["price"]) == (9598, "USD", f"{table.id}#0")
    assert store.usage(batch)["cost"] == 4799
    assert store.usage(own)["cost"] == 625
    assert store.usage(named)["price"] == store.usage(other)["price"] == f"{table.id}#1"


@pytest.mark.parametrize(
    ("usage", "changes"),
    [
        (None, {}),
        (used(5, 5), {"seller": None}),
        (used(5, 5), {"seller": "nobody"}),
        (used(5, 5), {"model": "gpt-6"}),
        (used(5, 5), {"tier": "priority"}),
        (None, {"end": False}),
        (None, {"seller": "own/h100", "finish": "refused", "seconds": 7.2}),
    ],
)
def test_a_call_that_cannot_be_priced_has_no_cost(store: Costed, usage: object, changes: dict[str, object]) -> None:
    call = store.call(usage, **changes)  # type: ignore[arg-type]
    store.end_boot()
    store.drain()
    assert not {"cost", "currency", "price"} & store.usage(call).keys()


def test_a_table_counts_only_for_calls_that_begin_after_it_was_registered(store: Costed) -> None:
    store.at = datetime.now(UTC) - timedelta(seconds=30)
    before = store.call(used(5, 5))
    store.drain()
    assert "cost" not in store.usage(before)


@pytest.mark.parametrize("step", range(1, 5))
def test_a_table_that_comes_between_a_crash_and_the_next_run_changes_no_byte(store: Costed, step: int) -> None:
    store.at = datetime.now(UTC)
    calls = [store.call(used(1000 * number, 10)) for number in range(1, 4)]
    sequencer = store.ledger.sequencer()
    crashed = crash_at(sequencer, step)
    with pytest.raises(Crash):
        sequencer.run_once()
    assert crashed()
    kept = {call: row for call in calls if (row := _groups(store, call)) is not None}
    store.table(OPENAI.replace("1.25", "99"), valid_from="2026-02-01")
    store.drain()
    assert [store.usage(call)["cost"] for call in calls] == [1350, 2600, 3850]
    for call, groups in kept.items():
        assert _groups(store, call) == groups
    assert not [found for found in store.ledger.fsck() if found.severity == "error"]


def _groups(store: Costed, call: str) -> dict[str, tuple[bytes, bytes]] | None:
    try:
        return store.home.vault.get_groups(call)
    except GenealogError:
        return None


def a_day(store: Costed) -> dict[str, str]:
    """Record calls of each kind; return kind → call."""
    calls = {
        "a": store.call(used(1000, 100), department="law", project="x"),
        "b": store.call(used(1000, 100, 500), department="law", project="y", model="gpt-5-mini"),
        "c": store.call(used(2000, 0), department="tax", principal="other"),
        "cut": store.call(used(100, 10), department="tax", finish="client_abandoned"),
        "unpriced": store.call(used(5, 5), department="tax", model="gpt-6"),
        "silent": store.call(None, department="tax"),
        "failed": store.call(None, department="tax", status=429),
        "own": store.call(used(10, 10), department="tax", seller="own/h100", seconds=3.6),
        "open": store.call(None, department="tax", end=False),
    }
    store.end_boot()
    store.drain()
    return calls


def test_sums_are_those_of_the_calls_and_say_what_they_do_not_cover(store: Costed) -> None:
    calls = a_day(store)
    catch_up(store.ledger)
    found = report(store.home.index, by=("department",))
    rows = {(row.values, row.currency): row for row in found.rows}
    costs = {name: store.usage(call).get("cost") for name, call in calls.items()}
    assert costs["a"] == 2250
    assert costs["b"] == 338  # 125 + 12.5 + 200, half up
    assert rows[("law",), "USD"].cost == 2250 + 338
    tax = rows[("tax",), "USD"]
    assert (tax.cost, tax.calls) == (sum(costs[name] or 0 for name in ("c", "cut", "own")), 3)
    assert (tax.partial_calls, tax.partial_cost) == (1, costs["cut"])
    assert rows[("tax",), None].without == {"unpriced": 2, "failed": 1, "open": 1}
    assert rows[("tax",), None].uncovered == 3
    assert found.calls == 9
    assert found.uncovered == 3
    assert found.reasons == {"no-price": 1, "usage-missing": 1}
    assert [total.currency for total in found.totals] == ["USD", None]


@pytest.mark.parametrize("by", [("project",), ("model", "seller"), ("day",), ("hour", "principal"), ("price",), ()])
def test_any_dimension_adds_up_to_the_same_total(store: Costed, by: tuple[str, ...]) -> None:
    a_day(store)
    catch_up(store.ledger)
    found = report(store.home.index, by=by)
    assert (
        sum(row.cost for row in found.rows)
        == sum(total.cost for total in found.totals)
        == 2250 + 338 + 2500 + 225 + 313
    )
    assert sum(row.calls for row in found.rows) == 9


def test_a_time_may_cut_an_hour_anywhere(store: Costed) -> None:
    start = store.at = (store.at + timedelta(hours=1)).replace(minute=59, second=59, microsecond=999_000)
    moments = [start + timedelta(milliseconds=step) for step in (0, 1, 1_800_000, 3_600_000, 3_600_001, 7_300_000)]
    for moment in moments:
        store.at = moment
        store.call(used(1000, 0))
    store.drain()
    catch_up(store.ledger)
    times = [start + timedelta(milliseconds=step) for step in (-1, 0, 1, 1_000, 3_600_000, 3_600_001, 9_000_000)]
    for since in (None, *times):
        for until in (None, *times):
            found = report(store.home.index, since=since, until=until)
            inside = [m for m in moments if (since is None or m >= since) and (until is None or m <= until)]
            assert found.calls == len(inside)


def test_what_is_erased_is_unknown_and_no_name_of_it_is_left(store: Costed) -> None:
    calls = a_day(store)
    gone = store.call(used(1000, 0), department="secret", principal="someone")
    store.drain()
    catch_up(store.ledger)
    before = report(store.home.index)
    _erase(store, gone)
    catch_up(store.ledger)
    after = report(store.home.index, by=("department",))
    assert after.calls == before.calls
    assert sum(row.cost for row in after.rows) == before.totals[0].cost - 1250
    assert {row.values: row.without for row in after.rows if "erased" in row.without} == {(None,): {"erased": 1}}
    names = {row["department"] for row in store.home.index.rows(select(schema.account))}
    assert names == {"law", "tax", None}
    dumped = store.home.index.dump(TABLES)
    store.ledger.rebuild()
    catch_up(store.ledger)
    assert store.home.index.dump(TABLES) == dumped
    assert store.usage(calls["a"])["cost"] == 2250


def _erase(store: Costed, call: str) -> None:
    erasure = Erasure(store.home)
    erasure.erase(erasure.parts(call=call), reason="a test", signer=store.registry.signer())
    with pytest.raises(GenealogError, match="erased"):
        store.home.vault.get_groups(call)


def test_a_group_that_is_not_what_was_sealed_gives_no_figure(store: Costed) -> None:
    call = store.call(used(1000, 0), department="law")
    store.drain()
    other = store.call(used(9000, 0), department="law")
    store.drain()
    vault = store.home.vault
    with vault.transaction():
        vault.db.run("UPDATE call SET group_usage = (SELECT group_usage FROM call WHERE call = ?) WHERE call = ?",
                     (other, call))  # fmt: skip
    catch_up(store.ledger)
    found = report(store.home.index)
    assert found.totals[0].cost == 11_250
    assert found.totals[1].without == {"altered": 1}


def test_rebuilding_gives_the_same_rows_however_often_one_looked(store: Costed) -> None:
    for number in range(5):
        store.call(used(100 * number, number), department=f"d{number % 2}")
        store.drain()
        catch_up(store.ledger)
    dumped = store.home.index.dump(TABLES)
    assert len(dumped["cost"]) == 5
    store.ledger.rebuild()
    assert catch_up(store.ledger) == 5
    assert catch_up(store.ledger) == 0
    assert store.home.index.dump(TABLES) == dumped


def test_postgresql_has_the_rows_and_answers_of_the_file(
    store: Costed, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    a_day(store)
    catch_up(store.ledger)
    expected, sums = store.home.index.dump(TABLES), report(store.home.index, by=("department", "day"))
    spent = Spending(store.ledger).all(store.at - timedelta(hours=2), "USD")
    estimate = what_if(store.home.index, Tables(store.home).now(), at=timestamp(store.at), model="gpt-5-mini")
    shared = Index(postgres.url, tables="genealog_costs")
    monkeypatch.setitem(store.home.__dict__, "index", shared)
    try:
        shared.clear()
        ledger = Ledger(store.home)
        catch_up(ledger)
        assert shared.dump(TABLES) == expected
        assert report(shared, by=("department", "day")) == sums
        assert Spending(ledger).all(store.at - timedelta(hours=2), "USD") == spent
        assert what_if(shared, Tables(store.home).now(), at=timestamp(store.at), model="gpt-5-mini") == estimate
    finally:
        with shared.writing() as connection:
            connection.execute(text("DROP SCHEMA genealog_costs CASCADE"))
        shared.close()


def test_what_a_principal_has_spent(store: Costed) -> None:
    a_day(store)
    spending = Spending(store.ledger)
    assert spending.refresh() == 9
    hour_ago = store.at - timedelta(hours=1)
    assert spending("other", hour_ago, "USD") == 2500
    assert spending("other", hour_ago, "EUR") == 0
    assert spending("other", store.at + timedelta(hours=2), "USD") == 0
    assert spending.all(hour_ago, "USD") == {"other": 2500, "svc": 2250 + 338 + 225 + 313}


def test_the_same_calls_as_another_model(store: Costed) -> None:
    a_day(store)
    catch_up(store.ledger)
    prices = Tables(store.home).now()
    found = what_if(store.home.index, prices, at=timestamp(store.at), model="gpt-5-mini", where={"department": ["law"]})
    assert found.compared == 2
    assert found.actual == {"USD": 2250 + 338}
    assert found.other == {"USD": 450 + 338}
    assert found.classes["cached"].count == 500
    assert found.classes["cached"].cost == Fraction(500 * 25_000)
    assert not found.exact
    again = what_if(store.home.index, prices, at=timestamp(store.at), where={"department": ["law"]})
    assert again.exact
    assert again.other == again.actual
    elsewhere = what_if(store.home.index, prices, at=timestamp(store.at), seller="own/h100")
    assert elsewhere.compared
    assert not elsewhere.exact  # how long our engine would have taken is not known


def test_calls_that_were_not_priced_can_be_priced_by_a_later_table(store: Costed) -> None:
    store.call(used(1_000_000, 0), model="gpt-6")
    store.drain()
    catch_up(store.ledger)
    store.table(OPENAI.replace("gpt-5-mini*", "gpt-6"), valid_from="2026-02-01")
    found = what_if(store.home.index, Tables(store.home).now(), at=today())
    assert (found.compared, found.added, found.actual, found.other) == (1, 1, {}, {"USD": 250_000})


def test_when_an_engine_of_ones_own_pays(store: Costed) -> None:
    for _ in range(4):
        store.call(used(100_000, 0))  # 0.125 each
        store.at += timedelta(minutes=40)
    store.drain()
    catch_up(store.ledger)
    found = break_even(store.home.index, Tables(store.home).find("own/h100"), seconds_per_call=Fraction(36))
    assert found.api_per_call == 125_000
    assert found.own_per_hour == 5_000_000
    assert found.calls_per_hour == 40
    assert found.capacity == 1600
    assert found.utilisation == Fraction(1, 40)
    assert found.volume == 2
    assert not found.pays
    with pytest.raises(GenealogError) as error:
        break_even(store.home.index, Tables(store.home).find("own/h100"))
    assert error.value.code == "no-own-calls"
    store.call(used(1, 1), seller="own/h100", seconds=72)
    store.drain()
    catch_up(store.ledger)
    assert break_even(store.home.index, Tables(store.home).find("own/h100")).capacity == 800


def test_tables_that_clash_are_refused(store: Costed) -> None:
    with pytest.raises(GenealogError) as error:
        store.table(OPENAI.replace("1.25", "2"))
    assert error.value.code == "price-table-clash"
    old = Tables(store.home).find("openai")
    store.registry.revoke(old.id, reason="a wrong price")
    new = store.table(OPENAI.replace("1.25", "2"))
    call = store.call(used(1000, 0))
    store.drain()
    assert store.usage(call)["price"] == f"{new.id}#0"
    assert Tables(store.home).check(today()) == []
    with pytest.raises(GenealogError) as again:
        store.table(OPENAI)
    assert again.value.code == "price-table-revoked"


def test_a_damaged_table_prices_nothing_and_is_found(store: Costed) -> None:
    table = Tables(store.home).find("own/h100")
    digest = table.table.head["entries"]["sha256"] if table.table else ""
    (path,) = store.home.path.rglob(digest[2:])
    path.chmod(0o600)
    path.write_bytes(b"[]")
    call = store.call(used(1, 1), seller="own/h100")
    store.drain()
    assert "cost" not in store.usage(call)
    assert [(found.severity, found.code) for found in Tables(store.home).check(today())] == [("error", "table-damaged")]


def test_the_command_line_adds_up(store: Costed, cli: Cli) -> None:
    a_day(store)
    shown = cli("cost")
    assert shown.status == 0
    assert "0.005626 USD for 5 calls" in shown.out
    assert "without a cost  2 calls unpriced" in shown.out
    assert "0.000225 USD of it for 1 calls that were cut" in shown.out
    found = cli("cost", "--by", "department,model", "--department", "law", "--json").json
    assert [(row["model"], row["cost"], row["currency"]) for row in found["rows"]] == [
        ("gpt-5", 2250, "USD"), ("gpt-5-mini", 338, "USD"),
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(cli("cost", "--by", "seller", "--csv").out)))
    assert {(row["seller"], row["cost_millionths"]) for row in rows if row["currency"]} == {
        ("openai", str(2250 + 338 + 2500 + 225)), ("own/h100", "313"),
    }  # fmt: skip
    assert cli("cost", "--by", "colour").status == 2
    estimate = cli("cost", "what-if", "--deployment", "bot", "--as", "gpt-5-mini", "--to", "openai")
    assert "an estimate" in estimate.out
    assert cli("cost", "what-if", "--json").json["exact"] is True
    pays = cli("cost", "break-even", "--own", "own/h100", "--json")
    assert pays.json["break_even_per_hour"] == "3764.35"  # 5 dollars an hour, 5,313 millionths for 4 calls


def test_the_command_line_signs_and_registers_tables(store: Costed, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN.replace("own/h100", "own/a100"))
    assert cli("cost", "prices", "sign", "own.toml", "-o", "own.prices.json").status == 0
    added = cli("cost", "prices", "add", "own.prices.json", "--json").json
    assert added["new"] is True
    assert cli("cost", "prices", "add", "own.prices.json", "--json").json["new"] is False
    listed = {row["seller"]: row for row in cli("cost", "prices", "ls", "--json").json}
    assert listed["own/a100"]["id"] == added["id"]
    assert listed["own/a100"]["in_force"] is True
    assert cli("cost", "prices", "check").status == 0
    assert cli("cost", "prices", "add", "own.toml").status == 1
    made = cli(
        "cost", "prices", "import", "genai-prices", "--seller", "anthropic", "-o", "a.json", "--day", "2026-10-20"
    )
    assert made.status == 0
    assert cli("cost", "prices", "add", "a.json").status == 0
