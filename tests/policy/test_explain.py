"""What a policy's answer rests on, and what would have to be otherwise: found by asking, and true when it is tried."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from genealog.core.canonical import encode
from genealog.core.policy import read_verdict
from genealog.policy.engines.regorus import Regorus
from genealog.policy.explain import Explained, explain
from genealog.policy.paths import with_value
from policy.inputs import ENVIRONMENT, Bad, bad, changed, everything, good, only


def plain(document: object) -> Any:
    return msgspec.json.decode(encode(document))


def of(document: Any, *names: str, limit: float = 100_000) -> list[Explained]:
    policies = only(*names) if names else everything()
    clock = itertools.count().__next__  # a second for each question whether the time is over
    return explain(policies, Regorus(policies.files), document, limit, clock=clock)


ONE_EACH = list({(each.policy, each.code): each for each in bad() if each.code != "facts-missing"}.values())


@pytest.mark.parametrize("each", ONE_EACH, ids=lambda each: each.name)
def test_what_would_have_to_be_otherwise_is_enough_and_all_of_it_is_needed(each: Bad) -> None:
    document = plain(each.document)
    (found,) = of(document, each.policy)
    assert found.outcome == "denied"
    assert each.code in {reason.code for reason in found.reasons}
    assert found.otherwise
    policies = only(each.policy)
    engine = Regorus(policies.files)

    def allows(changes: Any) -> bool:
        asked = document
        for change in changes:
            way = tuple(int(step) if step.isdigit() else step for step in change.path.split("."))
            asked = with_value(asked, way, change.after)
        answer = engine.evaluate(msgspec.json.encode(asked))
        return read_verdict(answer, policies.asked(ENVIRONMENT, each.point)).allow

    assert allows(found.otherwise)
    for at in range(len(found.otherwise)):
        assert not allows(found.otherwise[:at] + found.otherwise[at + 1 :])


def test_several_facts_are_named_where_one_is_not_enough() -> None:
    bare = changed(good("deploy"), {"models.0.revoked": True, "models.1.tainted": True})
    (found,) = of(plain(bare), "not_revoked")
    assert {str(change) for change in found.otherwise} == {
        "models.0.revoked: true → false", "models.1.tainted: true → false",
    }  # fmt: skip


def test_what_it_rests_on_is_what_it_reads() -> None:
    found = {each.policy: each for each in of(plain(good("serve")))}
    assert found["registry_fresh"].rests_on == ("env.name", "point", "registry.age_seconds", "registry.stale")
    assert found["registry_fresh"].settings == ("registry_age_seconds",)
    assert found["within_budget"].rests_on == ("call.budget", "call.budget_left", "env.name", "point")
    assert all(each.otherwise == () and each.reasons == () for each in found.values())


def test_where_no_fact_helps_nothing_is_made_up() -> None:
    lost = plain(changed(good("serve"), {"subject.models": 4}))
    (found,) = of(lost, "not_revoked")
    assert (found.outcome, found.otherwise, found.cut) == ("denied", (), False)


def test_a_search_that_is_cut_short_says_so() -> None:
    denied = plain(changed(good("serve"), {"models.2.revoked": True}))
    (whole,) = of(denied, "not_revoked")
    assert (bool(whole.otherwise), whole.cut) == (True, False)
    (short,) = of(denied, "not_revoked", limit=10)
    assert (short.otherwise, short.cut) == ((), True)
    assert set(short.rests_on) != set(whole.rests_on)
