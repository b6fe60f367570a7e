"""Limits: exact over processes, over restarts, and as a simple model says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.errors import GenealogError, StoreError
from genealog.gateway.admission import Who
from genealog.gateway.principals import Caller, Principals
from genealog.gateway.refusal import refusal, status_of
from genealog.store.config import parse_config
from genealog.store.counters import Allowed, Counters, Usage

BASE = '[store]\nformat = 1\norigin = "o"\n[identities]\nsigner = "a"\n[identities.a]\nname = "A"\nkey = "a"\n'
NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC).timestamp()
DAY = 86_400


def counted(path: Path, limits: str, now: list[float]) -> tuple[Principals, Who]:
    """Return principals with one that has these limits, and it."""
    text = f'{BASE}[principals.app]\nspiffe = "app"\n[principals.app.limits]\n{limits}\n'
    made = Principals(parse_config(text.encode(), Path("genealog.toml")), Counters(path), clock=lambda: now[0])
    caller: Caller = made._certificates["app"]
    return made, Who(caller.facts, key=caller)


def said(found: GenealogError | None) -> str | None:
    return found.code if found is not None else None


def test_so_many_requests_a_minute_and_no_more(tmp_path: Path) -> None:
    now = [NOON + 20]
    made, who = counted(tmp_path / "c", "requests_per_minute = 3", now)
    assert [said(made.admit(who, "d")) for _ in range(5)] == [None] * 3 + ["rate-limited"] * 2
    refused: Any = made.admit(who, "d")
    status, headers, _ = refusal(refused)
    assert status == 429
    told = dict(headers)
    assert told[b"retry-after"] == b"40"
    assert told[b"x-ratelimit-limit-requests"] == b"3"
    assert told[b"x-ratelimit-remaining-requests"] == b"0"
    assert told[b"x-ratelimit-reset-requests"] == b"40s"
    now[0] = NOON + 60
    assert made.admit(who, "d") is None


def test_tokens_and_money_count_once_they_are_charged(tmp_path: Path) -> None:
    now = [NOON]
    limits = "tokens_per_minute = 100\nbudget_per_day = 5000\nbudget_per_month = 8000"
    made, who = counted(tmp_path / "c", limits, now)
    counters = Counters(tmp_path / "c")
    assert made.admit(who, "d") is None
    counters.charge("app", NOON + 1, tokens=100)
    assert said(made.admit(who, "d")) == "rate-limited"
    now[0] += 60
    assert made.admit(who, "d") is None
    counters.charge("app", now[0], money=5_000)
    spent: Any = made.admit(who, "d")
    assert (spent.code, status_of(spent)) == ("budget-spent", 402)
    assert "0.005 USD" in str(spent)
    assert dict(refusal(spent)[1])[b"retry-after"] == b"%d" % (DAY / 2 - 60)
    now[0] = NOON + DAY
    assert made.admit(who, "d") is None
    counters.charge("app", now[0], money=3_000)
    assert "budget_per_month" in str(made.admit(who, "d"))
    now[0] = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert made.admit(who, "d") is None


def test_what_was_used_survives_a_restart(tmp_path: Path) -> None:
    now = [NOON]
    made, who = counted(tmp_path / "c", "requests_per_minute = 2\nbudget_per_day = 10", now)
    assert [said(made.admit(who, "d")) for _ in range(2)] == [None, None]
    again, who = counted(tmp_path / "c", "requests_per_minute = 2\nbudget_per_day = 10", now)
    assert said(again.admit(who, "d")) == "rate-limited"
    Counters(tmp_path / "c").restore("app", NOON, day=10, month=10)
    assert said(again.admit(who, "d")) == "budget-spent"


def test_names_do_not_share_a_slot(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c", slots=8)
    for number in range(8):
        for _ in range(number + 1):
            counters.begin(f"p{number}", Allowed(), NOON)
    assert [counters.used(f"p{number}", NOON).requests for number in range(8)] == list(range(1, 9))
    with pytest.raises(StoreError, match="counters-full"):
        counters.begin("one more", Allowed(), NOON)
    later = NOON + 70 * DAY  # nobody has called for two months: a slot is free again
    assert counters.begin("one more", Allowed(requests=1), later).over is None
    others = Counters(tmp_path / "c", slots=8)
    assert others.used("one more", later).requests == 1
    gone = next(name for name in (f"p{n}" for n in range(8)) if others.used(name, NOON).requests == 0)
    counters.charge(gone, later, tokens=5)  # its place in memory belongs to another now
    assert counters.used("one more", later).tokens == 0
    assert counters.used(gone, later).tokens == 5


def test_counting_that_fails_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, who = counted(tmp_path / "c", "requests_per_minute = 2", [NOON])

    def full(*_: object) -> Usage:
        raise StoreError("counters-full", "no slot")

    monkeypatch.setattr(Counters, "begin", full)
    assert said(made.admit(who, "d")) == "counters-full"


def test_a_clock_that_goes_back_does_not_shut_everybody_out(tmp_path: Path) -> None:
    now = [NOON + 10 * 365 * DAY]
    made, who = counted(tmp_path / "c", "requests_per_minute = 1", now)
    assert made.admit(who, "d") is None
    now[0] = NOON
    assert made.admit(who, "d") is None
    assert said(made.admit(who, "d")) == "rate-limited"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab"), st.integers(0, 90)),
        st.tuples(st.just("use"), st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.sampled_from((1, 30, 59, 60, 3_600, DAY, 20 * DAY))),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, allowed=st.builds(Allowed, *[st.none() | st.integers(0, 50)] * 4))
def test_counters_are_the_simple_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], allowed: Allowed
) -> None:
    path = tmp_path_factory.mktemp("counters") / "c"
    workers = [Counters(path, slots=64), Counters(path, slots=64)]
    used: Counter[tuple[str, str, Any]] = Counter()
    now = NOON
    for at, (what, *rest) in enumerate(steps):
        if what == "wait":
            now += rest[0]
            continue
        moment = datetime.fromtimestamp(now, UTC)
        minute, day, month = int(now) // 60, moment.date(), (moment.year, moment.month)
        name, counters = rest[0], workers[at % 2]
        if what == "use":
            _, tokens, money = rest
            counters.charge(name, now, tokens=tokens, money=money)
            used[name, "tokens", minute] += tokens
            used[name, "day", day] += money
            used[name, "month", month] += money
            continue
        periods = {"month": month, "day": day, "tokens": minute, "requests": minute}
        over = next(
            (
                kind
                for kind, period in periods.items()
                if (bound := getattr(allowed, kind)) is not None and used[name, kind, period] >= bound
            ),
            None,
        )
        if over is None:
            used[name, "requests", minute] += 1
        found = counters.begin(name, allowed, now)
        assert found.over == over
        assert [found.requests, found.tokens, found.day, found.month] == [
            used[name, kind, periods[kind]] for kind in ("requests", "tokens", "day", "month")
        ]
    for counters in workers:
        counters.close()


WORKER = """
import sys
from pathlib import Path
from genealog.store.counters import Allowed, Counters
counters = Counters(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
let_in = 0
for _ in range(4000):
    let_in += counters.begin("app", Allowed(requests=9000), 1_800_000_000.0).over is None
    counters.charge("app", 1_800_000_000.0, tokens=3, money=2)
print(let_in)
"""


def test_four_processes_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "c"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    let_in = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(let_in) == 9_000
    found = Counters(path).used("app", 1_800_000_000.0)
    assert (found.requests, found.tokens, found.day, found.month) == (9_000, 48_000, 32_000, 32_000)


def test_a_worker_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    code = WORKER.replace("range(4000)", "range(10**9)")
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    assert worker.stdout is not None
    worker.stdout.readline()
    counters = Counters(tmp_path / "c")
    deadline = time.monotonic() + 30
    while counters.used("app", 1_800_000_000.0).requests < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.kill()
    worker.communicate()
    before = counters.used("app", 1_800_000_000.0).requests
    assert counters.begin("app", Allowed(), 1_800_000_000.0).requests == before + 1
