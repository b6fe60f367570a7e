"""Decisions of agents: kept to the byte, each once, and held to the states that the log had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import command_line
from command_line import Cli
from deploying_store import Store, opened
from genealog.core import records
from genealog.errors import MalformedError
from genealog.policy.decision_logs import DecisionLogs, Taken, stated

cli = command_line.cli
EVENT: dict[str, Any] = {
    "labels": {"id": "agent-1"}, "decision_id": "d-1", "path": "genealog/decision",
    "input": {"point": "serve", "subject": {"deployment": "prod/chat"}}, "timestamp": "2026-03-01T00:00:00Z",
    "result": {
        "allow": False,
        "results": {"not_revoked": {"allow": False, "applies": True,
                                    "reasons": [{"code": "model-revoked", "message": "m is revoked"}]}},
    },
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened(tmp_path)


@pytest.fixture
def logs(store: Store) -> DecisionLogs:
    return DecisionLogs(store.registry)


def event(**changes: Any) -> bytes:
    return json.dumps(EVENT | changes).encode()


def several(*events: bytes) -> bytes:
    return b"[" + b",".join(events) + b"]"


def test_what_came_is_kept_to_the_byte(store: Store, logs: DecisionLogs) -> None:
    numbers = b'{"t": 1.50e-3, "n": 12345678901234567890}'
    raw = b'{ "timestamp":"2026-03-01T00:00:00.5+02:00","decision_id":"x",  "metrics": ' + numbers + b" }"
    taken = logs.take(b"[ " + raw + b" ]")
    read = store.registry.statement(taken.positions[0].leaf)
    assert isinstance(read.body, records.DecisionLog)
    assert store.home.objects.get(read.body.body.sha256) == b"[" + raw + b"]"
    assert (read.body.events, read.body.denied, read.body.source, read.body.revisions) == (1, 1, None, ())


def test_the_statement_sums_up(store: Store, logs: DecisionLogs) -> None:
    taken = logs.take(
        several(
            event(timestamp="2026-03-01T00:00:00.9Z", bundles={"genealog": {"revision": "b"}}),
            event(decision_id="d-2", timestamp="2026-03-01T00:00:00.10Z", result=True),
            event(decision_id="d-3", timestamp="2026-03-01T01:00:00+02:00", bundles={"genealog": {"revision": "a"}}),
            event(decision_id="d-4", labels={"id": "agent-2"}, result={"allow": "true"}),
        )
    )
    bodies = [store.registry.statement(place.leaf).body for place in taken.positions]
    assert all(isinstance(body, records.DecisionLog) for body in bodies)
    first, second = (body for body in bodies if isinstance(body, records.DecisionLog))
    assert (first.source, first.events, first.denied) == ("agent-1", 3, 2)
    assert (first.first, first.last) == ("2026-03-01T01:00:00+02:00", "2026-03-01T00:00:00.9Z")
    assert first.revisions == ("a", "b")
    assert (second.source, second.events, second.denied) == ("agent-2", 1, 1)  # "true" is not true


def test_each_is_kept_once_also_within_an_upload_and_by_others(store: Store, logs: DecisionLogs) -> None:
    assert logs.take(several(event(), event())).new == 1
    other = DecisionLogs(store.registry)
    assert other.take(several(event(), event(decision_id="d-2"))).new == 1
    assert logs.take(several(event(decision_id="d-2"))) == Taken(1, 0, ())


def test_a_known_id_with_other_content_is_kept_and_shown(store: Store, logs: DecisionLogs) -> None:
    logs.take(several(event()))
    assert logs.take(several(event(result=True))).new == 1
    found = stated(store.home, store.registry)
    assert [(each.event.allowed, each.again) for each in found] == [(True, True), (False, False)]


def test_an_upload_of_many_agents_makes_no_log_of_entries(store: Store, logs: DecisionLogs) -> None:
    taken = logs.take(several(*(event(decision_id=f"d-{i}", labels={"id": f"agent-{i}"}) for i in range(200))))
    assert (taken.events, taken.new, len(taken.positions)) == (200, 200, 1)
    assert {each.event.source for each in stated(store.home, store.registry)} == {f"agent-{i}" for i in range(200)}


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_end_of_time_is_malformed(logs: DecisionLogs, time: str) -> None:
    with pytest.raises(MalformedError) as refused:
        logs.take(several(event(timestamp=time)))
    assert refused.value.code == "decision-log-malformed"


@pytest.mark.parametrize(
    ("revision", "standing"),
    [
        ("now", "known"), ("before", "known"), ("other-root", "never"), ("later", "never"), ("zero", "never"),
        ("v1.2", "foreign"), ("", "none"),
    ],
    ids=["now", "before", "other-root", "later", "zero", "foreign", "none"],
)  # fmt: skip
def test_a_revision_is_held_to_the_log(store: Store, logs: DecisionLogs, revision: str, standing: str) -> None:
    log = store.home.registry_log()
    size, root = log.size, log.root().hex()
    store.registry.revoke("one", reason="test")
    named = {
        "now": f"{log.refresh()}:{log.root().hex()}", "before": f"{size}:{root}", "other-root": f"{size}:{'0' * 64}",
        "later": f"{size + 1_000}:{root}", "zero": f"0:{root}",
    }.get(revision, revision)  # fmt: skip
    logs.take(several(event(bundles={"genealog": {"revision": named}, "mine": {}})))
    (found,) = stated(store.home, store.registry)
    assert found.standing == standing


def test_one_false_revision_among_true_ones_is_enough(store: Store, logs: DecisionLogs) -> None:
    log = store.home.registry_log()
    bundles = {"a": {"revision": f"{log.size}:{log.root().hex()}"}, "b": {"revision": f"{log.size}:{'1' * 64}"}}
    logs.take(several(event(bundles=bundles)))
    assert stated(store.home, store.registry)[0].standing == "never"


def test_the_newest_are_listed_first(store: Store, logs: DecisionLogs) -> None:
    for number in range(3):
        logs.take(several(event(decision_id=f"d-{number}a"), event(decision_id=f"d-{number}b")))
    ids = [each.event.decision_id for each in stated(store.home, store.registry, limit=3)]
    assert ids == ["d-2b", "d-2a", "d-1b"]
    assert stated(store.home, store.registry, source="nobody") == []


def test_the_command_says_whose_word_it_is(store: Store, logs: DecisionLogs, cli: Cli) -> None:
    log = store.home.registry_log()
    true = {"genealog": {"revision": f"{log.size}:{log.root().hex()}"}}
    logs.take(several(event(bundles=true)))
    fine = cli("policy", "decisions", "--agents", "--json", "--store", str(store.path))
    (row,) = fine.json
    assert fine.status == 0
    assert (row["by"], row["point"], row["outcome"], row["code"], row["subject"], row["grade"], row["standing"]) == (
        "agent agent-1", "serve", "deny", "model-revoked", "prod/chat", "stated", "known",
    )  # fmt: skip
    logs.take(several(event(decision_id="d-2", bundles={"genealog": {"revision": f"1:{'0' * 64}"}})))
    doubtful = cli("policy", "decisions", "--doubtful", "--store", str(store.path))
    assert doubtful.status == 1
    assert "never had" in doubtful.out.replace("\n", " ")
