"""Facts of models from a real registry, and decisions from them by the default policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from deploying_store import Store, opened
from genealog.core import records
from genealog.core.canonical import MAX_INTEGER, decode, timestamp
from genealog.core.ids import record_id, sha256_hex
from genealog.core.states import State
from genealog.policy.assessing import assess
from genealog.policy.decide import Policies
from genealog.policy.document import Input
from genealog.policy.facts import Facts, Used
from genealog.policy.model_facts import Reader
from genealog.store import schema


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened(tmp_path)


@pytest.fixture
def policies(store: Store) -> Iterator[Policies]:
    policies = Policies.open(store.home)
    yield policies
    policies.close()


@pytest.fixture
def facts(store: Store, policies: Policies) -> Facts:
    return Facts(store.home, policies.set, clock=store.time)


def test_a_registered_model_has_good_facts(store: Store, facts: Facts) -> None:
    (model,) = facts.models("one")
    assert model.registered
    assert (model.revoked, model.tainted) == (False, False)
    assert model.signed.own == ("owner",)
    assert (model.lineage.complete, model.lineage.to_data) == (True, False)  # it came from outside
    assert (model.pickle.scanned, model.pickle.unsafe) == (True, 0)


def test_what_nobody_registered_has_none(facts: Facts) -> None:
    (model,) = facts.models(Used("glf1:" + "0" * 64))
    assert not model.registered
    assert model.signed.own == ()
    assert (model.lineage.complete, model.pickle.scanned, model.base.needed) == (False, False, True)


def test_it_is_judged(store: Store, facts: Facts, policies: Policies) -> None:
    actor = facts.actor(store.signer().keyid)
    document = facts.document(
        "promote", deployment="prod/bot", used=[Used(store.registry.resolve("one").id)], actor=actor
    )
    judged = policies.judge(document)
    assert judged.document.subject.models == 1


def run(store: Store, made: str, *events: records.Event, kind: str = "finetune", **end: Any) -> None:
    """Register an execution with these events, named after what it makes."""
    start = records.Execution(
        kind=kind, started_at=timestamp(store.now), nonce=sha256_hex(made.encode())[:32], name=made
    )
    ended = {"ended_at": timestamp(store.now), "exit": "succeeded"} | end
    body = records.ExecutionEnd(execution=record_id(start), events=events, **ended)
    for each in (start, body):
        store.registry.append(each, signer=store.signer(), name=made)


def event(artifact: str, direction: Any, role: str, state: State = State.STATED) -> records.Event:
    return records.Event(artifact=artifact, direction=direction, role=role, state=state)


def artifact(store: Store, name: str, kind: str, source: str | None = None) -> str:
    (store.folder / name).mkdir()
    (store.folder / name / "file").write_text(name)
    return store.registry.add(store.folder / name, kind=kind, source=source).id


def test_lineage_leads_to_data_where_every_training_names_some(store: Store, facts: Facts) -> None:
    data = artifact(store, "data", "dataset")
    tuned = artifact(store, "tuned", "model")
    scratch = artifact(store, "scratch", "model")
    run(store, "scratch", event(data, "in", "data"), event(scratch, "out", "model"), kind="pretrain")
    run(store, "tuned", event(scratch, "in", "base"), event(tuned, "out", "model"))
    told = {model.name: model.lineage for model in facts.models("scratch", "tuned", "one")}
    assert (told["scratch"].complete, told["scratch"].to_data) == (True, True)
    assert (told["tuned"].complete, told["tuned"].to_data) == (True, False)  # that run names no data
    assert (told["one"].complete, told["one"].to_data) == (True, False)  # it came from outside


def test_a_base_matches_only_where_it_is_the_one(store: Store, facts: Facts) -> None:
    adapter = artifact(store, "adapter", "adapter")
    one, two = (store.registry.resolve(name).id for name in ("one", "two"))
    run(store, "adapter", event(one, "in", "base"), event(adapter, "out", "adapter"), kind="adapter-train")
    uses = [Used(adapter, "adapter", (one, None)), Used(adapter, "adapter", (two, None)), Used(adapter)]
    bases = [model.base for model in facts.models(*uses)]
    assert [(base.needed, base.state, base.matches) for base in bases] == [
        (True, "stated", True), (True, "stated", False), (True, "stated", False),
    ]  # fmt: skip


def test_an_evaluation_is_as_old_as_it_says_and_as_old_as_can_be_if_it_lies_ahead(store: Store, facts: Facts) -> None:
    one = store.registry.resolve("one").id
    run(store, "safety", event(one, "in", "model"), kind="evaluate", measurements={"score": "0.9"})
    store.tick(90)
    (model,) = facts.models("one")
    assert (model.evaluations["safety"].age_seconds, model.evaluations["safety"].measurements) == (90, {"score": "0.9"})
    run(store, "ahead", event(one, "in", "model"), kind="evaluate", ended_at="2099-01-01T00:00:00.000Z")
    (model,) = facts.models("one")
    assert model.evaluations["ahead"].age_seconds == MAX_INTEGER
    run(store, "claimed", event(one, "in", "model", State.CLAIMED), kind="evaluate")
    assert "claimed" not in facts.models("one")[0].evaluations


def test_only_what_was_evaluated_is_evaluated(store: Store, facts: Facts) -> None:
    one, two = (store.registry.resolve(name).id for name in ("one", "two"))
    adapter = artifact(store, "adapter", "adapter")
    run(store, "judged", event(one, "in", "model"), event(two, "in", "judge"), kind="evaluate")
    run(store, "tuned", event(one, "in", "base"), event(adapter, "in", "adapter"), kind="evaluate")
    run(store, "plain", event(two, "in", "base"), kind="evaluate")
    first, second, third = (facts.models(name)[0].evaluations.keys() for name in ("one", "two", "adapter"))
    assert (first, second, third) == ({"judged"}, {"plain"}, {"tuned"})


def test_what_a_revoked_key_said_is_no_fact(store: Store, facts: Facts) -> None:
    store.registry.add_signer("lab", "Lab")
    lab = store.signer("lab")
    store.registry.sign("one", signer=lab)
    assess(store.registry, "one", licence="MIT", tier="high", purposes=["support"], signer=lab)
    (model,) = facts.models("one")
    assert (model.signed.own, model.licence, model.tier) == (("owner", "Lab"), "mit", "high")
    store.registry.revoke_key(lab.keyid, reason="lost")
    (model,) = facts.models("one")
    assert (model.signed.own, model.licence, model.purposes) == (("owner",), "", ())


def test_the_last_assessment_holds_whole(store: Store, facts: Facts) -> None:
    assess(store.registry, "one", licence="mit", purposes=["support"])
    assess(store.registry, "one", tier="limited")
    (model,) = facts.models("one")
    assert (model.licence, model.tier, model.purposes) == ("", "limited", ())


def test_a_claimed_licence_is_no_licence(store: Store, facts: Facts) -> None:
    (store.folder / "claiming").mkdir()
    (store.folder / "claiming" / "file").write_text("x")
    store.registry.add(store.folder / "claiming", kind="model", claims={"license": "mit"})
    assert facts.models("claiming")[0].licence == ""


def test_approvals_are_independent_of_who_asks_and_who_made_it(store: Store, facts: Facts) -> None:
    store.registry.add_signer("security", "Security")
    used = [Used(store.registry.resolve("one").id)]
    document = facts.document(
        "promote", deployment="prod/bot", used=used, actor=facts.actor(store.signer().keyid),
        approvals=["owner", "Security", "Security"],
    )  # fmt: skip
    assert [(each.by, each.independent) for each in document.approvals] == [("owner", False), ("Security", True)]


def test_an_open_incident_is_counted_for_its_deployment_and_its_models(store: Store, facts: Facts) -> None:
    store.deploy("bot", "one")
    one, two = (store.registry.resolve(name).id for name in ("one", "two"))
    store.incidents.open("case", deployment="bot", reason="wrong answers")
    counts = [facts.incidents(*asked).open for asked in (("bot", [two]), ("other", [one]), ("other", [two]))]
    assert counts == [1, 1, 0]
    store.incidents.close("case", reason="mended")
    assert facts.incidents("bot", [one]).open == 0


def test_facts_are_kept_while_nothing_changes_them(store: Store, facts: Facts, monkeypatch: Any) -> None:
    facts.models("one")
    read: list[str] = []
    known = Reader.known

    def count(self: Reader, artifact: str, **more: Any) -> Any:
        read.append(artifact)
        return known(self, artifact, **more)

    monkeypatch.setattr(Reader, "known", count)
    beat = records.Heartbeat(log="calls", size=0, at=timestamp(store.now), emitters=())
    store.registry.append(beat, signer=store.signer(), name="calls")
    facts.models("one")
    assert read == []
    store.registry.revoke("one", reason="poisoned")
    assert facts.models("one")[0].revoked
    assert len(read) == 1


def test_what_a_decision_names_can_be_fetched_and_asked_again(store: Store, policies: Policies) -> None:
    store.deploy("bot", "one")
    rows = store.registry.ledger.index().rows(select(schema.decision.c.id))
    decision = store.registry.statement(store.registry.leaf(rows[-1]["id"])).body
    assert isinstance(decision, records.Decision)
    version = store.registry.resolve(str(decision.policy))
    files = {entry.path: store.home.objects.get(entry.sha256) for entry in store.registry.manifest(version).files}
    assert files == policies.set.files
    document = decode(store.home.objects.get(str(decision.input)), Input)
    again = policies.judge(document).decision("bot", decision.at)
    assert again == decision


class Broken:
    """An engine that fails in a way of its own."""

    name = "broken 1"

    def evaluate(self, document: bytes) -> object:
        raise RecursionError(len(document))

    def close(self) -> None:
        """Nothing is held."""


def test_an_engine_that_fails_has_said_no(store: Store, facts: Facts, policies: Policies) -> None:
    used = [Used(store.registry.resolve("one").id)]
    document = facts.document("deploy", deployment="bot", used=used, actor=facts.actor(""))
    judged = Policies(policies.set, Broken()).judge(document)
    assert (judged.verdict.allow, judged.verdict.code) == (False, "policy-error")
