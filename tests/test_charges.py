"""Calls that are in the log are charged once to whoever made them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from genealog.core.call_groups import UsageGroup, WhoGroup
from genealog.core.canonical import encode
from genealog.errors import StoreError
from genealog.store.charges import FILE, Charges, charges_of
from genealog.store.config import Config, parse_config
from genealog.store.counters import Counters
from genealog.store.vault.call import VaultCall

SETTINGS = """
[store]
format = 1
origin = "o"
[identities]
signer = "a"
[identities.a]
name = "A"
key = "a"
[principals.app.limits]
budget_per_day = 100
currency = "EUR"
[principals.free]
[[issuers]]
issuer = "i"
audience = "a"
jwks = "k"
limits = { tokens_per_minute = 5 }
"""
ENDED = "2026-11-22T12:00:00.000Z"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def config(text: str = SETTINGS) -> Config:
    return parse_config(text.encode(), Path("genealog.toml"))


def call(who: WhoGroup, **usage: Any) -> VaultCall:
    groups = {"who": (b"", encode(who)), "usage": (b"", encode(UsageGroup(**usage)))}
    return VaultCall(call="c", source="s", tenant="", groups=groups, ended_at=ENDED)


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    made = Counters(tmp_path / "c")
    yield made
    made.close()


def used(counters: Counters, name: str) -> tuple[int, int, int]:
    found = counters.used(name, AT)
    return found.tokens, found.day, found.month


def test_tokens_and_money_go_to_who_is_known(counters: Counters) -> None:
    charge = Charges(config(), counters)
    app = WhoGroup(principal="app", how="key")
    charge(
        [
            call(app, prompt_tokens=10, completion_tokens=3, cached_tokens=9, cost=7, currency="EUR"),
            call(app, prompt_tokens=1, cost=1, currency="EUR"),
            call(app, cost=1_000, currency="USD"),  # another currency than that of the budget
            call(WhoGroup(principal="app", how="claimed"), prompt_tokens=99, cost=99, currency="EUR"),
            call(WhoGroup(principal="free", how="key"), prompt_tokens=99),  # has no such limit
            call(WhoGroup(principal="gone", how="key"), prompt_tokens=99),
            call(WhoGroup(principal="robot", how="jwt"), completion_tokens=4),
            call(WhoGroup(), prompt_tokens=99),
        ]
    )
    assert used(counters, "app") == (14, 8, 8)
    assert used(counters, "robot") == (4, 0, 0)
    assert used(counters, "free") == used(counters, "gone") == (0, 0, 0)


def test_the_log_knows_better_what_was_spent(counters: Counters) -> None:
    asked = []

    def spent(principal: str, since: datetime, currency: str) -> int:
        asked.append((principal, since.isoformat(), currency))
        return 40 + len(asked)

    Charges(config(), counters).restore(spent, AT)
    assert used(counters, "app") == (0, 41, 42)
    assert asked == [("app", "2026-11-22T00:00:00+00:00", "EUR"), ("app", "2026-11-01T00:00:00+00:00", "EUR")]


def test_what_cannot_be_counted_is_said(
    counters: Counters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("counters-full", "no slot")

    monkeypatch.setattr(Counters, "charge", full)
    Charges(config(), counters)([call(WhoGroup(principal="app", how="key"), prompt_tokens=1)])
    assert "counters-full" in caplog.text


def test_nothing_is_counted_where_nothing_is_limited(tmp_path: Path) -> None:
    plain = SETTINGS.replace("budget_per_day = 100", "").replace("tokens_per_minute = 5", "requests_per_minute = 5")
    assert charges_of(config(plain), tmp_path) is None
    assert not (tmp_path / FILE).exists()
    assert charges_of(config(), tmp_path) is not None
