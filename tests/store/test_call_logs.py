"""Call logs follow each other: every call is in one of them, once, whoever is killed at whatever step."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from call_node import Writer
from genealog.core.call import CallLeaf, is_call_log
from genealog.core.canonical import decode
from genealog.core.emitters import check_emitter_chain
from genealog.core.trust import parse_trust
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.call_logs import next_of, previous_of
from genealog.store.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Registry.init(tmp_path / "store").home
    yield home
    home.close()


@pytest.fixture
def writer(home: Home) -> Iterator[Writer]:
    writer = Writer(home.spool_dir)
    yield writer
    writer.close()


def month(number: int) -> Callable[[], datetime]:
    """Return a clock that stands in the middle of a month, counted from January 2026."""
    return lambda: datetime(2026 + number // 12, number % 12 + 1, 15, tzinfo=UTC)


def split(home: Home, how: str, node: str | None = None) -> None:
    """Set `[calls] split` in genealog.toml, as its owner would."""
    path = home.path / "genealog.toml"
    text = path.read_text().partition("\n[calls]")[0]
    path.write_text(f'{text}\n[calls]\nsplit = "{how}"\n' + (f'node = "{node}"\n' if node else ""))
    home.reload()


def leaves(home: Home) -> list[CallLeaf]:
    """Return all calls in the order of the logs."""
    found = []
    for name in home.calls.names():
        home.log(name).refresh()
        found += [decode(entry, CallLeaf) for entry in home.log(name).entries()]
    return found


def sound(home: Home, calls: set[str]) -> None:
    """Each of these calls is on record once, the chains of emitters are whole, and fsck finds nothing."""
    found = leaves(home)
    assert sorted(leaf.call for leaf in found) == sorted(calls)
    assert check_emitter_chain(found).whole
    assert [item for item in Ledger(home).fsck() if item.severity == "error"] == []


def test_which_names_are_call_logs() -> None:
    good = ["calls", "calls-2026-11", "calls-a", "calls-node-7", "calls_2", "calls-2026-11_3", "calls-0"]
    bad = [
        "registry",
        "call",
        "calls-",
        "calls--a",
        "calls-A",
        "calls-a-",
        "calls_0",
        "calls_",
        "calls-a.part",
        "../calls",
    ]
    assert [name for name in good + bad if is_call_log(name)] == good


def test_a_month_that_ends_ends_a_log(home: Home, writer: Writer) -> None:
    calls = {writer.call().id for _ in range(3)}
    Ledger(home).drain()
    split(home, "month")
    for number in (0, 1, 1, 2):
        home.calls.clock = month(number)
        calls |= {writer.call().id for _ in range(2)}
        Ledger(home).drain()
    assert home.calls.names() == ("calls", "calls-2026-01", "calls-2026-02", "calls-2026-03")
    assert [home.log(name).size for name in home.calls.names()] == [3, 2, 4, 2]
    assert [next_of(home.log(name)) for name in home.calls.names()] == [*home.calls.names()[1:], None]
    sound(home, calls)


def test_a_log_of_its_own_has_a_key_of_its_own_that_the_policy_names(home: Home, writer: Writer) -> None:
    split(home, "node", "a")
    writer.call()
    Ledger(home).drain()
    logs = parse_trust((home.path / "trust.policy").read_bytes()).logs
    assert set(logs) == {f"{home.config.origin}/{name}" for name in ("registry", "calls", "calls-a")}
    assert len({key for keys in logs.values() for key in keys}) == 3
    ledger = Ledger(home)
    receipt = ledger.receipt(ledger.call(leaves(home)[0].call))
    assert receipt.origin == f"{home.config.origin}/calls-a"
    home.trust.verify_checkpoint(home.log("calls-a").checkpoint())


def test_a_clock_that_goes_back_opens_no_old_log(home: Home, writer: Writer) -> None:
    split(home, "month")
    calls = set()
    for number in (4, 5, 4, 3, 5):
        home.calls.clock = month(number)
        calls.add(writer.call().id)
        Ledger(home).drain()
    assert home.calls.names() == ("calls", "calls-2026-05", "calls-2026-06")
    assert home.log("calls-2026-06").size == 4
    sound(home, calls)


def test_a_closed_log_stays_closed_when_the_setting_comes_back(home: Home, writer: Writer) -> None:
    calls = set()
    for how, node in (("none", None), ("node", "a"), ("none", None), ("node", "b"), ("node", "a"), ("none", None)):
        split(home, how, node)
        calls.add(writer.call().id)
        Ledger(home).drain()
    assert home.calls.names() == ("calls", "calls-a", "calls_2", "calls-b", "calls-a_2", "calls_3")
    sound(home, calls)


def test_who_has_the_old_log_open_goes_on_in_the_new_one(home: Home, writer: Writer) -> None:
    split(home, "month")
    other = Home.open(home.path)
    home.calls.clock, other.calls.clock = month(0), month(0)
    here, there = Ledger(home).sequencer(), Ledger(other).sequencer()
    calls = {writer.call().id}
    running = writer.call(close=False)
    here.run_once()
    there.run_once()
    for number in (1, 2):
        (home if number == 1 else other).calls.clock = month(number)
        for sequencer in (here, there) if number == 1 else (there, here):
            calls.add(writer.call().id)
            assert sequencer.run_once().appended == 1
    running.close(finish="complete")
    here.run_once()
    calls.add(running.id)
    other.close()
    assert home.calls.names() == ("calls", "calls-2026-01", "calls-2026-02", "calls-2026-03")
    sound(home, calls)


def test_a_process_with_old_settings_does_not_turn_a_new_log_back(home: Home, writer: Writer) -> None:
    old = Home.open(home.path)
    assert old.config.calls.split == "none"
    split(home, "node", "a")
    calls = {writer.call().id}
    Ledger(home).drain()
    calls.add(writer.call().id)
    Ledger(old).drain()
    assert old.calls.names() == ("calls", "calls-a")
    old.close()
    sound(home, calls)


def test_an_emitter_goes_on_where_it_was(home: Home, writer: Writer) -> None:
    calls = {writer.call().id}
    running = [writer.call(close=False) for _ in range(3)]
    Ledger(home).drain()
    split(home, "node", "a")
    running[1].close(finish="complete")
    Ledger(home).drain()
    writer.close()
    assert Ledger(home).drain().unknown == 2
    last, first = decode(home.log("calls").entry(0), CallLeaf), home.log("calls-a").entry(0)
    assert home.log("calls").leaf_hash(0).hex() == decode(first, CallLeaf).prev
    assert (last.seq, [leaf.seq for leaf in leaves(home)]) == (1, [1, 3, 2, 4])
    sound(home, calls | {call.id for call in running})


# Killed at every step


def kill_at(step: int) -> None:
    """Make this process kill itself at its step number `step` of those that change or fix what is on disk."""
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count()
            return function(*arguments, **named)

        return call

    for name in ("write", "fsync", "fdatasync", "replace", "link"):
        setattr(os, name, wrapped(getattr(os, name)))
    events = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
    sys.addaudithook(lambda event, _: count() if event in events else None)


def forked(path: Path, clock: Callable[[], datetime], step: int) -> int:
    """Drain the store in a child that is killed at a step; return its exit status, -9 if it came to that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            home = Home.open(path)
            home.calls.clock = clock
            ledger = Ledger(home)
            kill_at(step)
            ledger.drain()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_call_is_lost_or_doubled_by_a_kill_at_any_step_of_a_rotation(tmp_path: Path) -> None:
    home = Registry.init(tmp_path / "store").home
    split(home, "month")
    path = home.path
    home.close()
    writer = Writer(path / "spool")
    calls: set[str] = set()
    number = killed = 0
    status = -9
    while status == -9:
        number += 1
        calls |= {writer.call().id for _ in range(2)}
        status = forked(path, month(number), number)
        killed += status == -9
        home = Home.open(path)
        home.calls.clock = month(number)
        calls.add(writer.call().id)
        Ledger(home).drain()
        current = home.call_log().origin.rpartition("/")[2]
        assert current.partition("_")[0] == f"calls-{month(number)():%Y-%m}"
        assert sorted(leaf.call for leaf in leaves(home)) == sorted(calls)
        home.close()
    assert status == 0
    assert killed > 25, "a rotation has more steps than that"
    home = Home.open(path)
    names = home.calls.names()
    assert [previous_of(home.log(name)) for name in names] == [None, *names[:-1]]
    sound(home, calls)
    home.close()
    writer.close()


def test_processes_that_drain_at_once_share_every_rotation(tmp_path: Path) -> None:
    home = Registry.init(tmp_path / "store").home
    split(home, "month")
    path, at = home.path, tmp_path / "month"
    at.write_text("0")
    home.close()

    def drain() -> int:
        child = os.fork()
        if child == 0:
            try:
                mine = Home.open(path)
                mine.calls.clock = lambda: month(int(at.read_text() or 0))()  # noqa: PLW0108 - it is read each time
                sequencer = Ledger(mine).sequencer()
                while True:
                    sequencer.run_once()
            except Exception:  # noqa: BLE001 - told to the test
                (tmp_path / f"{os.getpid()}.failed").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        return child

    children = [drain() for _ in range(3)]
    writer = Writer(path / "spool")
    calls = set()
    choice = random.Random(1)
    try:
        for number in range(1, 25):
            calls |= {writer.call().id for _ in range(choice.randrange(1, 6))}
            at.write_text(str(number + choice.randrange(2)))  # clocks go on, and back a little
            if number % 3 == 0:
                children.append(drain())
                os.kill(children[0], signal.SIGKILL)
                os.waitpid(children.pop(0), 0)
            time.sleep(choice.random() / 20)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    writer.close()
    assert [failed.read_text() for failed in tmp_path.glob("*.failed")] == []
    home = Home.open(path)
    Ledger(home).drain()
    names = [name.partition("_")[0] for name in home.calls.names()]
    assert names == sorted(names)
    assert len(names) > 3
    sound(home, calls)
    home.close()


# What is lost or put back


def rotated(home: Home, writer: Writer) -> None:
    """Make three logs with two calls each."""
    for node in ("a", "b", "c"):
        split(home, "node", node)
        writer.call()
        writer.call()
        Ledger(home).drain()


def test_a_log_that_is_gone_is_missed(home: Home, writer: Writer) -> None:
    rotated(home, writer)
    home.close()
    shutil.rmtree(home.path / "logs" / "calls-b")
    again = Home.open(home.path)
    assert again.call_log().origin.endswith("/calls-c"), "an old log that is gone keeps no call from being recorded"
    assert ("log-missing", "logs/calls-b") in {(item.code, item.where) for item in Ledger(again).fsck()}
    again.close()
    shutil.rmtree(home.path / "logs" / "calls-c")
    with pytest.raises(StoreError) as caught:
        Home.open(home.path).call_log()
    assert caught.value.code == "log-missing"


def test_a_log_that_is_put_back_as_it_was_before_its_end_is_not_appended_to(home: Home, writer: Writer) -> None:
    split(home, "node", "a")
    writer.call()
    Ledger(home).drain()
    home.close()
    shutil.copytree(home.path / "logs" / "calls-a", home.path.parent / "older")
    home = Home.open(home.path)
    split(home, "node", "b")
    writer.call()
    Ledger(home).drain()
    home.close()
    shutil.rmtree(home.path / "logs" / "calls-a")
    shutil.copytree(home.path.parent / "older", home.path / "logs" / "calls-a")
    again = Home.open(home.path)
    with pytest.raises(StoreError) as caught:
        again.call_log()
    assert caught.value.code == "log-rolled-back"
    assert ("log-rolled-back", "logs/calls-a") in {(item.code, item.where) for item in Ledger(again).fsck()}


def test_the_name_of_a_lost_log_is_not_used_again(home: Home, writer: Writer) -> None:
    rotated(home, writer)
    home.close()
    shutil.rmtree(home.path / "logs" / "calls-a")
    again = Home.open(home.path)
    split(again, "node", "a")
    writer.call()
    Ledger(again).drain()
    assert again.call_log().origin.endswith("/calls-a_2")
    again.close()


def test_a_damaged_old_log_keeps_no_call_from_being_recorded(home: Home, writer: Writer) -> None:
    rotated(home, writer)
    home.close()
    (home.path / "logs" / "calls-a" / "state").write_bytes(b"{}")
    again = Home.open(home.path)
    writer.call()
    assert again.calls.current().origin.endswith("/calls-c")
    assert Ledger(again).sequencer().run_once().appended == 1
    assert "state-damaged" in {item.code for item in Ledger(again).fsck()}
    again.close()
