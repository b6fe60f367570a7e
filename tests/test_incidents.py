"""Incidents: the evidence is held before anything moves, or nothing moves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploying_store import START, Store, opened
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.errors import GenealogError, MissingError, PolicyDenied, StoreError, UsageError
from genealog.incidents import SKEW


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for store in opened(tmp_path):
        store.deploy("bot", "one")
        store.tick()
        store.deploy("bot", "two")
        store.tick()
        yield store


def bodies(store: Store, start: int) -> list[Any]:
    log, registry = store.home.registry_log(), store.registry
    return [registry.statement(log.leaf_hash(i).hex()).body for i in range(start, log.refresh())]


def test_a_rollback_under_an_incident_holds_first_and_moves_in_the_same_batch(store: Store) -> None:
    before = store.home.registry_log().refresh()
    frames = _frames(store)
    live, position, case = store.incidents.rollback("bot", incident="case-1", reason="wrong answers")
    hold, incident, move = bodies(store, before)
    assert isinstance(hold, records.Hold)
    assert isinstance(incident, records.Incident)
    assert isinstance(move, records.Ref)
    assert (hold.name, hold.action, hold.since) == ("case-1", "place", timestamp(START + timedelta(seconds=60) - SKEW))
    assert (move.incident, move.action, position.index) == ("case-1", "rollback", before + 2)
    assert _frames(store) == frames + 1  # one write, one sync: all of it or nothing
    assert incident.specs == (store.deployments.history("bot")[1].spec,)
    assert set(incident.artifacts) == {store.registry.resolve("two").id}
    assert case.hold is not None
    assert case.moves == (("bot", position.index, live.spec),)


def _frames(store: Store) -> int:
    from genealog.store.journal import MAGIC

    folder = store.path / "logs" / "registry" / "journal"
    return sum(path.read_bytes().count(MAGIC) for path in folder.iterdir())


@pytest.mark.parametrize("already", [False, True])
def test_where_the_hold_cannot_be_placed_nothing_moves(store: Store, already: bool) -> None:
    if already:
        erasure = store.incidents.erasure
        erasure.place("case-1", reason="court", signer=store.signer(), tenant="acme")
    else:
        (store.path / "logs" / "registry" / "closed").write_text("moved away")
    size = store.home.registry_log().size + already
    live = store.deployments.history("bot")[-1]
    with pytest.raises(StoreError) as caught:
        store.incidents.rollback("bot", incident="case-1")
    assert caught.value.code == ("hold-exists" if already else "log-moved")
    assert store.deployments.history("bot")[-1] == live
    assert store.home.registry_log().size <= size


def test_a_disk_that_fails_in_the_batch_leaves_neither_hold_nor_move(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(GenealogError):
            store.incidents.rollback("bot", incident="case-1")
    other = store.other()
    names = {hold.name for hold in store.incidents.__class__(other.home).erasure.holds()}
    moved = other.history("bot")[-1].action == "rollback"
    assert moved == ("case-1" in names)  # the batch may have reached the disk; then whole
    other.home.close()


def test_an_open_incident_is_used_and_its_lifted_hold_placed_again(store: Store) -> None:
    case = store.incidents.open("case-1", deployment="bot", reason="wrong answers")
    assert case.hold is not None
    store.incidents.erasure.lift("case-1", reason="by mistake", signer=store.signer())
    assert store.incidents.find("case-1").hold is None
    before = store.home.registry_log().refresh()
    _, _, case = store.incidents.rollback("bot", incident="case-1")
    assert [type(body).__name__ for body in bodies(store, before)] == ["Hold", "Ref"]
    assert case.hold is not None
    assert case.hold.since == case.since


def test_an_incident_belongs_to_one_deployment_and_one_time(store: Store) -> None:
    store.deploy("other", "one")
    store.deploy("other", "two")
    store.incidents.open("case-1", deployment="bot", reason="wrong answers", since=START)
    assert set(store.incidents.find("case-1").specs) == {move.spec for move in store.deployments.history("bot")}
    with pytest.raises(PolicyDenied, match="incident-elsewhere"):
        store.incidents.rollback("other", incident="case-1")
    with pytest.raises(StoreError, match="incident-exists"):
        store.incidents.open("case-1", deployment="bot", reason="again")
    closed = store.incidents.close("case-1", reason="fixed")
    assert closed.closed_at == timestamp(store.now)
    assert closed.hold is not None  # closing lifts nothing
    for act in (
        lambda: store.incidents.rollback("bot", incident="case-1"),
        lambda: store.incidents.close("case-1", reason="again"),
    ):
        with pytest.raises(PolicyDenied, match="incident-closed"):
            act()
    with pytest.raises(MissingError, match="unknown-incident"):
        store.incidents.find("case-2")
    with pytest.raises(UsageError):
        store.incidents.open("case-3", deployment="bot", reason="soon", since=store.now + timedelta(1))
    with pytest.raises(MissingError, match="unknown-deployment"):
        store.incidents.open("case-3", deployment="nobody", reason="soon")


def test_a_clock_that_was_ahead_does_not_shorten_the_hold(store: Store) -> None:
    store.now = START + timedelta(days=1)
    store.deploy("bot", "three")  # by somebody whose clock is a day ahead
    store.now = START + timedelta(minutes=3)
    case = store.incidents.open("case-1", deployment="bot", reason="wrong answers")
    assert case.since == timestamp(store.now - SKEW)
