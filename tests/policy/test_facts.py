"""Facts of models from a real registry, and decisions from them by the default policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploying_store import Store, opened
from genealog.policy.decide import Policies
from genealog.policy.facts import Facts, Used


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
