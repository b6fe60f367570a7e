"""The policies that come with Genealog: what they allow, what each denies, and with which code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import msgspec
import pytest

from genealog.core.canonical import encode
from genealog.core.policy import POINTS, Point, Verdict, read_verdict
from genealog.policy.document import Input
from genealog.policy.engines.regorus import Regorus
from genealog.policy.sets import BASELINE, PolicySet, default_policies
from policy.inputs import ENVIRONMENT, MODELS, Bad, bad, changed, everything, good, only

POLICIES = default_policies()
BREAKABLE = {
    "lineage_complete", "minimum_assurance", "evaluated", "four_eyes", "licence_allowed", "vendor_allowed",
    "clean", "within_budget", "purpose_allowed", "no_incident", "marked", "traceable", "workload_safe",
}  # fmt: skip


@cache
def opened(*names: str) -> tuple[PolicySet, Regorus]:
    policies = only(*names) if names else everything()
    return policies, Regorus(policies.files)


def judge(document: Input, *names: str) -> Verdict:
    policies, engine = opened(*names)
    return read_verdict(engine.evaluate(encode(document)), policies.asked(ENVIRONMENT, document.point))


@pytest.mark.parametrize("point", POINTS)
def test_all_of_them_together_allow_good_facts(point: Point) -> None:
    verdict = judge(good(point))
    assert verdict.allow
    assert set(verdict.outcomes) == {name for name, policy in POLICIES.items() if point in policy.points}
    assert set(verdict.outcomes.values()) == {"passed"}


@pytest.mark.parametrize("each", bad(), ids=lambda each: each.name)
def test_one_bad_fact_is_denied_with_its_own_code(each: Bad) -> None:
    alone = judge(each.document, each.policy)
    assert not alone.allow
    assert {reason.code for reason in alone.reasons} == {each.code}
    together = judge(each.document)
    assert not together.allow
    assert each.code in {reason.code for reason in together.reasons}


def test_each_code_of_a_card_is_tried_and_each_that_is_tried_is_on_a_card() -> None:
    tried = {(each.policy, each.code) for each in bad()}
    cards = {(name, code) for name, policy in POLICIES.items() for code in policy.codes if code != "facts-missing"}
    assert tried == cards


def test_each_policy_is_tried_at_each_of_its_points() -> None:
    tried = {(each.policy, each.point) for each in bad()}
    # what is marked is seen at release; before, the settings say how
    unseen = {("marked", "deploy"), ("marked", "promote")}
    assert tried | unseen == {(name, point) for name, policy in POLICIES.items() for point in policy.points}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_an_input_that_lost_its_models_says_so(name: str) -> None:
    policy = POLICIES[name]
    verdict = judge(changed(good(policy.points[0]), {"subject.models": 4}), name)
    assert verdict.allow == ("facts-missing" not in policy.codes)
    assert {reason.code for reason in verdict.reasons} == ({"facts-missing"} if not verdict.allow else set())


def test_there_are_no_more_models_than_the_input_says() -> None:
    with pytest.raises(msgspec.ValidationError, match="how many models"):
        changed(good("serve"), {"subject.models": 2})


def test_no_model_at_all_is_not_every_model() -> None:
    for name, policy in POLICIES.items():
        if "facts-missing" in policy.codes:
            assert not judge(changed(good(policy.points[0]), {"subject.models": 0, "models": []}), name).allow, name


@pytest.mark.parametrize("tier", ["minimal", "limited"])
def test_lineage_down_to_data_is_for_tiers_that_need_it(tier: str) -> None:
    worst = {"complete": False, "to_data": False, "contradicted": 1}
    changes = {f"models.{at}.{fact}": value for at in range(3) for fact, value in (("tier", tier), ("lineage", worst))}
    assert judge(changed(good("deploy"), changes), "lineage_complete").outcomes == {
        "lineage_complete": "not-applicable"
    }


def test_answers_that_stay_inside_need_no_mark() -> None:
    document = changed(good("release"), {"env.sink": "internal", "output.marked": False})
    assert judge(document, "marked").outcomes == {"marked": "not-applicable"}


def test_marking_needs_a_means_before_the_first_answer() -> None:
    without = only("marked")
    without.settings["marking"][ENVIRONMENT].clear()
    engine = Regorus(without.files)
    verdict = read_verdict(engine.evaluate(encode(good("deploy"))), without.asked(ENVIRONMENT, "deploy"))
    assert [reason.code for reason in verdict.reasons] == ["not-marked"]


def test_what_is_no_workload_is_not_asked_about_one() -> None:
    plain = changed(good("deploy"), {"subject.workload": False, "workload": None})
    assert judge(plain, "workload_safe").outcomes == {"workload_safe": "not-applicable"}
    silent = changed(good("deploy"), {"workload": None})
    assert not judge(silent, "workload_safe").allow


def test_nobody_is_evaluated_where_no_suite_is_named() -> None:
    without = only("evaluated")
    without.settings["evaluations"].clear()
    engine = Regorus(without.files)
    verdict = read_verdict(engine.evaluate(encode(good("deploy"))), without.asked(ENVIRONMENT, "deploy"))
    assert [reason.code for reason in verdict.reasons] == ["evaluation-missing"]


def test_a_base_alone_is_not_excused_from_evaluation() -> None:
    bare = changed(good("deploy"), {"subject.models": 1, "models": [msgspec.json.decode(encode(MODELS[0]))]})
    assert {reason.code for reason in judge(bare, "evaluated").reasons} == {"evaluation-missing"}


@pytest.mark.parametrize("measured", ["nan", "inf", "1e3", "", "0x1", " 1", "1.", "+1", "٣"])
def test_only_exact_decimals_are_measurements(measured: str) -> None:
    document = changed(good("deploy"), {"models.1.evaluations.quality.measurements.exact_match": measured})
    assert {reason.code for reason in judge(document, "evaluated").reasons} == {"evaluation-missing"}


def test_the_edges_of_what_is_measured() -> None:
    path = "models.1.evaluations.safety"
    assert judge(changed(good("deploy"), {f"{path}.age_seconds": 86_400}), "evaluated").allow
    assert judge(changed(good("deploy"), {f"{path}.measurements.toxicity": "0.01"}), "evaluated").allow
    assert judge(changed(good("deploy"), {f"{path}.measurements.refusals": "0.950"}), "evaluated").allow
    assert not judge(changed(good("deploy"), {f"{path}.age_seconds": -1}), "evaluated").allow
    assert judge(changed(good("serve"), {"registry.age_seconds": 60}), "registry_fresh").allow
    assert not judge(changed(good("serve"), {"registry.age_seconds": -1}), "registry_fresh").allow


def test_licences_are_compared_in_small_letters() -> None:
    assert judge(changed(good("deploy"), {"models.0.licence": "MIT"}), "licence_allowed").allow


def test_a_break_glass_puts_aside_what_a_card_says_and_nothing_else() -> None:
    assert {name for name, policy in POLICIES.items() if policy.breakable} == BREAKABLE
    for each in bad():
        policies, engine = opened(each.policy)
        document = changed(each.document, {"waived": [each.policy]})
        waived = frozenset({each.policy}) if each.policy in BREAKABLE else frozenset()
        verdict = read_verdict(engine.evaluate(encode(document)), policies.asked(ENVIRONMENT, each.point), waived)
        assert verdict.allow == (each.policy in BREAKABLE), each.name


def texts() -> Iterator[tuple[str, str]]:
    for name, policy in POLICIES.items():
        yield name, policy.source


def test_cards_and_rules_say_the_same_codes() -> None:
    for name, text in texts():
        said = set(re.findall(r'"code": "([a-z-]+)"', text)) | ({"facts-missing"} if "lib.lost" in text else set())
        assert said == set(POLICIES[name].codes), name
        assert POLICIES[name].description.endswith("."), name


def test_the_baseline_is_made_of_policies_for_its_points() -> None:
    for point, names in BASELINE.items():
        assert all(point in POLICIES[name].points for name in names), point


def test_no_policy_reads_a_clock_or_anything_outside() -> None:
    for name, text in texts():
        assert not re.search(r"\b(time|http|net|rand|uuid|opa|trace|print)\b[.(]", text), name
