"""History is exact: any sequence of moves means what a simple model says, whatever clocks say."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deploying_store import START, URL, Store, opened
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.deploy import Deployments, Move, what_was_live
from genealog.deploy.moves import counting, judged, left_behind, live_times, stack
from genealog.errors import GenealogError, MissingError, PolicyDenied

NUMBERS = itertools.count()
MODELS = ("one", "two", "three")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield from opened(tmp_path_factory.mktemp("deployments"))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Store]:
    yield from opened(tmp_path)


class Model:
    """What one deployment is, in ten lines: a list of what can be gone back to, and all that it ever served."""

    def __init__(self) -> None:
        self.back: list[str] = []
        self.served: list[tuple[datetime, str]] = []

    def to(self, at: datetime, spec: str) -> None:
        if self.back[-1:] != [spec]:
            self.back.append(spec)
        self.served.append((at, spec))

    def rollback(self, at: datetime, target: str) -> None:
        while self.back[-1] != target:
            self.back.pop()
        self.served.append((at, target))


step = st.one_of(
    st.tuples(st.just("deploy"), st.sampled_from(MODELS)),
    st.tuples(st.just("promote"), st.sampled_from(MODELS)),
    st.tuples(st.just("rollback"), st.integers(1, 3)),
)


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps=st.lists(st.tuples(step, st.integers(-90, 300)), min_size=1, max_size=8), asked=st.integers(-200, 2000))
def test_any_sequence_of_moves_is_what_the_model_says(
    store: Store, steps: list[tuple[tuple[str, Any], int]], asked: int
) -> None:
    number = next(NUMBERS)
    name, staging = f"bot-{number}", f"staging-{number}"
    store.now = START
    deployments, model = store.deployments, Model()
    for (what, value), seconds in steps:
        at = store.tick(seconds)  # may go backwards
        if what == "deploy":
            model.to(at, store.deploy(name, value))
        elif what == "promote":
            spec = store.deploy(staging, value)
            if model.back[-1:] == [spec]:
                with pytest.raises(PolicyDenied, match="nothing-to-promote"):
                    deployments.promote(staging, name)
            else:
                assert deployments.promote(staging, name).live.spec == spec
                model.to(at, spec)
        else:
            target = model.back[-1 - value] if value < len(model.back) else None
            if target is None or target == model.back[-1]:
                with pytest.raises(MissingError):
                    deployments.rollback(name, to=target or "0" * 64)
                continue
            model.rollback(at, target)
            assert deployments.rollback(name, to=target)[0].spec == target
    if not model.served:
        return
    moves = deployments.history(name)
    assert [(move.at, move.spec) for move in moves] == [(timestamp(at), spec) for at, spec in model.served]
    assert stack(moves) == model.back
    assert deployments.snapshot().live[name].spec == model.served[-1][1]
    assert store.other().snapshot().live[name].spec == model.served[-1][1]
    moment = START + timedelta(seconds=asked)
    past = what_was_live(deployments, name, at=moment)
    claims = [(at, spec) for at, spec in model.served if at <= moment]
    assert (past.move.spec if past.move else None) == (claims[-1][1] if claims else None)
    chosen = next((i for i in reversed(range(len(moves))) if model.served[i][0] <= moment), None)
    late = [i for i in range(chosen or 0) if model.served[i][0] > moment]
    assert [move.index for move in past.disagree] == [moves[i].index for i in late]
    for move in moves:
        by_entry = what_was_live(deployments, name, entry=move.index)
        assert by_entry.move == move
        assert not by_entry.disagree


def raw(store: Store, name: str, spec: str, previous: str | None) -> None:
    """Append a move as code that asks nobody would."""
    body = records.Ref(kind="deployment", name=name, to=spec, at=timestamp(store.now), previous=previous)
    store.registry.append(body, signer=store.signer(), name=name)


def test_a_move_on_a_stale_predecessor_has_no_effect_and_is_shown(fresh: Store) -> None:
    specs = [fresh.deploy("bot", model) for model in MODELS]
    first, _, last = fresh.deployments.history("bot")
    poller = fresh.other()
    poller.poll()
    raw(fresh, "bot", specs[0], first.leaf)
    raw(fresh, "bot", specs[0], None)
    raw(fresh, "bot", specs[0], "0" * 64)
    assert fresh.deployments.history("bot")[-1] == last
    assert [move.stale for move in fresh.deployments.moves("bot")] == [False] * 3 + [True] * 3
    assert poller.poll().live["bot"].spec == specs[2]
    assert fresh.other().snapshot().live["bot"].spec == specs[2]
    raw(fresh, "bot", specs[0], last.leaf)
    assert poller.poll().live["bot"].spec == fresh.other().snapshot().live["bot"].spec == specs[0]


@pytest.mark.parametrize("verb", ["rollback", "deploy", "promote"])
def test_a_verb_that_was_overtaken_moves_nothing(fresh: Store, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else moves the deployment between the look and the move."""
    for model in MODELS:
        fresh.deploy("bot", model)
    fresh.deploy("staging", "one")
    deployments, other = fresh.deployments, fresh.other()
    seen = Deployments._seen_by

    def overtaken(self: Deployments, name: str, expect: str | None) -> Move | None:
        found = seen(self, name, expect)
        other.rollback("bot")
        return found

    monkeypatch.setattr(
        Deployments, "_seen_by", lambda self, *rest: (overtaken if self is deployments else seen)(self, *rest)
    )
    verbs: dict[str, Callable[[], object]] = {
        "rollback": lambda: deployments.rollback("bot"),
        "deploy": lambda: deployments.deploy("bot", model="one", upstream=URL),
        "promote": lambda: deployments.promote("staging", "bot"),
    }
    with pytest.raises(PolicyDenied) as caught:
        verbs[verb]()
    assert caught.value.code == "deployment-moved"
    assert len([move for move in fresh.deployments.moves("bot") if move.stale]) == 0
    assert fresh.deployments.history("bot")[-1].action == "rollback"


def test_of_rollbacks_at_the_same_moment_each_goes_through_or_is_refused(fresh: Store) -> None:
    """Every thread has the store open by itself, as a process has."""
    specs = [fresh.deploy("bot", model) for model in (*MODELS, "one", "two", "three")]
    outcomes: list[str] = []
    gate = threading.Barrier(4)

    def go() -> None:
        mine = fresh.other()
        gate.wait()
        try:
            mine.rollback("bot", expect=specs[-1])
            outcomes.append("moved")
        except GenealogError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["deployment-moved"] * 3 + ["moved"]
    moves = fresh.deployments.moves("bot")
    assert len(moves) == len(specs) + 1
    assert not any(move.stale for move in moves)
    assert moves[-1].spec == specs[-2]


def test_an_expectation_that_is_wrong_moves_nothing(fresh: Store) -> None:
    spec = fresh.deploy("bot", "one")
    fresh.deploy("bot", "two", expect=spec[:13])
    for expect in (spec, "", "0"):
        with pytest.raises(PolicyDenied, match="deployment-moved"):
            fresh.deployments.rollback("bot", expect=expect)
    with pytest.raises(PolicyDenied, match="deployment-moved"):
        fresh.deploy("new", "two", expect=spec)


def test_rolling_back_to_a_time(fresh: Store) -> None:
    specs = []
    for model in MODELS:
        fresh.tick(60)
        specs.append(fresh.deploy("bot", model))
    fresh.tick(60)
    with pytest.raises(MissingError, match="nothing-to-roll-back"):
        fresh.deployments.rollback("bot", to_time=START)
    assert fresh.deployments.rollback("bot", to_time=START + timedelta(seconds=70))[0].spec == specs[0]
    with pytest.raises(MissingError, match="nothing-to-roll-back"):  # it was rolled back from since: deploy it again
        fresh.deployments.rollback("bot", to_time=START + timedelta(seconds=130))


def test_a_promotion_is_exactly_the_same_spec(fresh: Store) -> None:
    spec = fresh.deploy("staging/bot", "one")
    moved = fresh.deployments.promote("staging/bot", "prod/bot", reason="good")
    assert moved.live.spec == spec
    (move,) = fresh.deployments.history("prod/bot")
    assert (move.action, move.reason, move.spec) == ("promote", "good", spec)
    with pytest.raises(MissingError, match="unknown-deployment"):
        fresh.deployments.promote("nobody", "prod/bot")


def moves(*specs: str, actions: str = "") -> list[Move]:
    names = {"s": "set", "r": "rollback"}
    return [
        Move(i, f"leaf-{i}", spec, names[(actions or "s" * 9)[i]], "", previous=f"leaf-{i - 1}" if i else None)
        for i, spec in enumerate(specs)
    ]


def test_times_of_serving() -> None:
    all_of_them = moves("a", "a", "b", "c", "b")
    found = [(begun.index, ended.index if ended else None) for begun, ended in live_times(all_of_them, ["a", "b"])]
    assert found == [(0, 2), (2, 3), (4, None)]
    assert live_times(all_of_them, []) == []
    assert counting(judged(all_of_them)) == all_of_them


def test_what_was_rolled_back_from() -> None:
    history = moves("a", "b", "a", "b", actions="ssrs")
    assert left_behind(history, "b") == 2
    assert left_behind(history, "a") == -1
