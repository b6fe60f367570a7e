"""Rules that delete in time: never too early, never what is held, and always said in the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from call_node import Crash
from erasing_store import START, Store, codes, days, tombstones
from genealog.answers import Answers
from genealog.errors import MissingError, StoreError
from genealog.ledger import Ledger
from genealog.store.vault.erase import Eraser
from genealog.store.vault.patterns import fits


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.spool.close()
    store.home.close()


def rules(store: Store, *texts: str) -> None:
    store.configure("\n".join(f"[[retention]]\n{text}" for text in texts))


def apply(store: Store) -> int:
    done = store.keeping().apply(reason="retention rules", signer=store.signer)
    return sum(len(due.calls) for due in done.plan.due)


def test_what_is_past_its_maximum_goes_and_one_tombstone_says_so(store: Store) -> None:
    rules(store, 'maximum = "30d"')
    old = [store.call("one"), store.call("two", tenant="other")]
    store.at = START + days(10)
    young = store.call("three")
    store.now = START + days(30)
    plan = store.keeping().plan()
    assert [(due.what, len(due.calls), due.rules) for due in plan.due] == [(("bodies", "groups", "texts"), 2, (1,))]
    assert store.here(*old, young) == [True] * 3
    assert apply(store) == 2
    assert store.here(*old, young) == [False, False, True]
    (stone,) = tombstones(store)
    assert (stone.scope, stone.calls, stone.before) == ("retention", 2, "2026-03-01T00:00:00.001Z")
    assert apply(store) == 0
    assert len(tombstones(store)) == 1, "nothing to do says nothing"
    assert codes(store) == []


@pytest.mark.parametrize(("later", "due"), [(days(30) - days(1) / 86_400_000, 0), (days(30), 1)])
def test_not_a_millisecond_too_early(store: Store, later: object, due: int) -> None:
    rules(store, 'maximum = "30d"')
    store.call("one")
    store.now = START + later  # type: ignore[operator]
    assert apply(store) == due


def test_age_counts_from_the_end_of_a_call_not_from_its_beginning(store: Store) -> None:
    rules(store, 'maximum = "1d"')
    call = store.recorder.open(b"{}", _context())
    store.at = START + days(2)
    store.end(call, "slow")
    store.now = START + days(2.5)
    assert apply(store) == 0
    store.now = START + days(3)
    assert apply(store) == 1


def _context() -> object:
    from call_samples import context

    return context(who={"tenant": "acme"}, spec=None, models=(), bound="A0")


def test_rules_fit_by_tenant_and_deployment(store: Store) -> None:
    rules(
        store,
        'tenant = "acme"\ndeployment = "prod/*"\nmaximum = "10d"',
        'tenant = "acme-*"\nmaximum = "20d"',
    )
    calls = [
        store.call("one", deployment="prod/bot"),
        store.call("two", deployment="test/bot"),
        store.call("three", tenant="acme-eu", deployment="prod/bot"),
        store.call("four", tenant="other"),
    ]
    store.now = START + days(15)
    assert apply(store) == 1
    assert store.here(*calls) == [False, True, True, True]
    store.now = START + days(1000)
    assert apply(store) == 1
    assert store.here(*calls) == [False, True, False, True]


def test_the_longest_minimum_wins_over_every_maximum(store: Store) -> None:
    rules(store, 'maximum = "10d"', 'deployment = "prod/bot"\nminimum = "100d"')
    kept, gone = store.call("one"), store.call("two", deployment="test/bot")
    store.now = START + days(50)
    plan = store.keeping().plan()
    assert (plan.young, [len(due.calls) for due in plan.due]) == (1, [1])
    assert apply(store) == 1
    assert store.here(kept, gone) == [True, False]
    store.now = START + days(100)
    assert apply(store) == 1


def test_bodies_go_first_and_the_rest_later(store: Store) -> None:
    rules(store, 'maximum = "10d"\ndelete = ["bodies"]', 'maximum = "20d"\ndelete = ["texts"]', 'maximum = "30d"')
    call = store.call("Ann likes tea")
    seen = []
    for day in (5, 10, 15, 20, 25, 30, 35):
        store.now = START + days(day)
        apply(store)
        try:
            store.home.vault.get_body(call, "response")
            body = True
        except MissingError:
            body = False
        seen.append((body, bool(Answers(store.home).find("Ann likes tea")), *store.here(call)))
        if day == 15:
            hop = Answers(store.home).why(call).hops[0]
            assert hop.code == "body-not-kept"
            assert hop.detail == "erased at 2026-03-11T00:00:00.000Z: retention rules"
        assert codes(store) == []
    assert seen == [
        (True, True, True), (False, True, True), (False, True, True), (False, False, True), (False, False, True),
        (False, False, False), (False, False, False),
    ]  # fmt: skip
    assert [stone.what for stone in tombstones(store)] == [("bodies",), ("texts",), ("groups",)]


def test_what_is_held_stays(store: Store) -> None:
    rules(store, 'maximum = "10d"')
    held, free = store.call("one", subject="ann"), store.call("two")
    store.erasure().place("case", reason="r", signer=store.signer, tenant="acme", subject="ann")
    store.now = START + days(11)
    assert dict(store.keeping().plan().held) == {"case": 1}
    assert apply(store) == 1
    assert store.here(held, free) == [True, False]
    store.erasure().lift("case", reason="over", signer=store.signer)
    assert apply(store) == 1


def test_a_clock_that_is_behind_the_log_deletes_nothing(store: Store) -> None:
    rules(store, 'maximum = "10d"')
    store.call("one")
    store.at = START + days(100)
    store.call("two")
    store.now = START + days(98.9)
    with pytest.raises(StoreError, match="clock-behind"):
        apply(store)
    with pytest.raises(StoreError, match="clock-behind"):
        store.keeping().plan()
    store.now = START + days(99.1)
    assert apply(store) == 1


def test_the_time_in_the_log_counts_not_the_one_in_the_vault(store: Store) -> None:
    rules(store, 'maximum = "10d"')
    call = store.call("one")
    Ledger(store.home).drain()
    store.home.vault.db.run("UPDATE call SET at = 0")
    store.now = START + days(9)
    assert apply(store) == 0
    assert store.here(call) == [True]


def test_a_killed_run_is_ended_by_the_next_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rules(store, 'maximum = "10d"')
    call = store.call("one")
    store.now = START + days(11)

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(Eraser, "destroy", crash)
        with pytest.raises(Crash):
            apply(store)
    store.reopen()
    Ledger(store.home).drain()
    assert store.here(call) == [False]
    assert len(tombstones(store)) == 1
    assert codes(store) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        'maximum = "0d"',
        'maximum = "10 days"',
        "maximum = 10",
        'minimum = "11d"\nmaximum = "10d"',
        'maximum = "10d"\ndelete = []',
        'maximum = "10d"\ndelete = ["groups"]',
        'maximum = "10d"\ndelete = ["bodies", "bodies"]',
        'maximum = "10d"\ndelete = ["salts"]',
        'maxmum = "10d"',
    ],
)
def test_rules_are_read_strictly(store: Store, text: str) -> None:
    with pytest.raises(StoreError, match="config-malformed"):
        rules(store, text)
    (store.path / "genealog.toml").write_text((store.path / "genealog.toml").read_text().split("[[retention]]")[0])
    store.reopen()


@pytest.mark.parametrize(
    ("name", "pattern", "fit"),
    [
        ("prod/bot", "prod/*", True), ("prod/bot", "prod", False), ("", "*", True), ("", "", True), ("a", "", False),
        ("a[b]", "a[b]", True), ("ab", "a[b]", False), ("a.b", "a?b", True), ("Acme", "acme", False),
        ("a\nb", "a*", True),
    ],
)  # fmt: skip
def test_patterns(name: str, pattern: str, fit: bool) -> None:
    assert fits(name, pattern) is fit
