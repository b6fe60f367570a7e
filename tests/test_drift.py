"""What a vendor's model says that it is, when that changes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import to_builtins

from genealog import drift
from genealog.core.ids import record_id
from genealog.core.records import Drift, ExternalModel
from genealog.core.statement import read_statement
from genealog.deploy import Deployments, Wanted
from genealog.drift import Watch, seen
from genealog.errors import MissingError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.sealing import Reported

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CALL = "01KAMD0000000000000000000"
EXPECTED = ExternalModel(vendor="example", model="m-1")


@pytest.fixture
def deployments(tmp_path: Path) -> Deployments:
    registry = Registry.init(tmp_path / ".genealog")
    registry.add_record(to_builtins(EXPECTED), kind="external-model", name="m")
    made = Deployments(registry.home)
    made.deploy(
        "bot", model="m", upstream="https://api.example", others=[Wanted(model="m", upstream="https://other.example")]
    )
    return made


def say(
    deployments: Deployments, model: str, fingerprint: str | None = None, *, target: int = 0, n: int = 0
) -> Reported:
    spec = deployments.snapshot().live["bot"].spec
    body = ExternalModel(vendor="example", model=model, fingerprint=fingerprint)
    return Reported("bot", spec, target, body, f"{CALL}{n}")


def test_each_version_of_a_target_is_stated_once(deployments: Deployments) -> None:
    ledger = Ledger(deployments.home)
    watch = Watch(ledger)
    first, second = say(deployments, "m-1", "fp_1"), say(deployments, "m-1", "fp_2", n=1)
    assert len(watch.take([first, first, second, first], now=NOW)) == 2
    assert watch.take([second, first], now=NOW) == ()
    assert Watch(ledger).take([first, second], now=NOW) == ()
    found = seen(ledger, "bot")
    assert [each.body.fingerprint for each in found] == ["fp_1", "fp_2"]
    assert [each.previous for each in found] == [None, found[0].version]
    assert [each.call for each in found] == [f"{CALL}0", f"{CALL}1"]
    assert found[0].version == record_id(first.body)


def test_targets_are_looked_at_one_by_one(deployments: Deployments) -> None:
    ledger = Ledger(deployments.home)
    watch = Watch(ledger)
    assert len(watch.take([say(deployments, "m-1"), say(deployments, "m-1", target=1)], now=NOW)) == 2
    assert [each.target for each in seen(ledger)] == [0, 1]


def test_another_model_than_the_registered_one_follows_it(deployments: Deployments) -> None:
    ledger = Ledger(deployments.home)
    Watch(ledger).take([say(deployments, "m-2")], now=NOW)
    assert [each.previous for each in seen(ledger)] == [record_id(EXPECTED)]


def test_a_region_that_no_answer_reports_is_no_drift(deployments: Deployments) -> None:
    body = ExternalModel(vendor="example", model="m-1", region="eu", snapshot="2026-01-01")
    deployments.registry.add_record(to_builtins(body), kind="external-model", name="eu")
    deployments.deploy("bot", model="eu", upstream="https://api.example")
    ledger = Ledger(deployments.home)
    Watch(ledger).take([say(deployments, "m-1", "fp_1")], now=NOW)
    assert [each.previous for each in seen(ledger)] == [None]


def test_what_could_not_be_stated_is_said_again(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(deployments.home)
    watch = Watch(ledger)
    said = [say(deployments, "m-1")]
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "signer", lambda: None)
        with pytest.raises(MissingError):
            watch.take(said, now=NOW)
    assert len(watch.take(said, now=NOW)) == 1


def test_a_vendor_that_says_something_else_each_time_fills_no_log(
    deployments: Deployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "MOST", 3)
    ledger = Ledger(deployments.home)
    watch = Watch(ledger)
    noted = [len(watch.take([say(deployments, "m-1", f"fp_{n}")], now=NOW)) for n in range(6)]
    assert noted == [1, 1, 1, 0, 0, 0]
    assert Watch(ledger).take([say(deployments, "m-1", "fp_9")], now=NOW) == ()
    entries = [each.entry for each in seen(ledger)]
    bodies = [read_statement(ledger.home.registry_log().entry(entry)).body for entry in entries]
    assert [isinstance(body, Drift) and body.last for body in bodies] == [False, False, True]


def test_the_index_is_the_same_when_it_is_made_again(deployments: Deployments) -> None:
    ledger = Ledger(deployments.home)
    Watch(ledger).take([say(deployments, "m-1", "fp_1"), say(deployments, "m-3")], now=NOW)
    before = seen(ledger)
    ledger.rebuild()
    assert seen(ledger) == before


def test_a_spec_that_nobody_knows_expects_nothing(deployments: Deployments) -> None:
    ledger = Ledger(deployments.home)
    stranger = Reported("gone", "glr1:" + "0" * 64, 7, ExternalModel(vendor="x", model="y"), f"{CALL}0")
    assert len(Watch(ledger).take([stranger], now=NOW)) == 1
    assert seen(ledger, "gone")[0].previous is None
